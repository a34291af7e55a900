"""Generalised overlap of boxes with a teacher's."""

import paddle

from slim_distill.losses._common import Tensor, from_student, from_teacher, weighted_mean

__all__ = ["giou"]

_TINY = 1e-9  # least area that is divided by, far below that of any box in pixels or shares


def giou(student: Tensor, teacher: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """One minus the generalised intersection over union of each box with the teacher's.

    Formula: U = union, E = smallest box around both; L = sum_i w_i (1 - I / U + (E - U) / E) / sum_i w_i
    Attaches: decoded boxes, place by place.
    Shapes: student and teacher [N, ..., 4] as x1, y1, x2, y2 in any one unit; weight [N, ...].
    Args:
        weight: how much a place counts: the teacher's score, or its assigner's positives; all alike without.
    Reduction: weighted mean over places; between 0 and 2.
    Gradient: to the student only.
    Source: Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630; PaddleDetection
        `DistillPPYOLOELoss` (weight 2.5).
    Differences: none known.
    """
    s, t = from_student(student), from_teacher(teacher)
    overlap, hull = _area(s, t, outer=False), _area(s, t, outer=True)
    union = _area(s, s, outer=False) + _area(t, t, outer=False) - overlap
    loss = 1 - overlap / paddle.clip(union, min=_TINY) + (hull - union) / paddle.clip(hull, min=_TINY)
    return weighted_mean(loss, weight)


def _area(a: Tensor, b: Tensor, *, outer: bool) -> Tensor:
    """Area of the smallest box around both boxes, or of what they share; a box turned inside out has none."""
    low, high = (paddle.minimum, paddle.maximum) if outer else (paddle.maximum, paddle.minimum)
    size = paddle.clip(high(a[..., 2:], b[..., 2:]) - low(a[..., :2], b[..., :2]), min=0.0)
    return size[..., 0] * size[..., 1]
