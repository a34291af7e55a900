"""What every data set is once it is read: classes and records."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.errors import DataError

__all__ = ["Dataset", "Record", "check_share", "make_dataset", "make_record", "missing", "read_lines"]

Record = dict[str, Any]

_log = logging.getLogger("slim_distill.data")


@dataclass(frozen=True)
class Dataset:
    """A data set in memory; images stay on disk.

    Attributes:
        classes: class names in order of their numbers.
        records: one dict an image: im_id [1] int64, im_file, and for annotated images h, w (pixels),
            gt_bbox [n, 4] float32 (x1, y1, x2, y2 in pixels, the last pixel included), gt_class [n, 1] int32,
            gt_score [n, 1] float32, is_crowd [n, 1] int32, difficult [n, 1] int32.
        category_ids: the number that the annotation file gives to each class (COCO category ids; else 1, 2, ...).
        source: annotation file, list file or folder it was read from.
        skipped: file -> reason, of listed images that cannot be used.
        dropped_boxes: boxes without area inside their image, left out.
        clipped_boxes: boxes that reached over the image, clipped.
        max_bad_share: largest share of images that may be skipped, here and while images are decoded.
    """

    classes: tuple[str, ...]
    records: Sequence[Record]
    category_ids: tuple[int, ...]
    source: Path
    skipped: Mapping[str, str] = field(default_factory=dict)
    dropped_boxes: int = 0
    clipped_boxes: int = 0
    max_bad_share: float = 0.1

    def __len__(self) -> int:
        return len(self.records)


def make_record(im_id: int, im_file: Path, h: int, w: int, objects: Sequence[Sequence[float]]) -> Record:
    """Build one record. Each of `objects` is (x1, y1, x2, y2, class number, crowd, difficult)."""
    table = np.asarray(objects, dtype=np.float64).reshape(-1, 7)
    return {
        "im_id": np.array([im_id], np.int64),
        "im_file": str(im_file),
        "h": h,
        "w": w,
        "gt_bbox": table[:, :4].astype(np.float32),
        "gt_class": table[:, 4:5].astype(np.int32),
        "gt_score": np.ones((len(table), 1), np.float32),
        "is_crowd": table[:, 5:6].astype(np.int32),
        "difficult": table[:, 6:7].astype(np.int32),
    }


def make_dataset(dataset: Dataset) -> Dataset:
    """Check a freshly read data set, log what was left out, and return it.

    Raises:
        DataError: no image is left, or more than `max_bad_share` of them were skipped.
    """
    check_share(dataset.skipped, len(dataset) + len(dataset.skipped), dataset.max_bad_share, dataset.source)
    if not dataset.records:
        raise DataError(f"{dataset.source}: the data set is empty: no image is listed there")
    if dataset.skipped:
        file, reason = next(iter(dataset.skipped.items()))
        _log.warning("%s: %d images skipped, the first: %s: %s", dataset.source, len(dataset.skipped), file, reason)
    if dataset.dropped_boxes:
        _log.warning("%s: %d boxes without area inside their image left out", dataset.source, dataset.dropped_boxes)
    if dataset.clipped_boxes:
        _log.info("%s: %d boxes clipped to their image", dataset.source, dataset.clipped_boxes)
    return dataset


def check_share(skipped: Mapping[str, str], total: int, max_bad_share: float, source: object) -> None:
    """Raise DataError when more than `max_bad_share` of `total` images are in `skipped` (file -> reason)."""
    if len(skipped) <= max_bad_share * total:
        return
    shown = "; ".join(f"{file}: {reason}" for file, reason in list(skipped.items())[:3])
    raise DataError(
        f"{source}: {len(skipped)} of {total} images cannot be used, more than dataset.max_bad_share = "
        f"{max_bad_share:g} allows; the first: {shown}"
    )


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not blank, without blanks around them.

    Raises:
        DataError: it is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def missing(path: Path, what: str, expected: str) -> DataError:
    """Return the error for a list, annotation file or folder that is not there."""
    return DataError(
        f"{path}: no such {what}; {expected}; dataset.root, dataset.annotations and dataset.images of the "
        'configuration say where the data set is, README.md ("Your own data") how to put one there'
    )
