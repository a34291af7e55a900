"""The safetensors format: uint64 header length, JSON header, raw little-endian numbers.

Reading is our own, so that every refusal says what is wrong; writing is left to the safetensors package.
Source: the format section of https://github.com/huggingface/safetensors.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.weights._cursor import Cursor, element_count, open_cursor, widen_bfloat16
from slim_distill.common.weights.program import check_names
from slim_distill.common.weights.sums import check_arrays

__all__ = ["read_safetensors"]

# JSON takes some twenty times its size in memory when it is hostile; a real header has 100 bytes a tensor.
MAX_HEADER = 8 << 20
METADATA = "__metadata__"
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read every tensor; BF16 comes as float32.

    Raises:
        WeightsError: the header is not what the format says, or its offsets lie: outside the file, overlapping, with
            gaps, or of another size than shape and type need; or the numbers do not have the header's checksum.
    """
    with open_cursor(path) as cursor:
        header = _header(cursor)
        entries = [(name, *_entry(name, entry, cursor)) for name, entry in header.items() if name != METADATA]
        check_names([entry[0] for entry in entries], str(path))
        arrays: dict[str, np.ndarray] = {}
        start, data_size = cursor.tell(), cursor.left
        # Empty tensors share their offset with the next, so the end decides.
        for name, kind, shape, begin, end in sorted(entries, key=lambda entry: entry[3:]):
            at = cursor.tell() - start
            if begin != at:
                problem = "overlaps the tensor before it" if begin < at else "leaves a gap after the tensor before it"
                raise cursor.error(f"tensor {name!r} at offset {begin} {problem}, which ends at {at}")
            if end > data_size:
                raise cursor.error(f"truncated: tensor {name!r} ends at offset {end}, the data has {data_size} bytes")
            array = cursor.array(DTYPES[kind], shape, f"tensor {name!r}")
            arrays[name] = widen_bfloat16(array) if kind == "BF16" else array
        if cursor.left:
            raise cursor.error(f"{cursor.left} bytes follow the last tensor")
    check_arrays(arrays, header.get(METADATA), str(path))
    return {name: arrays[name] for name in header if name != METADATA}


def _header(cursor: Cursor) -> dict[str, Any]:
    length = cursor.number("<Q", "the header length")
    if length > min(cursor.left, MAX_HEADER):
        raise cursor.error(
            f"a header of {length} bytes; {cursor.left} are left, and at most {MAX_HEADER} are believable"
        )
    try:
        header = json.loads(cursor.take(length, "the header"), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as cause:
        raise cursor.error(f"the safetensors header is not JSON: {cause}") from cause
    if not isinstance(header, dict):
        raise cursor.error(f"the safetensors header is a {type(header).__name__}, must be a dictionary")
    return header


def _entry(name: str, entry: Any, cursor: Cursor) -> tuple[str, Sequence[int], int, int]:
    """Return (type, shape, begin, end) of one tensor, checked against each other."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise cursor.error(f"tensor {name!r:.80}: its entry must have dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise cursor.error(f"tensor {name!r:.80}: unknown type {kind!r:.40}; known: {', '.join(DTYPES)}")
    if not _whole(shape) or not _whole(offsets) or len(offsets) != 2:
        raise cursor.error(f"tensor {name!r:.80}: shape and data_offsets must be lists of whole numbers")
    try:
        need = element_count(shape, DTYPES[kind].itemsize) * DTYPES[kind].itemsize
    except ValueError as cause:
        raise cursor.error(f"tensor {name!r:.80}: {cause}") from None
    begin, end = offsets
    if end - begin != need or begin < 0:
        raise cursor.error(
            f"tensor {name!r:.80}: offsets {begin} to {end}, but shape {shape} {kind} takes {need} bytes"
        )
    return kind, shape, begin, end


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table
