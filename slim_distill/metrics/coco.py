"""Average precision of object detection as the COCO challenge counts it, through pycocotools."""

import contextlib
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from slim_distill.common.errors import DataError
from slim_distill.metrics._records import Record, boxes_and_classes, check_detections, index_records

__all__ = ["COCO_METRICS", "coco_ap", "coco_detections", "coco_from_records"]

COCO_METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip

_log = logging.getLogger("slim_distill.metrics")


def coco_ap(
    detections: Mapping[Any, np.ndarray],
    gt: str | Path | Mapping[str, Any],
    *,
    class_to_category: Mapping[int, int] | None = None,
    image_ids: Iterable[int] | None = None,
    plus_one: bool = True,
) -> dict[str, float]:
    """Return the 12 COCO figures, then `AP/<class name>` and `AP50/<class name>` of every class.

    AP is the mean over IoU 0.50, 0.55 ... 0.95 and over classes; AR1, AR10, AR100 are recalls with so many detections
    an image; small, medium and large are objects below 32^2, between, and above 96^2 pixels. All lie in 0 ... 1; a
    figure without any object to measure it on is -1, as pycocotools has it.

    Args:
        detections: image id -> [K, 6] of class, score, x1, y1, x2, y2 in pixels. Images that are missing have none.
        gt: a COCO annotation file, or its content; the content is not changed.
        class_to_category: class number -> category id; by default class k is the k-th category in order of ids.
        image_ids: the images to measure on; by default all of `gt`.
        plus_one: export a box as x2 - x1 + 1 wide, as PaddleDetection does.

    Raises:
        DataError: the file is missing or no COCO annotation file; detections that do not fit it; no annotations.
    """
    content = _content(gt)
    names = {c["id"]: str(c["name"]) for c in content["categories"]}
    categories = dict(enumerate(sorted(names))) if class_to_category is None else dict(class_to_category)
    for number, category in categories.items():
        if category not in names:
            raise DataError(f"class_to_category: class {number} is category {category}, which is not among {names}")
    images = {image["id"]: image for image in content["images"]}
    rows = check_detections(detections, images, max(categories) + 1)
    return _evaluate(content, coco_detections(rows, categories, plus_one=plus_one), names, image_ids)


def coco_detections(
    detections: Mapping[Any, np.ndarray], class_to_category: Mapping[int, int], *, plus_one: bool = True
) -> list[dict[str, Any]]:
    """Return detections (image id -> [K, 6]) in the form of a COCO result file: image_id, category_id, bbox, score.

    Raises:
        DataError: a class that `class_to_category` does not have.
    """
    one = 1.0 if plus_one else 0.0
    result = []
    for im_id, rows in detections.items():
        for number, score, x1, y1, x2, y2 in np.asarray(rows, np.float64).tolist():
            bbox = [x1, y1, x2 - x1 + one, y2 - y1 + one]
            category = class_to_category.get(int(number))
            if category is None:
                known = ", ".join(map(str, sorted(class_to_category)))
                raise DataError(
                    f"detections of image {im_id!r}: class {number:g} has no category; classes {known} have"
                )
            result.append({"image_id": im_id, "category_id": category, "bbox": bbox, "score": score})
    return result


def coco_from_records(
    records: Iterable[Record], classes: Sequence[str], *, plus_one: bool = True, ignore_difficult: bool = True
) -> dict[str, Any]:
    """Return a data set's records as the content of a COCO annotation file, so that a VOC set gets COCO figures too.

    Class k becomes category k + 1.

    Args:
        records: one mapping an image: `im_id`, `im_file`, `h`, `w`, `gt_bbox` [n, 4] as x1, y1, x2, y2 in pixels,
            `gt_class` [n] or [n, 1], and optionally `is_crowd` [n] and `difficult` [n].
        classes: their names.
        plus_one: a box is x2 - x1 + 1 wide; must be what `coco_ap` is told.
        ignore_difficult: mark difficult objects as crowd, so that finding or missing them does not count.

    Raises:
        DataError: two records with one id, or objects that do not fit `classes`.
    """
    one = 1.0 if plus_one else 0.0
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for im_id, record in index_records(records).items():
        size = {side: int(np.asarray(record[key]).reshape(-1)[0]) for side, key in (("height", "h"), ("width", "w"))}
        images.append({"id": im_id, "file_name": str(record["im_file"]), **size})
        boxes, numbers, difficult = boxes_and_classes(im_id, record, len(classes))
        crowd = np.asarray(record.get("is_crowd", np.zeros(len(boxes)))).reshape(-1).astype(bool)
        crowd = crowd | difficult if ignore_difficult else crowd
        for (x1, y1, x2, y2), number, is_crowd in zip(boxes.tolist(), numbers.tolist(), crowd.tolist(), strict=True):
            width, height = x2 - x1 + one, y2 - y1 + one
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": im_id,
                    "category_id": number + 1,
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": int(is_crowd),
                }
            )
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _content(gt: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return annotations that pycocotools may write into, checked for the parts it needs."""
    where, content = ("ground truth", gt) if isinstance(gt, Mapping) else (str(gt), _read_json(Path(gt)))
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, Mapping) or not isinstance(content.get(key), list):
            raise DataError(f"{where}: no list {key!r}; a COCO annotation file has images, annotations and categories")
        if not content[key]:
            raise DataError(f"{where}: the list {key!r} is empty; there is nothing to compare with")
    return {**content, "annotations": [{"iscrowd": 0, **annotation} for annotation in content["annotations"]]}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not a JSON file: {error}") from error


def _evaluate(
    content: dict[str, Any],
    results: list[dict[str, Any]],
    names: Mapping[int, str],
    image_ids: Iterable[int] | None,
) -> dict[str, float]:
    # pycocotools only prints; what it says goes to the log. Its loadRes fails on an empty list, so it is not used.
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        annotations = [
            {**r, "id": i + 1, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0} for i, r in enumerate(results)
        ]
        evaluation = COCOeval(_coco(content), _coco({**content, "annotations": annotations}), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = sorted(set(image_ids))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    _log.debug("%s", said.getvalue())
    figures = dict(zip(COCO_METRICS, (float(v) for v in evaluation.stats), strict=True))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # [IoU, recall, class]; all sizes, 100 detections an image
    for k, category in enumerate(evaluation.params.catIds):
        figures[f"AP/{names[category]}"] = _mean_or_minus_one(precision[:, :, k])
        figures[f"AP50/{names[category]}"] = _mean_or_minus_one(precision[0, :, k])
    return figures


def _coco(content: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def _mean_or_minus_one(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0
