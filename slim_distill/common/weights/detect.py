"""What a file is, by its first bytes."""

from pathlib import Path

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights._cursor import open_cursor

__all__ = ["detect"]

TAR_MAGIC_AT = 257
# Things that are often given by mistake, and what to do then.
MISTAKES = {
    b"<!": "a web page; the address probably showed an error or a licence page instead of the file",
    b"<html": "a web page; the address probably showed an error or a licence page instead of the file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the real file with 'git lfs pull'",
    b"{": "JSON, perhaps a program; give the .pdiparams file beside it",
    b"BZh": "compressed with bzip2; archives may be .tar, .tar.gz or .zip",
    b"\xfd7zXZ": "compressed with xz; archives may be .tar, .tar.gz or .zip",
    b"\x89HDF": "HDF5",
    b"\x08": "protobuf, perhaps a program or an ONNX model; give the file of its parameters",
    b"\x0a": "protobuf, perhaps a program; give the .pdiparams or __params__ file beside it",
}
READABLE = ".tar, .tar.gz, .zip, .pdparams (pickle), .pdiparams and other Paddle tensor records, .safetensors"


def detect(path: Path) -> str:
    """Return "zip", "gzip", "tar", "pickle", "safetensors" or "records" (Paddle's own tensor records).

    Raises:
        WeightsError: none of these; says what the file looks like.
    """
    with open_cursor(path) as cursor:
        head = cursor.read(512)
        size = cursor.size
    if not head:
        raise WeightsError(f"{path}: the file is empty")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head[TAR_MAGIC_AT:].startswith(b"ustar") or path.suffix == ".tar":
        return "tar"
    if head.startswith(b"\x80") and len(head) > 1 and 2 <= head[1] <= 5 and not _safetensors_length(head, size):
        return "pickle"
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    if head.startswith(b"\x00\x00\x00\x00") or path.suffix == ".pdiparams":
        return "records"
    looks = next(
        (what for magic, what in MISTAKES.items() if head.startswith(magic)), f"bytes {head[:8].hex(' ')} first"
    )
    raise WeightsError(f"{path}: not a weights file: {looks}; readable: {READABLE}")


def _safetensors_length(head: bytes, size: int) -> bool:
    """Whether a file whose first byte is also a pickle's starts with a plausible header length and "{"."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8
