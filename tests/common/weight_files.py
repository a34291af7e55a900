"""Small weights files made by hand, byte for byte, for the tests of readers."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from slim_distill.common.weights._wire import encode_varint
from slim_distill.common.weights.legacy import write_record

FLOAT32 = 5


def varint_field(number: int, value: int) -> bytes:
    return encode_varint(number << 3) + encode_varint(value & (1 << 64) - 1)


def bytes_field(number: int, data: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(data)) + data


def record(array: np.ndarray) -> bytes:
    """A tensor record as Paddle writes it."""
    stream = io.BytesIO()
    write_record(stream, array, "test")
    return stream.getvalue()


def raw_record(
    dims: Sequence[int] = (2,),
    data: bytes = bytes(8),
    code: int = FLOAT32,
    version: int = 0,
    tensor_version: int = 0,
    levels: int = 0,
    lod: bytes = b"",
    description: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """A tensor record with every field free to lie."""
    if description is None:
        description = varint_field(1, code) + b"".join(varint_field(2, axis) for axis in dims)
    head = struct.pack("<IQ", version, levels) + lod
    return (
        head + struct.pack("<Ii", tensor_version, len(description) if length is None else length) + description + data
    )


def program(variables: Mapping[str, Sequence[int]], kind: int = 7) -> bytes:
    """A ProgramDesc with persistable variables (and one temporary, one fetch list) in the order given."""

    def variable(name: str, dims: Sequence[int], kind: int, persistable: bool) -> bytes:
        tensor = varint_field(1, FLOAT32) + b"".join(varint_field(2, axis) for axis in dims)
        type_ = varint_field(1, kind) + bytes_field(3, bytes_field(1, tensor))
        body = bytes_field(1, name.encode()) + bytes_field(2, type_) + varint_field(3, persistable)
        return bytes_field(3, body)

    block = varint_field(1, 0) + b"".join(variable(name, dims, kind, True) for name, dims in variables.items())
    block += variable("temporary", (-1, 3), kind, False) + variable("fetch", (), 10, True)
    return bytes_field(1, block) + bytes_field(4, varint_field(1, 0))


def pir_program(variables: Mapping[str, Sequence[int]]) -> bytes:
    """A PIR program as Paddle 3.3 writes it, cut down to its parameters."""
    ops = [
        {
            "#": "p",
            "A": [0, 1, 1, name],
            "O": {"%": i, "TT": {"#": "0.t_dtensor", "D": [{}, list(dims), "NCHW", [], 0]}},
        }
        for i, (name, dims) in enumerate(variables.items())
    ]
    ops.append({"#": "1.data", "A": [], "O": []})
    root = {"base_code": {"magic": "pir", "version": 4}, "program": {"regions": [{"blocks": [{"ops": ops}]}]}}
    return json.dumps(root).encode()


def safetensors_file(header: object, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file with a header of any content."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tar_file(members: Sequence[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tar_member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def tar_of(*names: str) -> bytes:
    """A tar with a good record under each name."""
    return tar_file([tar_member(name, raw_record()) for name in names])


def zip_file(members: Sequence[tuple[zipfile.ZipInfo | str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for info, data in members:
            archive.writestr(info, data, compress_type=method)
    return stream.getvalue()


def zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below `folder` with its size."""
    return {str(p.relative_to(folder)): p.lstat().st_size if p.is_file() else -1 for p in sorted(folder.rglob("*"))}
