"""A strict, streaming reader of tar archives that knows files and folders only.

Python's tarfile takes a damaged header for the end of the archive, reads extension headers of any size into memory, and
knows links and devices; for hostile input we want the opposite. Read are v7, ustar, GNU (long names) and pax archives.
Source: POSIX.1-2001 pax interchange format; the GNU tar manual, "Basic Tar Format".
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["ArchiveError", "Member", "Reader", "read_tar"]

BLOCK = 512
PIECE = 1 << 20
MAX_EXTENSION = 1 << 20
REGULAR = frozenset({b"0", b"\0"})
FOLDER = b"5"
PAX, PAX_GLOBAL, GNU_LONG_NAME = b"x", b"g", b"L"
REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"K": "a link",
    b"S": "a sparse file",
}


class ArchiveError(Exception):
    """An archive that is damaged or must be refused; says what is wrong, not where."""


class Reader(Protocol):
    """What is needed of a stream."""

    def read(self, count: int, /) -> bytes:
        """Return `count` bytes, fewer only at the end."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive: its name as written, its declared size, and its content, to be read before the next."""

    name: str
    size: int
    is_folder: bool
    pieces: Iterable[bytes]


@dataclass(frozen=True)
class _Header:
    name: bytes
    size: int
    kind: bytes


def read_tar(stream: Reader) -> Iterator[Member]:
    """Yield the members of a tar archive in order. What is not read of a member is skipped.

    Raises:
        ArchiveError: a damaged header, a missing end, or a member that is neither a file nor a folder.
    """
    pax: dict[str, bytes] = {}
    while any(block := _exactly(stream, BLOCK, "a header")):
        header = _parse(block)
        if header.kind in (PAX, PAX_GLOBAL, GNU_LONG_NAME):
            pax.update(_extension(stream, header))
            continue
        name, size = _text(pax.get("path", header.name)), header.size
        if "size" in pax:
            size = _decimal(pax["size"])
        pax = {}
        if header.kind not in REGULAR and header.kind != FOLDER:
            raise ArchiveError(f"member {name!r:.80} is {REFUSED.get(header.kind, f'of unknown kind {header.kind!r}')}")
        is_folder = header.kind == FOLDER or name.endswith("/")
        if is_folder and size:
            raise ArchiveError(f"folder {name!r:.80} has {size} bytes of content")
        content = _content(stream, size, name)
        yield Member(name, size, is_folder, content)
        for _ in content:
            pass
    while rest := stream.read(PIECE):
        if any(rest):
            raise ArchiveError("data follows the end of the tar archive")


def _parse(block: bytes) -> _Header:
    """Read one header: name 0:100, size 124:136, checksum 148:156, kind 156, magic 257:263, prefix 345:500."""
    unsigned = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    if _number(block[148:156], "the checksum") != unsigned:
        raise ArchiveError("a tar header with a wrong checksum: not a tar archive, or a damaged one")
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    return _Header(name, _number(block[124:136], "the size"), block[156:157])


def _extension(stream: Reader, header: _Header) -> dict[str, bytes]:
    """Read what a pax or GNU extension says about the next member: path and size matter, the rest is for tar."""
    if header.size > MAX_EXTENSION:
        raise ArchiveError(f"an extended header of {header.size} bytes; at most {MAX_EXTENSION} are believable")
    data = b"".join(_content(stream, header.size, "an extended header"))
    if header.kind == GNU_LONG_NAME:
        return {"path": data.split(b"\0")[0]}
    records = dict(_pax_records(data))
    if any(key.startswith("GNU.sparse") for key in records):
        raise ArchiveError("a sparse file")
    useful = {key: value for key, value in records.items() if key in ("path", "size")}
    if useful and header.kind == PAX_GLOBAL:
        raise ArchiveError("a global header that renames every member")
    return useful


def _pax_records(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (key, value) of records "LENGTH KEY=VALUE\\n"."""
    while data:
        digits, _, rest = data.partition(b" ")
        length = _decimal(digits[:20])
        record = data[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or length > len(data) or record[-1:] != b"\n" or not rest:
            raise ArchiveError("a damaged pax header")
        yield _text(key), value
        data = data[length:]


def _content(stream: Reader, size: int, name: str) -> Iterator[bytes]:
    """Yield `size` bytes and read over the padding of the last block."""
    left = size
    while left:
        piece = _exactly(stream, min(left, PIECE), f"member {name!r:.80}")
        left -= len(piece)
        yield piece
    if size % BLOCK:
        _exactly(stream, BLOCK - size % BLOCK, f"the padding of member {name!r:.80}")


def _exactly(stream: Reader, count: int, what: str) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise ArchiveError(f"truncated: the archive ends inside or before {what}")
    return data


def _number(field: bytes, what: str) -> int:
    """Read an octal field, or the base-256 form that starts with byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not all(byte in b"01234567" for byte in digits):
        raise ArchiveError(f"{what} of a tar header is not a number: {field!r}")
    return int(digits, 8) if digits else 0


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise ArchiveError(f"a number of a pax header is not one: {digits[:30]!r}")
    return int(digits)


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise ArchiveError(f"a name that is not UTF-8: {name[:80]!r}") from cause
