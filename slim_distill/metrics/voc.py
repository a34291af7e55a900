"""Average precision of object detection as the PASCAL VOC challenge and PaddleDetection 0.x count it."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slim_distill.common.errors import DataError
from slim_distill.common.names import pick
from slim_distill.metrics._records import Record, boxes_and_classes, check_detections

__all__ = ["MAP_TYPES", "ClassAp", "VocResult", "average_precision", "iou_matrix", "voc_ap"]


@dataclass(frozen=True)
class ClassAp:
    """One class of a `VocResult`.

    Attributes:
        ap: average precision, 0 to 1; None for a class without counted ground truth.
        precision: [K] precision after each detection, the best score first.
        recall: [K] recall after each detection; zeros for a class without ground truth.
        scores: [K] the scores, descending.
        num_truth: counted objects.
        num_true_positive: detections that found one of them.
    """

    ap: float | None
    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray
    num_truth: int
    num_true_positive: int

    @property
    def num_detections(self) -> int:
        """Detections that count, right or wrong; those on difficult objects do not."""
        return len(self.scores)


@dataclass(frozen=True)
class VocResult:
    """`map` is the mean over the classes that have ground truth, 0 to 1; `per_class` holds class k at index k."""

    map: float
    per_class: tuple[ClassAp, ...]


def voc_ap(
    detections: Mapping[Any, np.ndarray],
    ground_truth: Mapping[Any, Record],
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
    map_type: str = "11point",
    evaluate_difficult: bool = False,
    plus_one: bool = True,
    skip_empty_batches: int = 0,
) -> VocResult:
    """Compare detections with ground truth and return the average precision of every class and their mean.

    Within an image the detections are taken in the order given. Each is compared with the object of its class that it
    overlaps most (the first of equals): it is right when that IoU is above the threshold and no earlier detection had
    the same object, wrong otherwise, and left out when the object is difficult. Then the detections of all images
    are sorted by score, best first, equals in the order of `ground_truth`.

    Args:
        detections: image id -> [K, 6] of class, score, x1, y1, x2, y2 in pixels. Images that are missing have none.
        ground_truth: image id -> record with `gt_bbox` [n, 4] as x1, y1, x2, y2 in pixels, `gt_class` [n] or [n, 1],
            and optionally `difficult` [n].
        num_classes: classes are 0 ... num_classes - 1.
        iou_threshold: smallest IoU of a hit; the IoU must be larger.
        map_type: "11point", mean of the best precision at recall 0, 0.1 ... 1 (VOC 2007); or "integral", the
            precision summed over the steps of recall, without the envelope that VOC 2010 puts over the curve.
        evaluate_difficult: count difficult objects like any other.
        plus_one: a box from x1 to x2 is x2 - x1 + 1 wide, as for whole pixels.
        skip_empty_batches: 0, or the published evaluation loop's batch size: it took images in order and forgot a
            batch without any detection together with its ground truth, which raises the result.

    Raises:
        DataError: detections of unknown images, of another shape, of unknown classes or not finite; no ground truth.

    Source: PaddleDetection release/0.4, `DetectionMAP`.
    """
    average_precision(np.zeros(0), np.zeros(0), map_type)  # refuses an unknown map_type before the work
    rows = check_detections(detections, ground_truth, num_classes)
    truth = {im_id: boxes_and_classes(im_id, record, num_classes) for im_id, record in ground_truth.items()}
    if not any(len(boxes) for boxes, _, _ in truth.values()):
        raise DataError(f"ground truth: no object in {len(truth)} images; there is nothing to compare with")
    kept = _without_empty_batches(rows, list(truth), skip_empty_batches)
    num_truth = np.zeros(num_classes, np.int64)
    outcomes = [np.zeros((0, 3))]
    for im_id in kept:
        boxes, classes, difficult = truth[im_id]
        counted = np.ones(len(boxes), bool) if evaluate_difficult else ~difficult
        num_truth += np.bincount(classes[counted], minlength=num_classes)
        if im_id in rows:
            outcomes.append(_judge(rows[im_id], boxes, classes, counted, iou_threshold, plus_one))
    per_class = _curves(np.concatenate(outcomes), num_truth, map_type)
    counted_aps = [c.ap for c in per_class if c.ap is not None]
    return VocResult(float(np.mean(counted_aps)) if counted_aps else 0.0, per_class)


def iou_matrix(a: np.ndarray, b: np.ndarray, *, plus_one: bool = True) -> np.ndarray:
    """Return [len(a), len(b)], the intersection over union of boxes [*, 4] given as x1, y1, x2, y2.

    With `plus_one` a box covers its last pixel too. Boxes that only touch overlap 0 in both conventions.
    """
    one = 1.0 if plus_one else 0.0
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    overlap = np.where((high > low).all(axis=2), (high - low + one).prod(axis=2), 0.0)
    area_a = (a[:, 2:] - a[:, :2] + one).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2] + one).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


def average_precision(precision: np.ndarray, recall: np.ndarray, map_type: str) -> float:
    """Return the area under a precision-recall curve [K], [K] (recall ascending) by the rule `map_type`.

    Raises:
        DataError: `map_type` is neither "11point" nor "integral".
    """
    return pick(MAP_TYPES, map_type, "map_type", DataError)(precision, recall)


def _eleven_points(precision: np.ndarray, recall: np.ndarray) -> float:
    best_from = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    first_at = np.searchsorted(recall, np.arange(11) / 10.0, side="left")
    return float(best_from[first_at].mean())


def _integral(precision: np.ndarray, recall: np.ndarray) -> float:
    return float((precision * np.diff(recall, prepend=0.0)).sum())


MAP_TYPES = {"11point": _eleven_points, "integral": _integral}


def _without_empty_batches(rows: Mapping[Hashable, Any], im_ids: list[Hashable], batch_size: int) -> list[Hashable]:
    if batch_size == 0:
        return im_ids
    batches = (im_ids[i : i + batch_size] for i in range(0, len(im_ids), batch_size))
    return [im_id for batch in batches if any(i in rows for i in batch) for im_id in batch]


def _judge(
    rows: np.ndarray, boxes: np.ndarray, classes: np.ndarray, counted: np.ndarray, iou_threshold: float, plus_one: bool
) -> np.ndarray:
    """Return [k, 3] of class, score, 1 (right) or 0 (wrong), for the detections of one image that count."""
    right = np.zeros(len(rows))
    if len(boxes) == 0:
        return np.column_stack([rows[:, :2], right])
    overlap = np.where(rows[:, :1] == classes[None, :], iou_matrix(rows[:, 2:], boxes, plus_one=plus_one), -1.0)
    match = overlap.argmax(axis=1)
    hit = overlap.max(axis=1) > iou_threshold
    on_counted = np.flatnonzero(hit & counted[match])
    first = np.unique(match[on_counted], return_index=True)[1]
    right[on_counted[first]] = 1.0
    return np.column_stack([rows[:, :2], right])[~hit | counted[match]]


def _curves(outcomes: np.ndarray, num_truth: np.ndarray, map_type: str) -> tuple[ClassAp, ...]:
    outcomes = outcomes[np.argsort(-outcomes[:, 1], kind="stable")]
    per_class = []
    for number, count in enumerate(num_truth.tolist()):
        mine = outcomes[outcomes[:, 0] == number]
        found = np.cumsum(mine[:, 2])
        precision = found / np.arange(1, len(mine) + 1)
        recall = found / count if count else np.zeros(len(mine))
        ap = average_precision(precision, recall, map_type) if count else None
        per_class.append(ClassAp(ap, precision, recall, mine[:, 1], count, int(mine[:, 2].sum())))
    return tuple(per_class)
