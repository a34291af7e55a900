"""Writing files so that a crash, a full disk or a second process never leaves half of one behind."""

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from slim_distill.common.errors import SlimDistillError

__all__ = ["atomic_folder", "atomic_write", "cache_folder", "file_lock", "make_writable", "recover_folder"]

logger = logging.getLogger("slim_distill.files")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return where downloads and unpacked archives go.

    It is `cache_dir` if given, else $SLIM_DISTILL_CACHE, else ~/.cache/slim_distill/weights. Nothing is created.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("SLIM_DISTILL_CACHE") or "~/.cache/slim_distill/weights").expanduser()


@contextmanager
def atomic_write(
    path: str | Path, mode: str = "wb", *, error: type[SlimDistillError] = SlimDistillError
) -> Iterator[IO[Any]]:
    """Write a file that is either complete or not there; what was at `path` before stays until the new one is on disk.

    The bytes go to a temporary file beside `path` (`handle.name` for code that wants a name), which is flushed to disk
    and renamed over `path`. Any exception inside the block removes the temporary file and leaves `path` alone.

    Args:
        path: the file to write; a symbolic link is followed, missing parent folders are made.
        mode: "wb", or "w" for UTF-8 text.
        error: the class raised for failures of the file system.

    Raises:
        SlimDistillError (or `error`): the disk is full, the folder is read-only, ...; names path and cause.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write: mode {mode!r}; known: 'w', 'wb'")
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex}.tmp")
    if path.exists() and not path.is_file():
        # Renaming over a device or a pipe would take it away from everybody.
        raise error(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'not a regular file'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as cause:
        raise error(f"cannot write {path}: {_reason(cause)}; what was there before is unchanged") from cause
    finally:
        _discard(temporary)


@contextmanager
def atomic_folder(path: str | Path, *, error: type[SlimDistillError] = SlimDistillError) -> Iterator[Path]:
    """Yield an empty temporary folder that becomes `path`, with all files flushed to disk, when the block ends well.

    A folder already at `path` is moved aside to `.NAME.old`, the new one moved in, and the old one deleted: at every
    moment one complete folder exists, and `recover_folder` (called here too) brings it back after a crash between the
    two moves. Any exception inside the block removes the temporary folder and leaves `path` alone.
    Two writers of one folder must share a `file_lock`.

    Raises:
        SlimDistillError (or `error`): the disk is full, the parent is read-only, ...; names path and cause.
    """
    path = Path(os.path.abspath(path))
    aside = _aside(path)
    temporary = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex}.tmp")
    try:
        recover_folder(path)
        temporary.mkdir(parents=True)
        yield temporary
        _sync_tree(temporary)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        _sync(path.parent)
        _discard(aside)
    except OSError as cause:
        recover_folder(path)
        raise error(f"cannot write folder {path}: {_reason(cause)}; what was there before is unchanged") from cause
    finally:
        _discard(temporary)


def recover_folder(path: str | Path) -> bool:
    """Undo what a crash inside `atomic_folder(path)` left: bring the old folder back, or delete it if the new is there.

    Returns:
        Whether an old folder was brought back.
    """
    path = Path(os.path.abspath(path))
    aside = _aside(path)
    if not aside.exists():
        return False
    if path.exists():
        _discard(aside)
        return False
    aside.rename(path)
    _sync(path.parent)
    logger.warning("brought %s back after a write that did not finish", path)
    return True


def make_writable(folder: str | Path, what: str, *, error: type[SlimDistillError] = SlimDistillError) -> Path:
    """Make a folder unless it is there, and prove by a file that it can be written.

    Args:
        folder: which.
        what: the option or key that names it, for the message.
        error: the class to raise.

    Raises:
        SlimDistillError (or `error`): it cannot; names option, folder and cause.
    """
    folder = Path(folder)
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as cause:
        raise error(f"{what}: {folder} cannot be written ({cause.strerror}); choose another folder") from cause
    return folder


@contextmanager
def file_lock(path: str | Path, *, error: type[SlimDistillError] = SlimDistillError) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if missing, never removed); waits while another process has it.

    The lock belongs to the open file, so a killed process releases it.

    Raises:
        SlimDistillError (or `error`): the lock file cannot be made.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab")
    except OSError as cause:
        raise error(f"cannot lock {path}: {_reason(cause)}") from cause
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another process that holds %s", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _reason(cause: OSError) -> str:
    """Say what the system said, with the file it was about when that is known."""
    reason = cause.strerror or str(cause) or type(cause).__name__
    return f"{reason} ({cause.filename})" if cause.filename is not None else reason


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(root, name))
        _sync(Path(root))


def _discard(path: Path) -> None:
    """Remove a leftover; a failure is logged only, because the caller has a result or an error of its own."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink(missing_ok=True)
    except OSError as cause:
        logger.warning("cannot remove the leftover %s: %s", path, _reason(cause))
