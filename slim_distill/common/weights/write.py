"""Writing weights in the formats that Paddle and we read. Files and folders appear complete or not at all."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from slim_distill.common.archive import file_sha256, safe_parts
from slim_distill.common.errors import WeightsError
from slim_distill.common.files import atomic_folder, atomic_write
from slim_distill.common.names import pick
from slim_distill.common.weights.legacy import write_record
from slim_distill.common.weights.program import check_names
from slim_distill.common.weights.sums import METADATA_KEY, SUMS, arrays_sha256, write_beside

__all__ = ["FORMATS", "write_weights"]

# Read by every Paddle from 2.0; protocol 4 holds arrays of any size in one piece.
PICKLE_PROTOCOL = 4
FORMATS = ("pdparams", "safetensors", "folder")


def write_weights(path: str | Path, arrays: Mapping[str, np.ndarray], format: str | None = None) -> None:
    """Write arrays by name, with a checksum that `read_weights` checks (see `sums`).

    It is inside a safetensors file, in `.sha256` in a folder, and in `PATH.sha256` beside a .pdparams.

    Args:
        path: the file, or for "folder" the folder, which replaces one that is there.
        arrays: the arrays by name.
        format: "pdparams" (a pickled dictionary, for `paddle.load`), "safetensors", or "folder" (one file per variable,
            as Paddle 1.x saves them). None: by the suffix of `path`; none means folder.

    Raises:
        WeightsError: unknown format; a name or element type that the format cannot hold; or the file system refuses
            (what was at `path` is unchanged then).
    """
    path = Path(path)
    if format is None:
        format = path.suffix.removeprefix(".") or "folder"
    write = pick(_WRITERS, format, f"{path}: weights format", WeightsError)
    if not arrays:
        raise WeightsError(f"{path}: no arrays to write")
    check_names(list(arrays), str(path))
    write(path, {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()})


def _write_pickle(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc" or array.dtype == np.uint16:
            raise WeightsError(
                f"{path}: {name}: a .pdparams cannot hold {array.dtype} (Paddle takes uint16 for bfloat16)"
            )
    _forget_old_sum(path)
    with atomic_write(path, error=WeightsError) as handle:
        pickle.dump(dict(arrays), handle, protocol=PICKLE_PROTOCOL)
    write_beside(path)


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _forget_old_sum(path)
    with atomic_write(path, error=WeightsError) as handle:
        try:
            handle.write(safetensors.numpy.save(dict(arrays), {METADATA_KEY: arrays_sha256(arrays)}))
        except (KeyError, safetensors.SafetensorError) as cause:
            kinds = sorted({str(array.dtype) for array in arrays.values()})
            raise WeightsError(
                f"{path}: safetensors cannot hold this: {cause}; element types given: {kinds}"
            ) from cause


def _check_replaced(path: Path) -> None:
    """Refuse to replace a folder that holds anything else than what `_write_folder` writes: it would be lost."""
    if path.exists() and not path.is_dir():
        raise WeightsError(f"{path}: a folder would be written here, and there is a file; give another name")
    for file in path.rglob("*"):
        if not file.is_dir() and file.name != SUMS and not _is_record(file):
            raise WeightsError(
                f"{path}: the folder holds {file.relative_to(path)}, which is no variable, and would be replaced with "
                "all that is in it; give the name of a new folder"
            )


def _is_record(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == bytes(4)


def _write_folder(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _check_replaced(path)
    with atomic_folder(path, error=WeightsError) as folder:
        for name, array in arrays.items():
            try:
                parts = safe_parts(name)
            except ValueError as cause:
                raise WeightsError(f"{path}: variable {name!r:.80} cannot be a file: the name {cause}") from cause
            if any(part.startswith(".") for part in parts):
                raise WeightsError(f"{path}: variable {name!r:.80} would be a hidden file, which readers leave out")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as handle:
                write_record(handle, array, name)
        sums = "".join(f"{file_sha256(folder / name)}  {name}\n" for name in arrays)
        (folder / SUMS).write_text(sums, encoding="utf-8")


def _forget_old_sum(path: Path) -> None:
    """Remove the checksum of the file that is about to be replaced: it would call the new one damaged."""
    try:
        path.with_name(path.name + SUMS).unlink(missing_ok=True)
    except OSError as cause:
        raise WeightsError(f"{path}{SUMS} cannot be removed: {cause.strerror}") from cause


_WRITERS: Mapping[str, Callable[[Path, Mapping[str, np.ndarray]], None]] = dict(
    zip(FORMATS, (_write_pickle, _write_safetensors, _write_folder), strict=True)
)
