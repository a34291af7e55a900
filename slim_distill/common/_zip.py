"""A strict reader of zip archives, on top of zipfile, that knows files and folders only."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from slim_distill.common._tar import ArchiveError, Member

__all__ = ["read_zip"]

PIECE = 1 << 20
MAX_DIRECTORY = 8 << 20
END, END_SIZE, MAX_COMMENT = b"PK\x05\x06", 22, 1 << 16
UTF8_FLAG, ENCRYPTED_FLAG = 0x800, 0x1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_zip(raw: IO[bytes], size: int, count: Callable[[int], None]) -> Iterator[Member]:
    """Yield the members of a zip archive of `size` bytes.

    Args:
        raw: the archive, seekable.
        size: its length, bytes.
        count: told the length of every piece that is unpacked; raises to stop.

    Raises:
        ArchiveError: a damaged archive, or a member that is neither a plain file nor a folder.
    """
    _check_directory(raw, size)
    with _damage():
        opened = zipfile.ZipFile(raw)
    with opened:
        for entry in opened.infolist():
            name = entry.orig_filename
            problem = _problem(entry)
            if problem is not None:
                raise ArchiveError(f"member {name!r:.80} is {problem}")
            yield Member(name, entry.file_size, name.endswith("/"), _content(opened, entry, count))


def _content(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, count: Callable[[int], None]) -> Iterator[bytes]:
    with _damage():
        stream = opened.open(entry)
    with stream:
        while True:
            with _damage():
                piece = stream.read(PIECE)
            if not piece:
                return
            count(len(piece))
            yield piece


@contextmanager
def _damage() -> Iterator[None]:
    """Give what zipfile raises for damaged archives one name."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError) as cause:
        # OSError: an entry that says it starts before the file does.
        raise ArchiveError(f"a damaged .zip: {cause}") from cause


def _problem(entry: zipfile.ZipInfo) -> str | None:
    """Say why a member cannot be taken."""
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link, device or pipe"
    if entry.flag_bits & ENCRYPTED_FLAG:
        return "encrypted"
    if entry.compress_type not in METHODS:
        return f"compressed by method {entry.compress_type}; known are 0 (stored) and 8 (deflate)"
    if not entry.flag_bits & UTF8_FLAG and not entry.orig_filename.isascii():
        return "named in another encoding than UTF-8"
    return None


def _check_directory(raw: IO[bytes], size: int) -> None:
    """Refuse a directory of members that would take long and much memory just to list, as zipfile does first."""
    raw.seek(max(size - END_SIZE - MAX_COMMENT, 0))
    tail = raw.read(END_SIZE + MAX_COMMENT)
    at = len(tail) - END_SIZE
    if at < 0 or tail[at : at + 4] != END or tail[-2:] != b"\0\0":
        at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_SIZE:
        raise ArchiveError("truncated: the directory at the end of the .zip is missing")
    length = int.from_bytes(tail[at + 12 : at + 16], "little")
    if length > MAX_DIRECTORY:
        raise ArchiveError(f"a .zip directory of {length} bytes (or zip64); at most {MAX_DIRECTORY} are read")
