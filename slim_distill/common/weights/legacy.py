"""Paddle's own tensor records: one file per variable, or many back to back in a combined file.

A record is: uint32 0; uint64 number of LoD levels, each a uint64 byte count and its data; uint32 0; int32 n; n bytes of
protobuf TensorDesc (field 1: type code, field 2: dims); raw little-endian numbers. Records carry no names.
Source: the files that Paddle 1.8.5 and 3.3.1 write (`save_persistables`, `save_inference_model`).
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights._cursor import Cursor, open_cursor, widen_bfloat16
from slim_distill.common.weights._wire import encode_varint, fields, signed

__all__ = ["read_combined", "read_record", "read_variable", "write_record"]

# Type codes of framework.proto's VarType.Type.
BFLOAT16 = 22
DTYPES = {
    0: np.dtype(np.bool_),
    1: np.dtype("<i2"),
    2: np.dtype("<i4"),
    3: np.dtype("<i8"),
    4: np.dtype("<f2"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    20: np.dtype("u1"),
    21: np.dtype("i1"),
    BFLOAT16: np.dtype("<u2"),
    23: np.dtype("<c8"),
    24: np.dtype("<c16"),
}
CODES = {dtype: code for code, dtype in DTYPES.items() if code != BFLOAT16}
MAX_LOD_LEVELS = 32
MAX_DESCRIPTION = 1024


def read_record(cursor: Cursor) -> np.ndarray:
    """Read the record at the cursor: an array of its own memory; bfloat16 comes as float32; LoD is skipped.

    Raises:
        WeightsError: the bytes are not such a record, end too early, or describe an impossible tensor.
    """
    version = cursor.number("<I", "the record version")
    if version != 0:
        raise cursor.error(f"not a Paddle tensor record: version {version}, must be 0")
    levels = cursor.number("<Q", "the number of LoD levels")
    if levels > MAX_LOD_LEVELS:
        raise cursor.error(f"{levels} LoD levels; at most {MAX_LOD_LEVELS} are believable")
    for level in range(levels):
        cursor.take(cursor.number("<Q", f"the size of LoD level {level}"), f"LoD level {level}")
    version = cursor.number("<I", "the tensor version")
    if version != 0:
        raise cursor.error(f"tensor version {version}, must be 0")
    length = cursor.number("<i", "the length of the tensor description")
    if not 0 < length <= MAX_DESCRIPTION:
        raise cursor.error(f"tensor description of {length} bytes; must be 1 to {MAX_DESCRIPTION}")
    description = cursor.take(length, "the tensor description")
    code, dims = _describe(memoryview(description), f"{cursor.where}: tensor description before byte {cursor.tell()}")
    if code not in DTYPES:
        raise cursor.error(f"unknown element type code {code}; known: {sorted(DTYPES)}")
    array = cursor.array(DTYPES[code], dims, "the tensor data")
    return widen_bfloat16(array) if code == BFLOAT16 else array


def read_variable(path: Path) -> np.ndarray:
    """Read a file that holds exactly one record.

    Raises:
        WeightsError: it does not, or bytes follow the record (then it may be a combined file).
    """
    with open_cursor(path) as cursor:
        array = read_record(cursor)
        if cursor.left:
            raise cursor.error(
                f"{cursor.left} bytes follow the first tensor: a combined file? "
                "It needs the names of its variables: a program file or order.txt beside it, or names=[...]"
            )
    return array


def read_combined(path: Path, shapes: Mapping[str, Sequence[int] | None]) -> dict[str, np.ndarray]:
    """Read a file of records back to back.

    Args:
        path: the combined file.
        shapes: the names in file order (Paddle sorts them), each with the shape that the program declares (a negative
            axis fits any) or None.

    Raises:
        WeightsError: more or fewer records than names, a record of another shape than declared, or a bad record.
    """
    arrays: dict[str, np.ndarray] = {}
    with open_cursor(path) as cursor:
        for name, shape in shapes.items():
            if not cursor.left:
                raise cursor.error(f"{len(arrays)} tensors for {len(shapes)} names; the first without one is {name!r}")
            array = read_record(cursor)
            if shape is not None and not _fits(array.shape, shape):
                raise cursor.error(
                    f"tensor {len(arrays)} has shape {list(array.shape)}, but {name!r} is declared as {list(shape)}: "
                    "the names belong to another file"
                )
            arrays[name] = array
        if cursor.left:
            raise cursor.error(f"{cursor.left} bytes are left after {len(shapes)} tensors: too few names")
    return arrays


def write_record(stream: BinaryIO, array: np.ndarray, name: str) -> None:
    """Write one record without LoD.

    Raises:
        WeightsError: Paddle has no such element type; names the variable.
    """
    little = np.asarray(array, order="C").astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype not in CODES:
        known = ", ".join(sorted(dtype.name for dtype in CODES))
        raise WeightsError(f"{name}: a tensor record cannot hold {array.dtype}; known: {known}")
    dims = b"".join(b"\x10" + encode_varint(axis) for axis in little.shape)
    description = b"\x08" + encode_varint(CODES[little.dtype]) + dims
    stream.write(struct.pack("<IQIi", 0, 0, 0, len(description)) + description)
    stream.write(little.tobytes())


def _describe(data: memoryview, where: str) -> tuple[int, list[int]]:
    """Return type code and dims of a TensorDesc message."""
    code = -1
    dims: list[int] = []
    for number, value in fields(data, where):
        if number == 1 and isinstance(value, int):
            code = value
        elif number == 2 and isinstance(value, int):
            dims.append(signed(value))
        elif number in (1, 2):
            raise WeightsError(f"{where}: field {number} is not a plain number")
    if code < 0:
        raise WeightsError(f"{where}: the element type is missing")
    return code, dims


def _fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    return len(shape) == len(declared) and all(b < 0 or a == b for a, b in zip(shape, declared, strict=True))
