"""Write the seed corpus of the fuzz target: small records of every element type, with and without LoD."""

import io
import struct
from pathlib import Path

import numpy as np

from slim_distill.common.weights.legacy import CODES, write_record

CORPUS = Path(__file__).parent / "corpus"


def records() -> dict[str, bytes]:
    """Return the seeds by file name."""
    seeds: dict[str, bytes] = {}
    for dtype in CODES:
        array = np.arange(6).reshape(2, 3).astype(dtype)
        stream = io.BytesIO()
        write_record(stream, array, dtype.name)
        seeds[f"{dtype.name}_2x3"] = stream.getvalue()
    for shape in ((), (0, 4), (1, 2, 1, 2, 1)):
        stream = io.BytesIO()
        write_record(stream, np.ones(shape, np.float32), "seed")
        seeds["float32_" + ("x".join(map(str, shape)) or "scalar")] = stream.getvalue()
    plain = seeds["float32_2x3"]
    lod = struct.pack("<QQ2Q", 1, 16, 0, 2)
    seeds["float32_lod"] = plain[:4] + lod + plain[12:]
    seeds["bfloat16_2"] = struct.pack("<IQIi", 0, 0, 0, 4) + b"\x08\x16\x10\x02" + b"\x80\x3f\x00\x40"
    seeds["float32_packed_dims"] = struct.pack("<IQIi", 0, 0, 0, 5) + b"\x08\x05\x12\x01\x02" + bytes(8)
    seeds["float32_negative_dim"] = struct.pack("<IQIi", 0, 0, 0, 13) + b"\x08\x05\x10" + b"\xff" * 9 + b"\x01"
    seeds["truncated"] = plain[:30]
    return seeds


if __name__ == "__main__":
    CORPUS.mkdir(exist_ok=True)
    for name, data in records().items():
        (CORPUS / name).write_bytes(data)
