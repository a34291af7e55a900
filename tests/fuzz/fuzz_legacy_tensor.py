"""Coverage-guided fuzzing of the reader of Paddle's tensor records. How to run: tests/fuzz/README.md.

What must hold for every input: the reader returns an array or raises WeightsError, nothing else; an array takes no more
memory than twice the input (bfloat16 is widened); and writing it again gives a record that reads to the same bytes.
"""

import io
import sys

import atheris

with atheris.instrument_imports(include=["slim_distill.common.weights"]):
    from slim_distill.common.errors import WeightsError
    from slim_distill.common.weights._cursor import Cursor
    from slim_distill.common.weights.legacy import read_record, write_record


def check_record(data: bytes) -> None:
    """Read one record from `data` and check what must hold."""
    try:
        array = read_record(Cursor(io.BytesIO(data), len(data), "input"))
    except WeightsError:
        return
    if array.nbytes > 2 * len(data):
        raise AssertionError(f"{array.nbytes} bytes of memory for {len(data)} bytes of input")
    again = io.BytesIO()
    write_record(again, array, "input")
    size = again.tell()
    again.seek(0)
    copy = read_record(Cursor(again, size, "written"))
    if copy.shape != array.shape or copy.dtype != array.dtype or copy.tobytes() != array.tobytes():
        raise AssertionError("a record that was written does not read to the same array")


if __name__ == "__main__":
    atheris.Setup(sys.argv, check_record)
    atheris.Fuzz()
