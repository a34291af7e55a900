"""The protobuf wire format, read field by field: all that tensor descriptions and program files need."""

from collections.abc import Iterator

from slim_distill.common.errors import WeightsError

__all__ = ["encode_varint", "fields", "signed"]

FIXED_WIDTHS = {1: 8, 5: 4}


def fields(data: memoryview, where: str) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message: int for varints, memoryview for everything else.

    Raises:
        WeightsError: a varint or length runs over the end, or a wire type does not exist; starts with `where`.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise WeightsError(f"{where}: at byte {at}: protobuf field number 0")
        if wire == 0:
            value, at = _varint(data, at, where)
            yield number, value
            continue
        if wire == 2:
            width, at = _varint(data, at, where)
        elif wire in FIXED_WIDTHS:
            width = FIXED_WIDTHS[wire]
        else:
            raise WeightsError(f"{where}: at byte {at}: protobuf wire type {wire} (field {number})")
        if width > len(data) - at:
            raise WeightsError(f"{where}: truncated: field {number} needs {width} bytes, {len(data) - at} are left")
        yield number, data[at : at + width]
        at += width


def signed(value: int) -> int:
    """Return the int64 that a varint of a protobuf int64 field means."""
    return value - (1 << 64) if value >= 1 << 63 else value


def encode_varint(value: int) -> bytes:
    """Return a non-negative integer as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint(data: memoryview, at: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WeightsError(f"{where}: truncated: the bytes end inside a varint")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise WeightsError(f"{where}: at byte {at}: a varint of more than 64 bits")
