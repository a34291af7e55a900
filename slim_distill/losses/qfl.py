"""Quality focal loss towards a teacher's scores."""

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, bce_with_logits, check_not_negative, from_student, from_teacher

__all__ = ["qfl"]


def qfl(student: Tensor, teacher: Tensor, *, beta: float = 2.0) -> Tensor:
    """Binary cross entropy with the teacher's scores as labels, focused on where the scores differ.

    Formula: y = sigmoid(z_t), p = sigmoid(z_s); L = sum |y - p|^b BCE(z_s, y) / max(sum_places max_c y, 1)
    Attaches: class logits of detectors with sigmoid heads, classes along the last axis.
    Shapes: student and teacher [N, ..., C], raw logits.
    Args:
        beta: b, 0 for plain cross entropy, else at least 1.
    Reduction: sum over everything, divided by the teacher's total score: about the number of objects' places.
    Gradient: to the student only, through the focus as well.
    Source: Li et al. 2020, https://arxiv.org/abs/2006.04388; PaddleDetection `DistillPPYOLOELoss` (weight 1).
    Differences: PaddleDetection divides by the number of the student's positives; here no labels are needed.
    """
    check_not_negative("qfl", beta=beta)
    if 0 < beta < 1:
        raise LossError(f"qfl: beta must be 0 or at least 1, got {beta}: below 1 the gradient is not finite")
    student, score = from_student(student), F.sigmoid(from_teacher(teacher))
    loss = bce_with_logits(student, score)
    if beta > 0:
        loss = loss * paddle.abs(score - F.sigmoid(student)) ** beta
    return loss.sum() / paddle.clip(score.max(axis=-1).sum(), min=1.0)
