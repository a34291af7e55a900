"""Unpacking downloaded archives into the cache: everything in them is believed to be hostile.

Only plain files and folders below the target exist in what is unpacked. An archive with anything else (a path that
leaves the target, a link, a device, the same name twice, a name that is not UTF-8), or one that grows beyond believable
bounds, is refused whole: nothing of it stays. Files are read in pieces, so memory does not depend on the archive.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from slim_distill.common._tar import ArchiveError, Member, Reader, read_tar
from slim_distill.common._zip import read_zip
from slim_distill.common.errors import WeightsError
from slim_distill.common.files import atomic_folder, cache_folder, file_lock

__all__ = ["Limits", "extract", "file_sha256", "safe_parts", "unpack"]

# Deflate cannot shrink by more than this factor, so a larger declared size is a lie.
MAX_DEFLATE = 1032
MAX_DEPTH = 16
MAX_PART_BYTES = 240


@dataclass(frozen=True)
class Limits:
    """What an archive of weights may reasonably hold.

    Attributes:
        members: files and folders.
        total_bytes: unpacked size of everything together.
        ratio: unpacked size by archive size; looked at once `ratio_from_bytes` are unpacked.
        ratio_from_bytes: see `ratio`.
    """

    members: int = 10_000
    total_bytes: int = 16 << 30
    ratio: float = 100.0
    ratio_from_bytes: int = 32 << 20


DEFAULT_LIMITS = Limits()


def unpack(archive: Path, cache_dir: str | Path | None = None, limits: Limits = DEFAULT_LIMITS) -> Path:
    """Return the folder in the cache that holds the unpacked archive, unpacking it unless that was done before.

    The folder is named by the archive's SHA-256, so another archive under the same name is another folder.

    Raises:
        WeightsError: the archive is refused, damaged, or cannot be written to the cache.
    """
    folder = cache_folder(cache_dir) / "unpacked" / file_sha256(archive)[:32]
    with file_lock(folder.with_name(f"{folder.name}.lock"), error=WeightsError):
        if not folder.is_dir():
            with atomic_folder(folder, error=WeightsError) as temporary:
                extract(archive, temporary, limits)
    return folder


def extract(archive: Path, into: Path, limits: Limits = DEFAULT_LIMITS) -> None:
    """Unpack a .tar, .tar.gz or .zip (told by content) into the empty folder `into`.

    The archive is read twice: it is written only when all of it has been found good. When writing fails, or the archive
    changes in between, `into` may hold a part: give it a folder of `atomic_folder`, as `unpack` does.

    Raises:
        WeightsError: the archive is damaged or must be refused; says which member and why.
    """
    try:
        for target in (None, into):
            with archive.open("rb") as raw:
                budget = _Budget(archive.stat().st_size, limits)
                with _members(raw, budget) as members:
                    _take(members, target, budget)
    except ArchiveError as cause:
        raise WeightsError(f"{archive}: archive refused, nothing of it is kept: {cause}") from cause
    except (zlib.error, gzip.BadGzipFile, EOFError) as cause:
        raise WeightsError(f"{archive}: archive refused, nothing of it is kept: damaged gzip data: {cause}") from cause


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a relative path with "/" that stays below its folder; "." is dropped.

    Raises:
        ValueError: the path is empty, absolute, has "..", a drive letter, a backslash or control characters, or is so
            long or deep that a file system would not take it.
    """
    if not name or not name.isprintable():
        raise ValueError("is empty or has control characters")
    if name.startswith("/"):
        raise ValueError("is an absolute path")
    if "\\" in name or name[1:2] == ":":
        raise ValueError("has a drive letter or a backslash")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ValueError("has '..'")
    if len(parts) > MAX_DEPTH or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        raise ValueError("is too deep or too long")
    return parts


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lower-case hexadecimal digits.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    except OSError as cause:
        raise WeightsError(f"{path}: cannot be read: {cause.strerror}") from cause
    return digest.hexdigest()


class _Budget:
    """Counts what is unpacked from an archive of `size` bytes against the limits."""

    def __init__(self, size: int, limits: Limits) -> None:
        self.size = size
        self.limits = limits
        self._spent = 0

    def declare(self, name: str, size: int) -> None:
        """Check the size that a member says it has, before reading it."""
        most = min(self.limits.total_bytes, self.size * MAX_DEFLATE)
        if size > most:
            raise ArchiveError(f"member {name!r:.80} declares {size} bytes; {most} are possible")

    def spend(self, count: int) -> None:
        """Count bytes that were unpacked."""
        self._spent += count
        if self._spent > self.limits.total_bytes:
            raise ArchiveError(f"it unpacks to more than {self.limits.total_bytes} bytes")
        if self._spent > max(self.limits.ratio_from_bytes, self.limits.ratio * self.size):
            raise ArchiveError(f"a compression bomb: its {self.size} bytes unpack to more than {self._spent}")


class _Counted:
    """A stream read forward, every byte counted."""

    def __init__(self, stream: Reader, budget: _Budget) -> None:
        self._stream = stream
        self._budget = budget

    def read(self, count: int, /) -> bytes:
        data = self._stream.read(count)
        self._budget.spend(len(data))
        return data


@contextmanager
def _members(raw: IO[bytes], budget: _Budget) -> Iterator[Iterable[Member]]:
    """Open an archive by its first bytes."""
    head = raw.read(2)
    raw.seek(0)
    if head == b"PK":
        yield read_zip(raw, budget.size, budget.spend)
    elif head == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=raw) as plain:
            yield read_tar(_Counted(plain, budget))
    else:
        yield read_tar(_Counted(raw, budget))


def _take(members: Iterable[Member], into: Path | None, budget: _Budget) -> None:
    """Check the members and, unless `into` is None, write them below it."""
    files: set[tuple[str, ...]] = set()
    folders: set[tuple[str, ...]] = {()}
    for count, member in enumerate(members):
        what = f"member {member.name!r:.80}"
        if count >= budget.limits.members:
            raise ArchiveError(f"it has more than {budget.limits.members} members")
        try:
            parts = safe_parts(member.name)
        except ValueError as cause:
            raise ArchiveError(f"{what}: the name {cause}") from cause
        budget.declare(member.name, member.size)
        parents = {parts[:depth] for depth in range(len(parts) + member.is_folder)}
        if parts in files or (parts in folders and not member.is_folder) or not parents.isdisjoint(files):
            raise ArchiveError(f"{what} occurs twice, or as both a file and a folder")
        for folder in sorted(parents - folders):
            folders.add(folder)
            if into is not None:
                into.joinpath(*folder).mkdir()
        if not member.is_folder:
            files.add(parts)
            _take_file(member, into.joinpath(*parts) if into is not None else None)


def _take_file(member: Member, target: Path | None) -> None:
    """Read a member to its end, and write it if it has a target."""
    size = 0
    with target.open("xb") if target is not None else nullcontext() as handle:
        for piece in member.pieces:
            size += len(piece)
            if handle is not None:
                handle.write(piece)
    if size != member.size:
        raise ArchiveError(f"member {member.name!r:.80} declares {member.size} bytes and has {size}")
