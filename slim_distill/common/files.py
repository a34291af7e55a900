"""Writing files so that a crash, a full disk or a second process never leaves half of one behind."""

import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from slim_distill.common.errors import SlimDistillError
from slim_distill.common.resources import explain

__all__ = [
    "atomic_folder",
    "atomic_write",
    "cache_folder",
    "clean_folder",
    "file_lock",
    "lock_held",
    "make_folder",
    "make_writable",
    "recover_folder",
    "remove_folder",
]

logger = logging.getLogger("slim_distill.files")

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")
_PATIENCE_S = 2.0  # for a process that is just ending
_ASIDE = re.compile(r"\.(.+)\.old")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return where downloads and unpacked archives go.

    It is `cache_dir` if given, else $SLIM_DISTILL_CACHE, else ~/.cache/slim_distill/weights. Nothing is created.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("SLIM_DISTILL_CACHE") or "~/.cache/slim_distill/weights").expanduser()


@contextmanager
def atomic_write(
    path: str | Path, mode: str = "wb", *, error: type[SlimDistillError] = SlimDistillError, sync: bool = True
) -> Iterator[IO[Any]]:
    """Write a file that is either complete or not there; what was at `path` before stays until the new one is on disk.

    The bytes go to a temporary file beside `path` (`handle.name` for code that wants a name), which is flushed to disk
    and renamed over `path`. Any exception inside the block removes the temporary file and leaves `path` alone.

    Args:
        path: the file to write; a symbolic link is followed, missing parent folders are made.
        mode: "wb", or "w" for UTF-8 text.
        error: the class raised for failures of the file system.
        sync: wait until the disk has it; without, a power cut may leave the old file or an empty one.

    Raises:
        SlimDistillError (or `error`): the disk is full, the folder is read-only, ...; names path and cause.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write: mode {mode!r}; known: 'w', 'wb'")
    path = Path(os.path.realpath(path))
    temporary = _temporary(path)
    left = "what was there before is unchanged"
    if path.exists() and not path.is_file():
        # Renaming over a device or a pipe would take it away from everybody.
        raise error(f"cannot write {path}: it is {'a folder' if path.is_dir() else 'not a regular file'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            if sync:
                os.fsync(handle.fileno())
        temporary.replace(path)
        left = "the new file is there, but a power cut may still undo it"
        if sync:
            _sync(path.parent)
    except OSError as cause:
        raise error(f"cannot write {path}: {explain(cause)}; {left}") from cause
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
    aside, temporary = _aside(path), _temporary(path)
    moved_in = False
    try:
        recover_folder(path)
        make_folder(path.parent)
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        if path.exists():
            path.rename(aside)
        temporary.rename(path)
        moved_in = True
        _sync(path.parent)
    except OSError as cause:
        _undo(path, temporary if moved_in else None)
        raise error(f"cannot write folder {path}: {explain(cause)}; what was there before is unchanged") from cause
    finally:
        _discard(temporary)
    _discard(aside)


def _undo(path: Path, moved_from: Path | None) -> None:
    """After a failure inside `atomic_folder`, put what was at `path` back; a disk that refuses this too is logged."""
    try:
        if moved_from is not None:
            path.rename(moved_from)
        recover_folder(path)
    except OSError as cause:
        logger.warning("cannot bring %s back yet: %s; the next start does", path, explain(cause))


def make_folder(path: Path) -> None:
    """Make a folder and its parents, and see to it that they outlast a power cut.

    Raises:
        OSError: the file system refuses.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync(path.parent)


def remove_folder(path: Path, *, error: type[SlimDistillError] = SlimDistillError) -> None:
    """Remove a folder so that it is whole or gone at every moment; a crash leaves at most what `clean_folder` removes.

    Raises:
        SlimDistillError (or `error`): the file system refuses.
    """
    temporary = _temporary(path)
    try:
        path.rename(temporary)
        shutil.rmtree(temporary)
    except OSError as cause:
        raise error(f"cannot remove {path}: {explain(cause)}") from cause


def clean_folder(folder: Path) -> None:
    """Clear what killed writes left directly inside a folder: bring old folders back, remove temporary ones.

    Only one process may write to the folder.
    """
    for entry in sorted(folder.iterdir()):
        aside = _ASIDE.fullmatch(entry.name)
        if aside:
            recover_folder(entry.with_name(aside[1]))
        elif _TEMPORARY.fullmatch(entry.name):
            _discard(entry)


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
        make_folder(folder)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as cause:
        raise error(f"{what}: {folder} cannot be written ({cause.strerror}); choose another folder") from cause
    return folder


@contextmanager
def file_lock(path: str | Path, *, error: type[SlimDistillError] = SlimDistillError, busy: str = "") -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if missing, never removed).

    While another process has it this waits; with `busy`, the message for that case, only a moment.
    The lock belongs to the open file, so a killed process releases it.

    Raises:
        SlimDistillError (or `error`): the lock file cannot be made, or `busy`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("ab")
    except OSError as cause:
        raise error(f"cannot lock {path}: {explain(cause)}") from cause
    with handle:
        until = time.monotonic() + _PATIENCE_S
        while not _locked(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if not busy:
                logger.info("waiting for another process that holds %s", path)
                fcntl.flock(handle, fcntl.LOCK_EX)
                break
            if time.monotonic() > until:
                raise error(busy)
            time.sleep(0.05)
        yield


def lock_held(path: Path) -> bool:
    """Whether some process holds the lock on the file `path`.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return not _locked(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False


def _locked(handle: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex}.tmp")


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


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
        logger.warning("cannot remove the leftover %s: %s", path, explain(cause))
