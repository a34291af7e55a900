"""The student's own detection loss, with the teacher's boxes as ground truth."""

import paddle
from paddle.vision.ops import yolo_box, yolo_loss

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_not_negative, check_positive, fixed, from_student, from_teacher

__all__ = ["pseudo_label"]

_ANCHORS = (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)


def pseudo_label(
    student: tuple[Tensor, ...],
    teacher: tuple[Tensor, ...],
    *,
    threshold: float = 0.3,
    overlap: float = 0.45,
    most: int = 50,
    ignore: float = 0.7,
    anchors: tuple[int, ...] = _ANCHORS,
    masks: tuple[tuple[int, ...], ...] = ((6, 7, 8), (3, 4, 5), (0, 1, 2)),
) -> Tensor:
    """YOLOv3's detection loss on the boxes that the teacher finds: needs no labels and no equal anchors or places.

    Formula: boxes = the teacher's decoded boxes with score objectness * class above the threshold, without those that a
        better box of the same class overlaps; L = mean_n sum over scales of YOLOv3's loss, boxes weighed by scores
    Attaches: the raw head maps of YOLOv3, stride 32, 16, 8 (as many as `masks`).
    Shapes: student and teacher [N, A (5 + C), H, W], raw.
    Args:
        threshold: least score of a box.
        overlap: intersection over union from which the worse of two boxes of one class is dropped.
        most: boxes that are looked at, and kept at most, per image.
        ignore: places whose predicted box overlaps a box more than this get no objectness loss.
        anchors: widths and heights in pixels, one after the other.
        masks: numbers of the anchors of each map.
    Reduction: as YOLOv3: sum over places and parts of an image, mean over the batch.
    Gradient: to the student only.
    Minimum: not at student = teacher: scores are pushed on to 1.
    Source: Redmon and Farhadi 2018, https://arxiv.org/abs/1804.02767; self-training as in https://arxiv.org/abs/2005.04757.
    Differences: overlaps are judged against all better boxes at once (fast NMS), also those that fall themselves: a
        little stricter than one after the other, and expressible in a program.
    """
    check_positive("pseudo_label", threshold=threshold, overlap=overlap, most=most)
    check_not_negative("pseudo_label", ignore=ignore)
    if not len(student) == len(teacher) == len(masks):
        raise LossError(
            f"pseudo_label: needs one map for each of the {len(masks)} masks, got {len(student)} of the student and "
            f"{len(teacher)} of the teacher"
        )
    classes = [_classes(x, mask) for x, mask in zip((*student, *teacher), (*masks, *masks), strict=True)]
    if len(set(classes)) != 1:
        raise LossError(f"pseudo_label: the maps' channels stand for different numbers of classes: {classes}")
    strides = [32 // 2**scale for scale in range(len(masks))]
    boxes, labels, scores = _teacher_boxes(teacher, anchors, masks, strides, classes[0], threshold, overlap, most)
    total = None
    for x, mask, stride in zip(student, masks, strides, strict=True):
        part = yolo_loss(
            from_student(x), boxes, labels, list(anchors), list(mask), classes[0], ignore, stride, scores, False
        ).mean()
        total = part if total is None else total + part
    return total


def _classes(x: Tensor, mask: tuple[int, ...]) -> int:
    channels = fixed(x, 1)
    if channels is None or channels % len(mask) or channels // len(mask) < 6:
        raise LossError(
            f"pseudo_label: {list(x.shape)} is no head map of {len(mask)} anchors with 5 + classes channels each"
        )
    return channels // len(mask) - 5


def _teacher_boxes(
    teacher: tuple[Tensor, ...],
    anchors: tuple[int, ...],
    masks: tuple[tuple[int, ...], ...],
    strides: list[int],
    classes: int,
    threshold: float,
    overlap: float,
    most: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes [N, K, 4] (centre x, y, width, height as shares of the image), classes [N, K] int32, scores [N, K].

    Rows that fell have size and score 0, which the loss skips.
    """
    found, certain = [], []
    for x, mask, stride in zip(teacher, masks, strides, strict=True):
        x = from_teacher(x)
        unit_size = paddle.ones_like(paddle.cast(x[:, :2, 0, 0], "int32"))  # an image of 1 by 1: boxes come as shares
        own = [side for anchor in mask for side in anchors[2 * anchor : 2 * anchor + 2]]
        corners, scores = yolo_box(x, unit_size, own, classes, 0.0, stride, clip_bbox=False)
        found.append(corners)
        certain.append(scores)
    corners, scores = paddle.concat(found, axis=1), paddle.concat(certain, axis=1)  # [N, M, 4], [N, M, C]
    places = fixed(corners, 1)
    best, place = paddle.topk(scores.max(axis=-1), most if places is None else min(most, places), axis=1)
    label = paddle.take_along_axis(scores.argmax(axis=-1), place, axis=1)
    corners = paddle.take_along_axis(corners, paddle.expand(paddle.unsqueeze(place, -1), [-1, -1, 4]), axis=1)
    kept = paddle.logical_and(best > threshold, paddle.logical_not(_beaten(corners, label, overlap)))
    keep = paddle.cast(kept, corners.dtype)
    low, high = corners[:, :, :2], corners[:, :, 2:]
    centred = paddle.concat([(low + high) / 2, high - low], axis=-1)
    return centred * paddle.unsqueeze(keep, -1), paddle.cast(label, "int32"), best * keep


def _beaten(corners: Tensor, label: Tensor, overlap: float) -> Tensor:
    """Whether a box, of boxes from best to worst, overlaps any better one of its class."""
    a, b = paddle.unsqueeze(corners, 1), paddle.unsqueeze(corners, 2)
    size = paddle.clip(paddle.minimum(a[..., 2:], b[..., 2:]) - paddle.maximum(a[..., :2], b[..., :2]), min=0.0)
    shared = size[..., 0] * size[..., 1]
    side = corners[:, :, 2:] - corners[:, :, :2]
    area = side[:, :, 0] * side[:, :, 1]
    union = paddle.unsqueeze(area, 1) + paddle.unsqueeze(area, 2) - shared
    same = paddle.unsqueeze(label, 1) == paddle.unsqueeze(label, 2)
    close = paddle.cast(paddle.logical_and(same, shared > overlap * union), corners.dtype)  # [N, K, K]
    return paddle.tril(close, -1).sum(axis=-1) > 0
