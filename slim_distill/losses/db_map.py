"""Distillation of text detectors' maps with dilation (differentiable binarisation)."""

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_not_negative, check_positive, from_student, from_teacher

__all__ = ["db_map"]

_EPSILON = 1e-6  # added to the denominators, as published


def db_map(
    student: tuple[Tensor, Tensor],
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    threshold: float = 0.3,
    alpha: float = 5.0,
    ratio: float = 3.0,
) -> Tensor:
    """The student's map losses with the teacher's thresholded and dilated map as label.

    Formula: g = dilate2x2(t > threshold); BCE = (sum over positives + sum over the hardest ratio * positives negatives)
        / (their number + 1e-6); dice = 1 - 2 sum(b g m) / (sum(b m) + sum(g m) + 1e-6);
        L = alpha BCE(p, g) + dice(b, g)
    Attaches: outputs of a DB head, probabilities: the student's shrink map p and binary map b, the teacher's shrink
        map t.
    Shapes: p, b, t and mask [N, H, W] or [N, 1, H, W].
    Args:
        mask: m, 1 for pixels that count; all without.
        threshold: from which probability the teacher's map is text.
        alpha: weight of the cross entropy.
        ratio: hardest negatives that count for each positive.
    Reduction: sums over the whole batch divided by their counts; without a positive the cross entropy is 0.
    Gradient: to the student only.
    Minimum: not at student = teacher: both maps are pushed to 0 and 1.
    Source: Liao et al. 2020, https://arxiv.org/abs/1911.08947; PaddleOCR `DistillationDilaDBLoss` (PP-OCRv2 to v4).
    Differences: PaddleOCR dilates by OpenCV outside the graph; the same 2x2 dilation here is a max-pool over each pixel
        and its neighbours above and to the left.
    """
    if not 0 < threshold < 1:
        raise LossError(f"db_map: threshold must be above 0 and below 1, got {threshold}")
    check_not_negative("db_map", alpha=alpha)
    check_positive("db_map", ratio=ratio)
    shrink, binary = (_plane(from_student(x)) for x in student)
    label = _dilate(paddle.cast(_plane(from_teacher(teacher)) > threshold, shrink.dtype))
    counts = paddle.ones_like(label) if mask is None else paddle.cast(_plane(mask), label.dtype)
    shared = (binary * label * counts).sum()
    dice = 1 - 2 * shared / ((binary * counts).sum() + (label * counts).sum() + _EPSILON)
    return alpha * _balanced_entropy(shrink, label, counts, ratio) + dice


def _plane(x: Tensor) -> Tensor:
    return paddle.squeeze(x, 1) if len(x.shape) == 4 else x


def _dilate(x: Tensor) -> Tensor:
    padded = F.pad(paddle.unsqueeze(x, 1), [1, 0, 1, 0])
    return paddle.squeeze(F.max_pool2d(padded, 2, 1), 1)


def _balanced_entropy(probability: Tensor, label: Tensor, counts: Tensor, ratio: float) -> Tensor:
    positive = label * counts
    negative = counts - positive
    loss = F.binary_cross_entropy(probability, label, reduction="none")
    wanted = paddle.minimum(negative.sum(), paddle.floor(positive.sum() * ratio))
    hardest = paddle.sort(paddle.flatten(loss * negative), descending=True)
    # Counted in integers: float32 counts no further than 2^24 pixels.
    rank = paddle.cumsum(paddle.ones_like(hardest, dtype="int64"), axis=0)
    taken = (hardest * paddle.cast(rank <= paddle.cast(wanted, "int64"), loss.dtype)).sum()
    return ((loss * positive).sum() + taken) / (positive.sum() + wanted + _EPSILON)
