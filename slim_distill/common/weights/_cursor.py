"""One file read in order, with every length checked against what is really left before memory is taken for it."""

import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from slim_distill.common.errors import WeightsError

__all__ = ["Cursor", "element_count", "open_cursor", "read_small", "widen_bfloat16"]

MAX_RANK = 32
MAX_BYTES = 1 << 62


class Cursor:
    """Reader of `size` bytes of `stream`; `where` starts every message.

    `read`, `readline` and `tell` follow the file protocol but never return, or allocate, more than is left.
    """

    def __init__(self, stream: BinaryIO, size: int, where: str) -> None:
        self._stream = stream
        self._at = 0
        self.size = size
        self.where = where

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self.size - self._at

    def tell(self) -> int:
        """Bytes read so far."""
        return self._at

    def error(self, problem: str) -> WeightsError:
        """Return (not raise) an error that says where, at which byte, and what."""
        return WeightsError(f"{self.where}: at byte {self._at} of {self.size}: {problem}")

    def read(self, count: int = -1) -> bytes:
        """Return up to `count` bytes (all that is left if negative)."""
        data = self._stream.read(self.left if count < 0 else min(count, self.left))
        self._at += len(data)
        return data

    def readline(self) -> bytes:
        """Return the bytes up to and with the next line end."""
        data = self._stream.readline(self.left)
        self._at += len(data)
        return data

    def take(self, count: int, what: str) -> bytes:
        """Return exactly `count` bytes.

        Raises:
            WeightsError: fewer are left; the message names `what` they were for.
        """
        self._require(count, what)
        data = self.read(count)
        if len(data) != count:
            raise self.error(f"the file shrank while {what} was read")
        return data

    def number(self, kind: str, what: str) -> int:
        """Return one integer of `struct` format `kind`, such as "<Q"."""
        return int(struct.unpack(kind, self.take(struct.calcsize(kind), what))[0])

    def array(self, dtype: np.dtype, shape: Sequence[int], what: str) -> np.ndarray:
        """Return the next bytes as an array of its own memory.

        Raises:
            WeightsError: the shape is impossible, or needs more bytes than are left.
        """
        try:
            count = element_count(shape, dtype.itemsize)
        except ValueError as cause:
            raise self.error(f"{what}: {cause}") from None
        self._require(count * dtype.itemsize, f"{what} of shape {list(shape)} {dtype.name}")
        raw = np.empty(count * dtype.itemsize, dtype=np.uint8)
        got = self._stream.readinto(raw.data)  # type: ignore[attr-defined]
        if got != raw.size:
            raise self.error(f"the file shrank while {what} was read")
        self._at += got
        if dtype == np.bool_:
            return (raw != 0).reshape(tuple(shape))
        return raw.view(dtype).reshape(tuple(shape))

    def _require(self, count: int, what: str) -> None:
        if count > self.left:
            raise self.error(f"truncated: {what} needs {count} bytes, {self.left} are left")


def element_count(shape: Sequence[int], itemsize: int) -> int:
    """Return the number of elements of an array of `shape`.

    Raises:
        ValueError: too many axes, a negative axis, or more bytes than a file can have.
    """
    if len(shape) > MAX_RANK:
        raise ValueError(f"{len(shape)} dimensions; at most {MAX_RANK} are believable")
    count, size = 1, itemsize
    for axis in shape:
        if axis < 0:
            raise ValueError(f"negative dimension {axis}")
        count *= axis
        size *= max(axis, 1)
        if size > MAX_BYTES:
            raise ValueError(f"dimensions {list(shape)} overflow: more than {MAX_BYTES} bytes")
    return count


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given as uint16 bits, as float32 (exact): NumPy has no bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@contextmanager
def open_cursor(path: Path) -> Iterator[Cursor]:
    """Open a regular file for reading from its start.

    Raises:
        WeightsError: it is missing, unreadable, or a pipe or device.
    """
    try:
        # Looked at before opening: opening a pipe waits for its other end.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise WeightsError(f"{path}: not a regular file")
        stream = path.open("rb")
    except OSError as cause:
        raise WeightsError(f"{path}: cannot be read: {cause.strerror}") from cause
    with stream:
        try:
            yield Cursor(stream, status.st_size, str(path))
        except OSError as cause:
            raise WeightsError(f"{path}: cannot be read: {cause.strerror}") from cause


def read_small(path: Path, limit: int, what: str) -> bytes:
    """Return a whole file that must not have more than `limit` bytes.

    Raises:
        WeightsError: it is larger, or cannot be read.
    """
    with open_cursor(path) as cursor:
        if cursor.size > limit:
            raise WeightsError(f"{path}: {what} has {cursor.size} bytes; more than {limit} is not believable")
        return cursor.read()
