"""Checksums of weights: inside a safetensors file, beside a single file, in a hidden file of a folder.

A flipped bit in a number is still a number, and no format that Paddle knows can tell. So what we write carries a
SHA-256, and what is read is checked against whatever checksum is there:

1. `.safetensors`: over names, types, shapes and numbers, in the header's metadata, which other readers ignore;
2. a checkpoint: its `manifest.json`;
3. `FILE.sha256` beside a file, as `sha256sum FILE` prints it;
4. `.sha256` in a folder of one file per variable, as `sha256sum *` prints it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.archive import file_sha256
from slim_distill.common.download import check_sha256
from slim_distill.common.errors import WeightsError
from slim_distill.common.files import atomic_write
from slim_distill.common.manifest import MANIFEST, check_listed, read_manifest

__all__ = ["METADATA_KEY", "SUMS", "arrays_sha256", "check_arrays", "check_file", "check_folder", "write_beside"]

METADATA_KEY = "slim_distill.sha256"
SUMS = ".sha256"
_OURS = b'"slim_distill"'


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and numbers; the order does not matter."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.newbyteorder("<").str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def check_arrays(arrays: Mapping[str, np.ndarray], metadata: Any, where: str) -> None:
    """Check arrays against the checksum in a safetensors header's metadata, if there is one.

    Raises:
        WeightsError: it is another.
    """
    expected = metadata.get(METADATA_KEY) if isinstance(metadata, dict) else None
    if expected is not None and arrays_sha256(arrays) != expected:
        raise WeightsError(
            f"{where} is damaged: its numbers do not have the checksum of its header. If another program has changed "
            f"them on purpose, it should have removed {METADATA_KEY!r} from the metadata"
        )


def check_file(path: Path) -> None:
    """Check a file against `FILE.sha256` beside it, and against the manifest of the checkpoint that it is part of.

    Raises:
        WeightsError: it is damaged, or the checksum is.
    """
    check_sha256(path)
    manifest = path.parent / MANIFEST
    try:
        if _OURS not in manifest.read_bytes():
            return
        files = read_manifest(path.parent)["files"]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise WeightsError(f"{manifest} cannot be read: {error.strerror}") from error
    if path.name in files:
        check_listed(path.parent, files, [path.name])


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Check files of a folder against its hidden list of checksums, if there is one.

    Raises:
        WeightsError: one is damaged, or not in the list.
    """
    path = folder / SUMS
    if not path.is_file():
        return
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        sums = {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}); without it the files are taken as they are") from error
    for name in names:
        file = folder / name
        if name not in sums:
            raise WeightsError(f"{file} is not in {path}; remove that file if this one was added on purpose")
        if file.is_file() and file_sha256(file) != sums[name]:
            raise WeightsError(f"{file} is damaged: its SHA-256 is not that in {path}")


def write_beside(path: Path) -> None:
    """Write `FILE.sha256` beside a file that is complete.

    Raises:
        WeightsError: the file system refuses.
    """
    with atomic_write(path.with_name(path.name + SUMS), "w", error=WeightsError) as handle:
        handle.write(f"{file_sha256(path)}  {path.name}\n")
