"""Spherical knowledge distillation."""

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import log_probabilities

__all__ = ["skd"]

_EPSILON = 1e-7  # of the variance, as published


def skd(student: Tensor, teacher: Tensor, *, multiplier: float | None = None) -> Tensor:
    """Cross entropy of logits that were brought to one mean and one spread: how confident each network is drops out.

    Formula: n(z) = (z - mean z) / sqrt(var z + 1e-7) * m, m = std(z_t);
        L = -mean_n sum_c softmax(n(z_t)) log softmax(n(z_s))
    Attaches: class logits, classes along the last axis.
    Shapes: student and teacher [N, ..., C], raw logits.
    Args:
        multiplier: m for every sample; by default the (unbiased) standard deviation of the teacher's own logits.
    Reduction: sum over classes, mean over everything else.
    Gradient: to the student only, and not through the multiplier.
    Minimum: the entropy of softmax(n(z_t)), not 0; scaling or shifting the student's logits changes nothing.
    Source: Guo et al. 2020, https://arxiv.org/abs/2010.07485; PaddleSlim `dist.skd`.
    Differences: PaddleSlim normalises over all axes but the first; for [N, C] that is the same.
    """
    if multiplier is not None:
        check_positive("skd", multiplier=multiplier)
    student, teacher = from_student(student), from_teacher(teacher)
    scale = paddle.std(teacher, axis=-1, keepdim=True) if multiplier is None else multiplier
    target = F.softmax(_normalise(teacher) * scale, axis=-1)
    return -(target * log_probabilities(_normalise(student) * scale)).sum(axis=-1).mean()


def _normalise(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(axis=-1, keepdim=True)
    return centred * paddle.rsqrt((centred * centred).mean(axis=-1, keepdim=True) + _EPSILON)
