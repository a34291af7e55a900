"""Pictures for people: boxes with labels, and sheets of many images with titles."""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from slim_distill.common.errors import DataError
from slim_distill.common.files import atomic_write
from slim_distill.report._text import Colour, Text, blend

__all__ = ["class_colour", "draw_boxes", "encode_png", "save_png", "sheet"]

# Far apart in hue and light enough to stand out on photographs; later classes go round the colour circle.
PALETTE: tuple[Colour, ...] = (
    (230, 57, 70), (33, 158, 255), (255, 200, 0), (46, 196, 110), (255, 126, 20), (190, 90, 255),
    (0, 214, 214), (255, 105, 190), (160, 220, 40), (150, 110, 80), (120, 140, 255), (255, 178, 140),
)  # fmt: skip
INK: Colour = (34, 34, 38)
PAPER: Colour = (255, 255, 255)


def class_colour(number: int) -> Colour:
    """Return the RGB colour of class `number`, the same in every picture."""
    if number < len(PALETTE):
        return PALETTE[number]
    turn = (number - len(PALETTE)) * 0.618034 % 1.0  # the golden angle keeps neighbours apart
    red, green, blue = colorsys.hsv_to_rgb(turn, 0.65 + 0.3 * (number % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image_rgb: np.ndarray,
    dets: np.ndarray,
    classes: Sequence[str],
    threshold: float = 0.5,
    *,
    show_scores: bool = True,
    min_side_px: int = 480,
) -> np.ndarray:
    """Return a copy of the image with a labelled box for each detection of at least `threshold`.

    Small images are first enlarged by a whole factor until the longer side has `min_side_px`, so that lines and
    labels are fine against the objects; boxes are enlarged with them.

    Args:
        image_rgb: [H, W, 3] uint8.
        dets: [K, 6] of class, score, x1, y1, x2, y2 in pixels of the image; parts outside it are cut off.
        classes: their names.
        threshold: smallest score shown.
        show_scores: write the score behind the class name.
        min_side_px: 0 keeps the size.

    Raises:
        DataError: another shape or type, a corner that is not finite, or a class that has no name.
    """
    _check_rgb("draw_boxes", image_rgb)
    dets = _check_dets(dets, len(classes))
    factor = max(1, math.ceil(min_side_px / max(image_rgb.shape[:2])))
    picture = _enlarge(image_rgb, factor)
    longer = max(picture.shape[:2])
    text, line_px = Text(max(13, round(longer / 36))), max(2, round(longer / 300))
    shown = dets[dets[:, 1] >= threshold]
    shown = shown[np.argsort(shown[:, 1], kind="stable")]  # the best last, on top
    corners = [_corners(box * factor, factor, picture.shape) for box in shown[:, 2:]]
    for row, corner in zip(shown, corners, strict=True):
        _frame(picture, corner, line_px, class_colour(int(row[0])))
    taken: list[tuple[int, int, int, int]] = []
    for row, corner in reversed(list(zip(shown, corners, strict=True))):  # the best labels choose their place first
        label = classes[int(row[0])] + (f" {row[1]:.2f}" if show_scores else "")
        _tag(picture, text.coverage(label), corner, class_colour(int(row[0])), taken)
    return picture


def sheet(
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    row_titles: Sequence[str] = (),
    column_titles: Sequence[str] = (),
    title: str = "",
    cell_px: int = 420,
) -> np.ndarray:
    """Return one RGB picture with the images of `rows` in a grid.

    Args:
        rows: lists of one length of [H, W, 3] uint8 images, or None for an empty place. Each is scaled, its shape
            kept, to the cell.
        row_titles: one a row, or none; a line break makes a new line.
        column_titles: one a column, or none.
        title: a line above all.
        cell_px: the longer side of a cell; its shape is that of the widest and the highest image together.

    Raises:
        DataError: no images, rows of different length, images of another shape or type, as many titles as are not due.
    """
    images = [image for row in rows for image in row if image is not None]
    columns = len(rows[0]) if rows else 0
    if not images or any(len(row) != columns for row in rows):
        raise DataError(f"sheet: rows of {[len(row) for row in rows]} images; equal lengths and at least one image")
    for image in images:
        _check_rgb("sheet", image)
    for what, titles, due in (("row", row_titles, len(rows)), ("column", column_titles, columns)):
        if titles and len(titles) != due:
            raise DataError(f"sheet: {len(titles)} {what} titles for {due} {what}s")
    cell_h, cell_w = _cell_size(images, cell_px)
    gap, text = max(6, cell_px // 50), Text(max(15, round(cell_px / 20)), bold=True)
    left = _margin([text.coverage(t).shape[1] for t in row_titles], gap)
    heads = [text.coverage(t) for t in column_titles]
    large = Text(round(text.line_px * 1.3), bold=True)
    head = large.coverage(title) if title else np.zeros((0, 0), np.uint8)
    title_h = _margin([head.shape[0]] if title else [], gap)
    top = title_h + _margin([c.shape[0] for c in heads], gap)
    width = max(left + gap + columns * (cell_w + gap), head.shape[1] + 2 * gap)
    page = np.full((top + gap + len(rows) * (cell_h + gap), width, 3), PAPER, np.uint8)
    blend(page, head, gap, gap, INK)
    for c, cover in enumerate(heads):
        blend(page, cover, left + gap + c * (cell_w + gap) + (cell_w - cover.shape[1]) // 2, title_h + gap, INK)
    for r, row in enumerate(rows):
        y = top + gap + r * (cell_h + gap)
        if row_titles:
            cover = text.coverage(row_titles[r])
            blend(page, cover, gap, y + (cell_h - cover.shape[0]) // 2, INK)
        for c, cell in enumerate(row):
            if cell is not None:
                _place(page, cell, left + gap + c * (cell_w + gap), y, cell_w, cell_h)
    return page


def encode_png(image_rgb: np.ndarray) -> bytes:
    """Return the image [H, W, 3] uint8 as the content of a PNG file.

    Raises:
        DataError: another shape or type.
    """
    _check_rgb("encode_png", image_rgb)
    done, buffer = cv2.imencode(".png", np.ascontiguousarray(image_rgb[:, :, ::-1]))
    if not done:
        raise DataError(f"encode_png: an image of shape {image_rgb.shape} could not be encoded")
    return buffer.tobytes()


def save_png(path: str | Path, image_rgb: np.ndarray) -> Path:
    """Write the image [H, W, 3] uint8 as a PNG file, making the folder if need be, and return its path.

    Raises:
        DataError: another shape or type, or the file cannot be written.
    """
    content = encode_png(image_rgb)
    with atomic_write(path, error=DataError) as handle:
        handle.write(content)
    return Path(path)


def _check_rgb(where: str, image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"{where}: image is {found}; uint8 [H, W, 3] in RGB is wanted")
    if image.size == 0:
        raise DataError(f"{where}: image of shape {image.shape} has no pixels")


def _check_dets(dets: np.ndarray, num_classes: int) -> np.ndarray:
    dets = np.asarray(dets, np.float64)
    if dets.size == 0:
        return np.zeros((0, 6))
    if dets.ndim != 2 or dets.shape[1] != 6 or not np.isfinite(dets).all():
        raise DataError(f"draw_boxes: dets {dets.shape}; finite [K, 6] of class, score, x1, y1, x2, y2 is wanted")
    if dets[:, 0].min() < 0 or dets[:, 0].max() >= num_classes:
        numbers = ", ".join(f"{n:g}" for n in np.unique(dets[:, 0]))
        raise DataError(f"draw_boxes: detections of classes {numbers}, but {num_classes} class names")
    return dets


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return image.copy()
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)


def _corners(box: np.ndarray, factor: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the first and last pixels covered: the box covers its last pixel, which is `factor` pixels now."""
    last = np.array([shape[1] - 1, shape[0] - 1] * 2)
    x1, y1, x2, y2 = np.clip(np.rint(box + np.array([0, 0, factor - 1, factor - 1])), 0, last).astype(int).tolist()
    return x1, y1, max(x1, x2), max(y1, y2)


def _frame(picture: np.ndarray, corner: tuple[int, int, int, int], line_px: int, colour: Colour) -> None:
    x1, y1, x2, y2 = corner
    for strip in _ring(x1 - 1, y1 - 1, x2 + 1, y2 + 1, 1):  # a dim rim parts the line from a ground of its colour
        picture[strip] //= 2
    for strip in _ring(x1, y1, x2, y2, line_px):
        picture[strip] = colour


def _ring(x1: int, y1: int, x2: int, y2: int, width: int) -> list[tuple[slice, slice]]:
    """Return the four strips, none overlapping, that line the rectangle from pixel (x1, y1) to (x2, y2) inside."""
    low_y, high_y = min(y1 + width, y2 + 1), max(y2 + 1 - width, y1 + width)
    spans = [
        (y1, low_y, x1, x2 + 1),
        (high_y, y2 + 1, x1, x2 + 1),
        (low_y, high_y, x1, min(x1 + width, x2 + 1)),
        (low_y, high_y, max(x2 + 1 - width, x1 + width), x2 + 1),
    ]
    return [(slice(max(a, 0), max(b, 0)), slice(max(c, 0), max(d, 0))) for a, b, c, d in spans]


def _tag(
    picture: np.ndarray,
    cover: np.ndarray,
    corner: tuple[int, int, int, int],
    colour: Colour,
    taken: list[tuple[int, int, int, int]],
) -> None:
    """Paint a label at the box: above it if there is room, else where it hides no other label."""
    x1, y1, x2, y2 = corner
    pad = max(2, cover.shape[0] // 6)
    width, height = cover.shape[1] + 2 * pad, cover.shape[0] + pad // 2
    places = [(x1, y1 - height), (x1, y1), (x1, y2 + 1), (x2 + 1 - width, y1 - height), (x2 + 1 - width, y2 + 1)]
    room = (picture.shape[1] - width, picture.shape[0] - height)
    inside = [(min(max(x, 0), max(room[0], 0)), y) for x, y in places if 0 <= y <= room[1]]
    inside = inside or [(min(max(x1, 0), max(room[0], 0)), min(max(y1, 0), max(room[1], 0)))]
    x, y = min(inside, key=lambda place: sum(_shared(place, width, height, other) for other in taken))
    taken.append((x, y, width, height))
    picture[y : y + height, x : x + width] = colour
    blend(picture, cover, x + pad, y + pad // 4, _readable_on(colour))


def _shared(place: tuple[int, int], width: int, height: int, other: tuple[int, int, int, int]) -> int:
    across = min(place[0] + width, other[0] + other[2]) - max(place[0], other[0])
    down = min(place[1] + height, other[1] + other[3]) - max(place[1], other[1])
    return max(across, 0) * max(down, 0)


def _readable_on(colour: Colour) -> Colour:
    linear = [(v / 255) ** 2.2 for v in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # The WCAG contrasts of black and white are equal at 0.18, but on saturated red and blue white is easier to read.
    return (0, 0, 0) if luminance > 0.36 else (255, 255, 255)


def _cell_size(images: Sequence[np.ndarray], cell_px: int) -> tuple[int, int]:
    scaled = [np.array(image.shape[:2]) * cell_px / max(image.shape[:2]) for image in images]
    height, width = np.rint(np.max(scaled, axis=0)).astype(int).tolist()
    return height, width


def _margin(sizes: Sequence[int], gap: int) -> int:
    return max(sizes) + gap if sizes else 0


def _place(page: np.ndarray, image: np.ndarray, x: int, y: int, width: int, height: int) -> None:
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    x, y = x + (width - size[0]) // 2, y + (height - size[1]) // 2
    page[y : y + size[1], x : x + size[0]] = small
