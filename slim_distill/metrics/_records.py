"""Checks of detections and ground truth that the VOC and the COCO figures share."""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from slim_distill.common.errors import DataError

__all__ = ["Record", "boxes_and_classes", "check_detections", "index_records"]

Record = Mapping[str, Any]


def index_records(records: Iterable[Record]) -> dict[Hashable, Record]:
    """Arrange a data set's records by image id, in their order.

    Args:
        records: one mapping an image, with its number under `im_id` (a number, or an array of one number).

    Raises:
        DataError: two records have the same id.
    """
    by_id: dict[Hashable, Record] = {}
    for record in records:
        im_id = np.asarray(record["im_id"]).reshape(-1)[0].item()
        if im_id in by_id:
            files = [str(r.get("im_file", "?")) for r in (by_id[im_id], record)]
            raise DataError(
                f"{files[1]}: image id {im_id!r} is taken by {files[0]}; every image needs an id of its own"
            )
        by_id[im_id] = record
    return by_id


def check_detections(
    detections: Mapping[Any, np.ndarray], known_ids: Mapping[Any, Any], num_classes: int
) -> dict[Hashable, np.ndarray]:
    """Return the detections as float64 arrays [K, 6], in the order of `known_ids`; images without any are left out.

    Args:
        detections: image id -> [K, 6] of class, score, x1, y1, x2, y2.
        known_ids: the images that exist.
        num_classes: classes are 0 ... num_classes - 1.

    Raises:
        DataError: an unknown image, another shape than [K, 6], a class that does not exist, a score or corner that is
            not finite.
    """
    for im_id in detections:
        if im_id not in known_ids:
            shown = ", ".join(repr(k) for k in list(known_ids)[:3])
            raise DataError(
                f"detections of image {im_id!r}: no such image in the ground truth; its {len(known_ids)} ids begin "
                f"{shown}; the detections must come from the data set they are compared with"
            )
    checked: dict[Hashable, np.ndarray] = {}
    for im_id in known_ids:
        rows = np.asarray(detections.get(im_id, ()), dtype=np.float64)
        if rows.size == 0:
            continue
        _check_rows(im_id, rows, num_classes)
        checked[im_id] = rows
    return checked


def boxes_and_classes(im_id: Hashable, record: Record, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ground truth of one image: boxes [n, 4] float64, classes [n] int64, difficult [n] bool.

    A missing `difficult` means that no object is.

    Raises:
        DataError: lengths that differ, or a class that does not exist.
    """
    boxes = np.asarray(record["gt_bbox"], dtype=np.float64).reshape(-1, 4)
    classes = np.asarray(record["gt_class"]).reshape(-1).astype(np.int64)
    difficult = record.get("difficult")
    flags = np.zeros(len(boxes), bool) if difficult is None else np.asarray(difficult).reshape(-1).astype(bool)
    where = f"{record.get('im_file', 'image')} (id {im_id!r})"
    if not len(boxes) == len(classes) == len(flags):
        raise DataError(
            f"{where}: {len(boxes)} boxes, {len(classes)} classes and {len(flags)} difficult flags; "
            "each object needs one of each"
        )
    _check_classes(where, classes, num_classes)
    return boxes, classes, flags


def _check_rows(im_id: Hashable, rows: np.ndarray, num_classes: int) -> None:
    where = f"detections of image {im_id!r}"
    if rows.ndim != 2 or rows.shape[1] != 6:
        raise DataError(f"{where}: shape {rows.shape}; [K, 6] of class, score, x1, y1, x2, y2 is wanted")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(f"{where}: row {bad} is not finite: {rows[bad].tolist()}")
    _check_classes(where, rows[:, 0], num_classes)


def _check_classes(where: str, classes: np.ndarray, num_classes: int) -> None:
    wrong = (classes < 0) | (classes >= num_classes) | (classes != np.floor(classes))
    if wrong.any():
        raise DataError(
            f"{where}: class {classes[wrong][0]:g} does not exist; the data set has {num_classes} classes, "
            f"0 to {num_classes - 1}"
        )
