"""A detection set that needs no download: real handwritten digits, composed into drawn scenes.

The digits are scikit-learn's 1797 scans of 8x8 pixels (UCI ML hand-written digits, test part). They are drawn smoothly
at 14 to 48 pixels with random ink, paper, slant and contrast onto backgrounds of gradients, cloudy noise, blobs and
strokes that belong to no digit.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np

from slim_distill.common.errors import DataError
from slim_distill.data.image import resize

__all__ = ["DIGIT_CLASSES", "Glyph", "draw_scene", "load_scans", "write_digits"]

DIGIT_CLASSES = tuple("0123456789")

_TRAIN_SHARE = 0.8  # of the scans; the rest, by other hands, is drawn in test images only
_SMALLEST_PX, _LARGEST_PX = 14, 48
_FEWEST, _MOST = 3, 12  # digits in an image
_MAX_OVERLAP = 0.08  # share of the smaller of two boxes
_TRIES = 40


@dataclass(frozen=True)
class Glyph:
    """One drawn digit: its class, its box x1, y1, x2, y2 in pixels (the last included), the scan it was drawn from."""

    digit: int
    box: tuple[int, int, int, int]
    scan: int


@dataclass(frozen=True)
class Scans:
    """Scans [n, 8, 8] float32 of 0 to 1, the digits they show [n], and their numbers in scikit-learn's set [n]."""

    images: np.ndarray
    digits: np.ndarray
    numbers: np.ndarray


def write_digits(folder: str | Path, *, seed: int, train: int, test: int, size: int = 160) -> None:
    """Draw `train` + `test` images of `size` x `size` pixels and write them as one VOC and COCO data set.

    Written are JPEGImages/*.jpg, Annotations/*.xml, label_list.txt, annotations/instances_{train,test}.json and, last,
    ImageSets/Main/{train,test}.txt. Image i of a part depends on seed, part and i alone. Files are the same byte for
    byte for a seed and a version of OpenCV. No scan is drawn in both parts.

    Raises:
        DataError: scikit-learn is not installed, or the size is less than twice that of the largest digit.
    """
    if size < 2 * _LARGEST_PX:
        raise DataError(
            f"size {size}: digits are up to {_LARGEST_PX} px large; at least {2 * _LARGEST_PX} px is wanted"
        )
    folder = Path(folder)
    for name in ("JPEGImages", "Annotations", "annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    parts = {}
    for number, (part, count) in enumerate((("train", train), ("test", test))):
        scans = load_scans(part)
        names = [f"{part}_{i:05d}" for i in range(count)]
        glyphs = []
        for i, name in enumerate(names):
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number, i])))
            image, found = draw_scene(scans, size, rng)
            _write_jpeg(folder / "JPEGImages" / f"{name}.jpg", image, int(rng.integers(75, 96)))
            _write_xml(folder / "Annotations" / f"{name}.xml", f"{name}.jpg", size, found)
            glyphs.append(found)
        _write_json(folder / "annotations" / f"instances_{part}.json", names, size, glyphs)
        parts[part] = names
    (folder / "label_list.txt").write_text("".join(f"{c}\n" for c in DIGIT_CLASSES), encoding="utf-8")
    for part, names in parts.items():
        lines = "".join(f"{name}\n" for name in names)
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text(lines, encoding="utf-8")


def load_scans(part: str) -> Scans:
    """Return the scans that "train" or "test" images are drawn from.

    The first four fifths and the rest: neighbours in the set come from the same writers.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "scikit-learn: not installed, but the demo's handwriting comes with it; pip install 'slim_distill[demo]'"
        ) from error
    bunch = load_digits()
    cut = int(_TRAIN_SHARE * len(bunch.images))
    chosen = slice(None, cut) if part == "train" else slice(cut, None)
    numbers = np.arange(len(bunch.images))[chosen]
    return Scans((bunch.images[chosen] / 16.0).astype(np.float32), bunch.target[chosen], numbers)


def draw_scene(scans: Scans, size: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Glyph]]:
    """Draw one image: uint8 RGB [size, size, 3], and the digits in it."""
    image = _background(size, rng)
    glyphs: list[Glyph] = []
    inks: list[np.ndarray] = []
    for _ in range(int(rng.integers(_FEWEST, _MOST + 1))):
        k = int(rng.integers(len(scans.images)))
        ink = _ink_mask(scans.images[k], rng)
        box = _place(ink.shape, size, glyphs, rng)
        if box is not None:
            glyphs.append(Glyph(int(scans.digits[k]), box, int(scans.numbers[k])))
            inks.append(ink)
    for glyph in glyphs:  # all paper lies below all ink
        if rng.uniform() < 0.3:
            _add_paper(image, glyph.box, rng)
    for glyph, ink in zip(glyphs, inks, strict=True):
        x1, y1, x2, y2 = glyph.box
        _write(image[y1 : y2 + 1, x1 : x2 + 1], ink, rng)
    blur = rng.uniform(0.0, 0.9)
    if blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    image += rng.normal(0.0, rng.uniform(0.0, 9.0), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), glyphs


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Gradient, clouds, blobs and strokes: float32 [size, size, 3], 0 to 255."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    ramp = np.clip(0.5 + x * math.cos(angle) + y * math.sin(angle), 0, 1)[..., None]
    light = rng.uniform(30, 225)
    a, b = light + rng.normal(0, 28, (2, 3))
    image = (ramp * a + (1 - ramp) * b).astype(np.float32)
    for cells in (4, 9, 24):
        cloud = rng.normal(0, rng.uniform(0, 12), (cells, cells, 3)).astype(np.float32)
        cloud = cloud * 0.4 + cloud.mean(axis=2, keepdims=True)
        image += resize(cloud, size, size, cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 4))):
        _add_blob(image, rng)
    for _ in range(int(rng.integers(0, 5))):
        _add_stroke(image, rng)
    return image


def _add_blob(image: np.ndarray, rng: np.random.Generator) -> None:
    size = len(image)
    mask = np.zeros((size, size), np.float32)
    centre = rng.integers(0, size, 2).tolist()
    axes = rng.integers(4, size // 4, 2).tolist()
    cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 6.0))
    image += mask[..., None] * (rng.normal(0, 30) + rng.normal(0, 15, 3)).astype(np.float32)


def _add_stroke(image: np.ndarray, rng: np.random.Generator) -> None:
    """A line or an arc as a pen leaves them: what a detector must learn not to read."""
    size = len(image)
    mask = np.zeros((size, size), np.uint8)
    thickness = int(rng.integers(1, 4))
    if rng.uniform() < 0.5:
        start, end = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(mask, start, end, 255, thickness, cv2.LINE_AA)
    else:
        centre, axes = rng.integers(0, size, 2).tolist(), rng.integers(5, 40, 2).tolist()
        first = rng.uniform(0, 360)
        cv2.ellipse(
            mask, centre, axes, rng.uniform(0, 180), first, first + rng.uniform(60, 200), 255, thickness, cv2.LINE_AA
        )
    alpha = mask[..., None].astype(np.float32) / 255 * np.float32(rng.uniform(0.3, 0.9))
    image += alpha * (rng.uniform(0, 255, 3).astype(np.float32) - image)


def _ink_mask(scan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge a scan to a random size and slant; crop to its ink. Coverage [h, w] float32, 0 to 1."""
    height = math.exp(rng.uniform(math.log(_SMALLEST_PX), math.log(_LARGEST_PX)))
    width = height * rng.uniform(0.75, 1.15)
    padded = np.pad(scan, 2)
    # From pixels of the padded scan (12x12) to a canvas with room for the slant; the scan's 8 pixels become `height`.
    side = math.ceil(2 * max(width, height))
    turn, shear = math.radians(rng.uniform(-14, 14)), rng.uniform(-0.2, 0.2)
    rotate = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    linear = rotate @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([width / 8, height / 8])
    shift = np.array([side / 2, side / 2]) - linear @ np.array([5.5, 5.5])
    big = cv2.warpAffine(padded, np.hstack((linear, shift[:, None])), (side, side), flags=cv2.INTER_CUBIC)
    threshold = rng.uniform(0.38, 0.62)  # lower is a thicker pen
    big = np.clip((big - threshold) * rng.uniform(2.0, 4.5) + 0.5, 0, 1)
    rows, columns = np.flatnonzero(big.max(axis=1) > 0.5), np.flatnonzero(big.max(axis=0) > 0.5)
    return big[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _place(
    shape: tuple[int, ...], size: int, taken: list[Glyph], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Return a free box for ink of `shape`, or None when none was found."""
    h, w = shape
    for _ in range(_TRIES):
        x, y = int(rng.integers(0, size - w + 1)), int(rng.integers(0, size - h + 1))
        box = (x, y, x + w - 1, y + h - 1)
        if all(_overlap(box, g.box) <= _MAX_OVERLAP for g in taken):
            return box
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection over the smaller area."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return max(0, w) * max(0, h) / min(areas)


def _add_paper(image: np.ndarray, box: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    """Put a soft-edged piece of paper under a box, larger than it on every side by a random margin."""
    x1, y1, x2, y2 = box
    left, top, right, bottom = (rng.uniform(0.1, 0.8, 4) * max(x2 - x1, y2 - y1)).astype(int).tolist()
    mask = np.zeros(image.shape[:2], np.float32)
    mask[max(0, y1 - top) : y2 + bottom + 1, max(0, x1 - left) : x2 + right + 1] = 1
    alpha = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 2.0))[..., None] * np.float32(rng.uniform(0.3, 0.9))
    image += alpha * ((rng.uniform(20, 235) + rng.normal(0, 12, 3)).astype(np.float32) - image)


def _write(patch: np.ndarray, ink: np.ndarray, rng: np.random.Generator) -> None:
    """Write a digit onto `patch` in place, with a contrast to it from faint to strong."""
    ground = float(patch.mean())
    contrast = rng.uniform(60, 170)
    darker = ground - contrast >= 0 and (ground + contrast > 255 or rng.uniform() < 0.5)
    colour = np.clip(ground + (-contrast if darker else contrast) + rng.normal(0, 20, 3), 0, 255).astype(np.float32)
    patch += ink[..., None] * (colour - patch)


def _write_jpeg(path: Path, image: np.ndarray, quality: int) -> None:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise DataError(f"{path}: OpenCV could not encode the image")
    path.write_bytes(data.tobytes())


def _write_xml(path: Path, image: str, size: int, glyphs: list[Glyph]) -> None:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image
    dimensions = ElementTree.SubElement(root, "size")
    for key, value in (("width", size), ("height", size), ("depth", 3)):
        ElementTree.SubElement(dimensions, key).text = str(value)
    for glyph in glyphs:
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = DIGIT_CLASSES[glyph.digit]
        ElementTree.SubElement(item, "difficult").text = "0"
        box = ElementTree.SubElement(item, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), glyph.box, strict=True):
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.indent(root)
    path.write_bytes(ElementTree.tostring(root) + b"\n")


def _write_json(path: Path, names: list[str], size: int, glyphs: list[list[Glyph]]) -> None:
    images = [{"id": i, "file_name": f"{n}.jpg", "width": size, "height": size} for i, n in enumerate(names, 1)]
    annotations: list[dict[str, object]] = []
    for image_id, found in enumerate(glyphs, 1):
        for glyph in found:
            x1, y1, x2, y2 = glyph.box
            w, h = x2 - x1 + 1, y2 - y1 + 1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": glyph.digit + 1,
                    "bbox": [x1, y1, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                    "scan": glyph.scan,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(DIGIT_CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
