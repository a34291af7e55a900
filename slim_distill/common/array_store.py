"""Arrays on disk by key: bounded, checksummed, safe against crashes and damage. No Paddle here."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from slim_distill.common.errors import SlimDistillError

__all__ = ["ArrayStore", "digest_arrays"]

log = logging.getLogger(__name__)

_DIGEST = 16


class _DamagedError(SlimDistillError):
    """A file of the store does not hold what was written."""


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """A key that changes with any name, number type, shape or number of the arrays: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class ArrayStore:
    """Dicts of arrays by key, one file each, `FOLDER/GROUP/KE/KEY`, at most `max_bytes` in all groups together.

    When the bound is reached, groups that are not in use are deleted, the one that was opened longest ago first; when
    none is left, nothing more is stored. Least-recently-used would be worse: training goes through its data in rounds,
    and where a round is larger than the bound it would drop every entry just before it is asked for.

    A file is written beside its place and renamed, so that a crash leaves none half written, and begins with a
    checksum of all that follows. One process at a time stores in a folder; further ones only read.

    Args:
        folder: where the groups are; made when missing.
        groups: those in use; entries of one group go together.
        max_bytes: bound of the folder.

    Raises:
        SlimDistillError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, groups: Collection[str], max_bytes: int) -> None:
        self.folder, self.groups, self.max_bytes = folder, tuple(groups), max_bytes
        self._lock: IO[bytes] | None = None
        try:
            for group in self.groups:
                (folder / group).mkdir(parents=True, exist_ok=True)
                os.utime(folder / group)
            self._lock = (folder / "lock").open("ab")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.stop("another run stores in it; this one only reads")
        except OSError as error:
            raise SlimDistillError(f"cannot use the folder {folder}: {error.strerror or error}") from error
        self.used_bytes = _size(folder)

    @property
    def storing(self) -> bool:
        """Whether `put` still stores."""
        return self._lock is not None

    def get(self, group: str, key: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under a key, not to be written to; None where there are none. Damaged ones are deleted."""
        path = self._path(group, key)
        try:
            return _unpack(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, _DamagedError) as error:
            log.warning("the entry %s cannot be used (%s) and is made anew", path, error)
            path.unlink(missing_ok=True)
            return None

    def put(self, group: str, key: str, arrays: Mapping[str, np.ndarray]) -> bool:
        """Store arrays under a key, unless the store is full or its folder in use; returns whether it did."""
        data = _pack(arrays)
        if not self.storing or not self._make_room(len(data)):
            return False
        path = self._path(group, key)
        temporary = path.with_name(f".{key}.{os.getpid()}")
        try:
            path.parent.mkdir(exist_ok=True)
            # Not flushed to the disk at once: an entry that a power cut spoils is found by its checksum.
            temporary.write_bytes(data)
            before = path.stat().st_size if path.exists() else 0
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):  # the folder itself may be what is wrong
                temporary.unlink()
            self.stop(f"{error.strerror or error}; nothing more is stored")
            return False
        self.used_bytes += len(data) - before
        return True

    def stop(self, why: str) -> None:
        """Store nothing more, and say why; what is there can still be read."""
        if self._lock is not None:
            log.info("%s: %s", self.folder, why)
        self.close()

    def close(self) -> None:
        """Let other processes store here; reading goes on."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _path(self, group: str, key: str) -> Path:
        return self.folder / group / key[:2] / key

    def _make_room(self, size: int) -> bool:
        """Delete groups that are not in use until `size` bytes fit."""
        if self.used_bytes + size <= self.max_bytes:
            return True
        others = [path for path in self.folder.iterdir() if path.is_dir() and path.name not in self.groups]
        for group in sorted(others, key=lambda path: path.stat().st_mtime):
            log.info("%s: deleted to make room", group)
            shutil.rmtree(group)
            self.used_bytes = _size(self.folder)
            if self.used_bytes + size <= self.max_bytes:
                return True
        self.stop(f"full: {self.used_bytes / 1e9:.3g} of at most {self.max_bytes / 1e9:.3g} GB; nothing more is stored")
        return False


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # the run that stores here may rename or delete it right now
                total += Path(root, name).stat().st_size
    return total


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    header = json.dumps({name: (array.dtype.str, array.shape) for name, array in arrays.items()})
    parts = [header.encode(), b"\n", *(np.ascontiguousarray(array).tobytes() for array in arrays.values())]
    body = b"".join(parts)
    return hashlib.blake2b(body, digest_size=_DIGEST).digest() + body


def _unpack(data: bytes) -> dict[str, np.ndarray]:
    digest, body = data[:_DIGEST], memoryview(data)[_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise _DamagedError("its checksum is wrong")
    end = data.index(b"\n", _DIGEST) - _DIGEST
    arrays, offset = {}, end + 1
    for name, (dtype, shape) in json.loads(bytes(body[:end])).items():
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    return arrays
