"""Reading weights from anything users have: a URL, an archive, a folder, or a file of any known format."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slim_distill.common.archive import safe_parts, unpack
from slim_distill.common.download import check_sha256, fetch, is_url
from slim_distill.common.errors import WeightsError
from slim_distill.common.names import nearest
from slim_distill.common.weights.detect import detect
from slim_distill.common.weights.legacy import read_combined, read_variable
from slim_distill.common.weights.pickled import read_pickle
from slim_distill.common.weights.program import check_names, find_shapes, program_shapes
from slim_distill.common.weights.safe_tensors import read_safetensors
from slim_distill.common.weights.sums import check_file, check_folder

__all__ = ["read_weights"]

logger = logging.getLogger("slim_distill.weights")

# What is tried after a path prefix, and looked for in a folder, in this order.
SUFFIXES = (".pdparams", ".pdiparams", ".safetensors")
CHECKPOINT = "model.safetensors"
PROGRAM, COMBINED = "__model__", "__params__"
# What macOS adds to archives.
NOT_OURS = "__MACOSX"
MAX_FILES = 20_000


def read_weights(
    source: str | Path,
    *,
    sha256: str | None = None,
    cache_dir: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Read all arrays of a weights file by name. Nothing in the file is executed, imported or trusted.

    Args:
        source: a URL (http, https, file; `#sha256=HEX` at the end is its checksum), or a path to
            a `.tar`, `.tar.gz` or `.zip` (one top folder inside, or none);
            a folder: of one file per variable, of an inference model, one of our checkpoints, or with one weights file;
            a path without suffix, when `PATH.pdparams` (or .pdiparams, .safetensors) is there: it goes before a folder
            of the same name;
            a `.pdparams` or `.pdopt` (pickle), `.pdiparams` or other combined file (Paddle tensor records back to
            back), `.safetensors`. Files are told by content.
        sha256: checksum of the file, 64 hexadecimal digits. Other checksums are used where they are: see `sums`.
        cache_dir: where downloads and unpacked archives go; see `files.cache_folder`.
        names: the names in a combined file, in its order; without it they come from the program or list of names
            beside it (see `program.find_shapes`).

    Returns:
        Arrays of their own memory in native byte order; bfloat16 is widened to float32.

    Raises:
        WeightsError: missing, damaged, hostile, of no known format, or (a combined file) without names.
    """
    if isinstance(source, str) and is_url(source):
        path = fetch(source, cache_dir, sha256)
    else:
        path = Path(source).expanduser()
        if sha256 is not None:
            check_sha256(path, sha256)
    return _read_path(path, cache_dir, names)


def _read_path(path: Path, cache_dir: str | Path | None, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    for suffix in SUFFIXES:
        completed = path.with_name(path.name + suffix) if path.name else path
        if completed != path and completed.is_file():
            return _read_file(completed, names)
    if path.is_dir():
        return _read_folder(path, names)
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder{_neighbours(path)}")
    if detect(path) in ("zip", "gzip", "tar"):
        check_file(path)
        return _read_folder(_top_folder(unpack(path, cache_dir)), names)
    return _read_file(path, names)


def _read_file(path: Path, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    kind = detect(path)
    if kind == "records":
        return _read_records(path, names)
    check_file(path)
    if names is not None:
        raise WeightsError(f"{path}: names are given, but this file ({kind}) has its own")
    if kind == "pickle":
        return read_pickle(path)
    if kind == "safetensors":
        return read_safetensors(path)
    raise WeightsError(f"{path}: an archive ({kind}) where a file of weights must be")


def _read_records(path: Path, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    check_file(path)
    if names is not None:
        return read_combined(path, dict.fromkeys(check_names(names, f"names for {path}")))
    found = find_shapes(path)
    if found is None:
        raise WeightsError(
            f"{path}: tensor records without names; needed is, beside it, the program ({path.stem}.pdmodel, "
            f"{path.stem}.json or __model__) or a list of names in file order (order.txt), or names=[...]"
        )
    shapes, origin = found
    check_file(Path(origin))
    logger.info("%s: names of %d variables from %s", path, len(shapes), origin)
    try:
        return read_combined(path, shapes)
    except WeightsError as cause:
        raise WeightsError(f"{cause} (names from {origin})") from cause


def _top_folder(unpacked: Path) -> Path:
    """Return the one folder at the top of an archive, or, if there are files beside it, the whole."""
    entries = [entry for entry in _listed(unpacked) if entry.name != NOT_OURS]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked


def _read_folder(folder: Path, names: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Read what a folder holds."""
    if (folder / CHECKPOINT).is_file():
        return _read_file(folder / CHECKPOINT, names)
    if (folder / PROGRAM).is_file():
        if (folder / COMBINED).is_file():
            return _read_records(folder / COMBINED, names)
        return _read_variables(folder, list(program_shapes(folder / PROGRAM)))
    for suffix in SUFFIXES:
        files = [entry for entry in _listed(folder) if entry.suffix == suffix and entry.is_file()]
        if len(files) > 1:
            shown = ", ".join(entry.name for entry in files[:10])
            raise WeightsError(f"{folder}: {len(files)} {suffix} files; give the path of one of them: {shown}")
        if files:
            return _read_file(files[0], names)
    files = [entry for entry in _listed(folder) if entry.is_file()]
    if len(files) == 1 and (names is not None or find_shapes(files[0]) is not None):
        return _read_records(files[0], names)
    return _read_variables(folder, _variable_names(folder))


def _read_variables(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read one file per variable."""
    if not names:
        raise WeightsError(f"{folder}: no weights in this folder")
    check_folder(folder, names)
    arrays: dict[str, np.ndarray] = {}
    for name in check_names(sorted(names), str(folder)):
        try:
            path = folder.joinpath(*safe_parts(name))
        except ValueError as cause:
            # Names may come from a program file, which must not lead out of the folder.
            raise WeightsError(f"{folder}: variable {name!r:.80} cannot be a file: the name {cause}") from cause
        arrays[name] = read_variable(path)
    return arrays


def _variable_names(folder: Path) -> list[str]:
    """Return every file below the folder, by its path relative to it; hidden files are no variables."""
    found: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != NOT_OURS]
        visible = [name for name in files if not name.startswith(".")]
        found += [Path(root, name).relative_to(folder).as_posix() for name in visible]
        if len(found) > MAX_FILES:
            raise WeightsError(f"{folder}: more than {MAX_FILES} files; is this a folder of weights?")
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as cause:
        raise WeightsError(f"{folder}: cannot be read: {cause.strerror}") from cause


def _neighbours(path: Path) -> str:
    """Say what is there instead of a missing path."""
    if not path.parent.is_dir():
        return f"; its folder {path.parent} is not there either"
    near = nearest(path.name, [entry.name for entry in _listed(path.parent)])
    return f"; in its folder are {', '.join(near)}" if near else ""
