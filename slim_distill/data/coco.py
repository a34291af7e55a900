"""Data sets in COCO's JSON form, read without pycocotools."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slim_distill.common.errors import DataError
from slim_distill.data.dataset import Dataset, Record, make_dataset, make_record, missing
from slim_distill.data.image import MAX_SIDE_PX
from slim_distill.data.labels import COCO_CATEGORY_IDS, COCO_CLASSES, class_number, read_labels

__all__ = ["load_coco"]


def load_coco(
    root: str | Path,
    annotations: str,
    *,
    images: str = "",
    labels: str = "",
    classes: Sequence[str] = (),
    sample_num: int = -1,
    max_bad_share: float = 0.1,
) -> Dataset:
    """Read a COCO instances file.

    Class numbers follow the order of the file's categories, as pycocotools' getCatIds lists them and PaddleDetection
    counts them (in COCO's own files that is the order of the ids); with `labels` or `classes` they follow those names.

    Boxes become x1 = max(0, x), x2 = min(width - 1, x1 + w - 1) as in PaddleDetection 0.x, likewise y. Crowd
    annotations stay in the records, marked `is_crowd`, because evaluation needs them; training leaves them out, as
    published. A box without area, or outside its image, is dropped and counted.

    Args:
        root: folder of the data set.
        annotations: the JSON file, relative to `root`.
        images: folder of the images, relative to `root`.
        labels: "voc", "coco" or a label file, or "" for the file's own categories.
        classes: the class names, or () for the file's own categories.
        sample_num: use only the first so many images, -1 for all.
        max_bad_share: largest share of images that may be missing.

    Raises:
        DataError: the file is missing or no COCO file, a category has no class, too many images missing, none at all.
    """
    root = Path(root)
    path = root / annotations
    if not path.is_file():
        raise missing(path, "annotation file", f"a COCO data set with JSON file and images is expected at {root}")
    content = _read_json(path)
    wanted = read_labels(labels, classes, root)
    categories, category_ids = _categories(path, content, wanted)
    names = wanted or tuple(categories.values())
    found = _Found(path, content, categories, names)
    for item in content["images"]:
        if 0 <= sample_num <= len(found.records):
            break
        found.add(item, root / images / str(item["file_name"]))
    counts = found.skipped, found.dropped, found.clipped
    return make_dataset(Dataset(names, found.records, category_ids, path, *counts, max_bad_share))


class _Found:
    """Records made so far, and what was left out."""

    def __init__(
        self, path: Path, content: Mapping[str, Any], categories: Mapping[Any, str], names: Sequence[str]
    ) -> None:
        self._path = path
        self._categories = categories
        self._numbers = {name: i for i, name in enumerate(names)}
        self._by_image: dict[Any, list[Mapping[str, Any]]] = {}
        for annotation in content.get("annotations", ()):
            self._by_image.setdefault(annotation["image_id"], []).append(annotation)
        self.records: list[Record] = []
        self.skipped: dict[str, str] = {}
        self.dropped = self.clipped = 0

    def add(self, item: Mapping[str, Any], file: Path) -> None:
        if not file.is_file():
            self.skipped[str(file)] = "no such image"
            return
        kept = []
        for annotation in self._by_image.get(item["id"], ()):
            number = _number(self._path, annotation, self._categories, self._numbers)
            box, whole = _corners(annotation, item["width"], item["height"])
            if box is None:
                self.dropped += 1
                continue
            self.clipped += not whole
            kept.append((*box, number, int(bool(annotation.get("iscrowd"))), 0))
        self.records.append(make_record(item["id"], file, int(item["height"]), int(item["width"]), kept))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file: {error}") from error
    wanted = {
        "images": ("id", "file_name", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "bbox"),
    }
    for key, fields in wanted.items():
        rows = content.get(key, [] if key == "annotations" else None) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise DataError(f"{path}: not a COCO annotation file: it has no list {key!r}")
        for i, row in enumerate(rows):
            lacking = [f for f in fields if not isinstance(row, dict) or f not in row]
            if lacking:
                raise DataError(f"{path}: {key}[{i}] has no {', '.join(lacking)}; COCO files say {', '.join(fields)}")
    _check_rows(path, content)
    return content


def _check_rows(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse values that no reader of COCO files understands: ids and sizes that are no numbers."""
    for i, row in enumerate(content["images"]):
        if not all(_is_number(row[key]) and 0 < row[key] <= MAX_SIDE_PX for key in ("width", "height")):
            raise DataError(
                f"{path}: images[{i}] is {row['width']!r:.40} x {row['height']!r:.40} pixels; sizes are numbers above "
                f"0, at most {MAX_SIDE_PX}"
            )
    ids = {"images": ("id",), "categories": ("id",), "annotations": ("image_id", "category_id")}
    for key, fields in ids.items():
        for i, row in enumerate(content.get(key, ())):
            for field in fields:
                value = row[field]
                if type(value) is not int or abs(value) >= 1 << 63:
                    raise DataError(f"{path}: {key}[{i}].{field} is {value!r:.40}; a whole number is wanted")
    for i, row in enumerate(content.get("annotations", ())):
        for field in ("area", "iscrowd"):
            value = row.get(field)
            if value is not None and not _is_number(value):
                raise DataError(f"{path}: annotations[{i}].{field} is {value!r:.40}; a number is wanted")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _categories(
    path: Path, content: Mapping[str, Any], wanted: tuple[str, ...]
) -> tuple[dict[Any, str], tuple[int, ...]]:
    """Return category id -> class name as the file has it, and the category ids of the classes in order."""
    found = {category["id"]: str(category["name"]) for category in content["categories"]}
    ids = {name: key for key, name in found.items()}
    if wanted == COCO_CLASSES:  # a cut-down file may lack some
        ids = dict(zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True)) | ids
    for name in wanted:
        class_number(name, dict.fromkeys(ids, 0), f"{path}, list of categories")
    return found, tuple(int(ids[name]) for name in wanted or found.values())


def _number(path: Path, annotation: Mapping[str, Any], categories: Mapping[Any, str], numbers: dict[str, int]) -> int:
    category = annotation["category_id"]
    if category not in categories:
        known = ", ".join(f"{k} ({v})" for k, v in list(categories.items())[:5])
        raise DataError(
            f"{path}: annotation {annotation.get('id')} of image {annotation['image_id']} has category {category!r}, "
            f"which the file's list of categories does not have; it has {known}, ..."
        )
    return class_number(categories[category], numbers, path)


def _corners(
    annotation: Mapping[str, Any], width: float, height: float
) -> tuple[tuple[float, float, float, float] | None, bool]:
    """Return the clipped corners, or None for a box that has no area; and whether nothing was clipped."""
    try:
        x, y, w, h = (float(v) for v in annotation["bbox"])
    except (TypeError, ValueError, OverflowError):
        return None, False
    area = annotation.get("area")
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0 or (area is not None and area <= 0):
        return None, False
    x1, y1 = max(0.0, x), max(0.0, y)
    x2, y2 = min(width - 1.0, x1 + max(0.0, w - 1)), min(height - 1.0, y1 + max(0.0, h - 1))
    if x2 < x1 or y2 < y1:
        return None, False
    return (x1, y1, x2, y2), x >= 0 and y >= 0 and x + w <= width and y + h <= height
