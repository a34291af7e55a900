"""Reading and resizing images: uint8 RGB arrays [H, W, 3]."""

import errno
import struct
from pathlib import Path

import cv2
import numpy as np

from slim_distill.common.errors import DataError
from slim_distill.common.resources import explain

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "MAX_SIDE_PX",
    "ImageError",
    "find_image",
    "header_size",
    "read_image",
    "resize",
]

_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
MAX_SIDE_PX = 1 << 20
"""Longest side of an image that an annotation may state."""
MAX_PIXELS = 1 << 28
"""Pixels of the largest image that is decoded: 800 MB. A file of some megabytes can hold a far larger one."""


class ImageError(DataError):
    """An image file cannot be read. `file` says which, `reason` why."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


def find_image(stem: Path) -> Path:
    """Return the image file called `stem` plus a known suffix; `stem`.jpg when there is none."""
    for suffix in IMAGE_SUFFIXES:
        for spelling in (suffix, suffix.upper()):
            path = stem.with_name(stem.name + spelling)
            if path.is_file():
                return path
    return stem.with_name(stem.name + ".jpg")


def read_image(path: str | Path) -> np.ndarray:
    """Decode an image file to RGB, uint8 [H, W, 3]. EXIF orientation is applied.

    Raises:
        ImageError: the file is missing, empty, truncated or not an image. OpenCV itself fills the missing part of a
            truncated JPEG with grey and says nothing, which would train on garbage.
        DataError: nothing is wrong with the file, but memory or open files have run out.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        if error.errno in _NOT_THE_FILE:
            raise DataError(f"{path}: {explain(error)}") from error
        raise ImageError(str(path), error.strerror or str(error)) from error
    if not data:
        raise ImageError(str(path), "the file is empty")
    if _is_truncated(data):
        raise ImageError(str(path), f"the image is truncated: its end mark is missing after {len(data)} bytes")
    width, height = header_size(data)
    if width * height > MAX_PIXELS:
        raise ImageError(
            str(path), f"{width} x {height} = {width * height} pixels; more than {MAX_PIXELS} are not decoded"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise DataError(f"{path}: {explain(MemoryError(error.err))}") from error
        raise ImageError(str(path), f"the image cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError(str(path), f"not an image that OpenCV can decode; it begins with {data[:8]!r}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def resize(image: np.ndarray, width: int, height: int, interpolation: int) -> np.ndarray:
    """Resize [H, W, C] to exactly `height` x `width` pixels; `interpolation` is one of cv2.INTER_*.

    Intel's IPP, which OpenCV calls on x86, rounds cubic interpolation differently (one level in some 0.5 to 3 % of the
    values) and sums float images in another order. OpenCV's own code gives the published system's values to the bit,
    so IPP is switched off for this call. The switch is per thread.
    """
    ipp = getattr(cv2, "ipp", None)
    if ipp is None or not ipp.useIPP():
        return cv2.resize(image, (width, height), interpolation=interpolation)
    ipp.setUseIPP(False)
    try:
        return cv2.resize(image, (width, height), interpolation=interpolation)
    finally:
        ipp.setUseIPP(True)


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG, BMP or JPEG states; (0, 0) where it is none, and for the decoder to judge.

    OpenCV's own limit is 2**30 pixels, 6 GB while they are converted, and it holds for other formats.
    """
    if data.startswith(b"\x89PNG") and len(data) >= 24:
        return struct.unpack_from(">II", data, 16)
    if data.startswith(b"BM") and len(data) >= 26:
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)  # a negative height: rows from the top
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        mark, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        # Start of frame, of any of its kinds; 4, 8 and 12 are tables.
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 1 if mark == 0xFF else 2 + length
    return 0, 0


def _is_truncated(data: bytes) -> bool:
    if data.startswith(b"\xff\xd8"):
        # Entropy-coded data escapes 0xff, so these two are real marks: the last scan must be followed by an end.
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and data.rfind(b"IEND") < 0
