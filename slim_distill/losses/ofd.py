"""A comprehensive overhaul of feature distillation: margin ReLU and partial distance."""

import math

import paddle

from slim_distill.common.errors import LossError
from slim_distill.losses._common import TeacherTensor, Tensor, from_student, from_teacher
from slim_distill.losses._features import per_sample

__all__ = ["ofd"]

_RARE = 1e-3  # share of negative values below which the closed form is not used


def ofd(
    student: Tensor,
    teacher: Tensor,
    *,
    margin: TeacherTensor | None = None,
    scale: TeacherTensor | None = None,
    offset: TeacherTensor | None = None,
) -> Tensor:
    """Squared difference to the teacher's map before its ReLU, where not both are in the part that the ReLU cuts off.

    Formula: t' = max(t, m); L = mean_n sum (s - t')^2 [s > t' or t' > 0];
        m = E[x | x < 0] for x normal with mean b and deviation |g|: b - |g| phi(b / g) / Phi(-b / |g|), or
        -3 |g| where negative values are rarer than 1 in 1000
    Attaches: maps before the ReLU, after the batch norm; usually with an adapter (conv1x1_bn).
    Shapes: maps [N, C, H, W] both; margin, scale and offset [C].
    Args:
        margin: m for each channel, at most 0. Without margin, scale and offset m is the mean of the channel's negative
            values in the batch: for teachers whose batch norm was folded away.
        scale: g, the batch norm's scale; with `offset` it gives m in closed form.
        offset: b, the batch norm's offset.
    Reduction: sum over channels and positions, mean over the batch: grows with channels and image size.
    Gradient: to the student only.
    Source: Heo et al. 2019, https://arxiv.org/abs/1904.01866 (weight 1e-3).
    Differences: mmrazor divides by a further 1000 and weighs layers 1/4, 1/2, 1; both belong into the weight.
    """
    if (scale is None) != (offset is None) or (margin is not None and scale is not None):
        raise LossError(
            "ofd: give either margin, or both scale and offset of the teacher's batch norm, or none of them"
        )
    student, teacher = from_student(student), from_teacher(teacher)
    if margin is not None:
        least = from_teacher(margin)
    elif scale is not None and offset is not None:
        least = _expected_negative(from_teacher(scale), from_teacher(offset))
    else:
        negative = paddle.clip(teacher, max=0.0)
        number = paddle.cast(teacher < 0, teacher.dtype).sum(axis=[0, 2, 3])
        least = negative.sum(axis=[0, 2, 3]) / paddle.clip(number, min=1.0)
    target = paddle.maximum(teacher, paddle.reshape(least, [1, -1, 1, 1]))
    counts = paddle.cast(paddle.logical_or(student > target, target > 0), student.dtype)
    difference = student - target
    return per_sample(difference * difference * counts)


def _expected_negative(scale: Tensor, offset: Tensor) -> Tensor:
    spread = paddle.abs(scale)
    ratio = offset / paddle.clip(spread, min=1e-12)
    share = 0.5 * (1 - paddle.erf(ratio / math.sqrt(2.0)))
    density = paddle.exp(-ratio * ratio / 2) / math.sqrt(2 * math.pi)
    closed = offset - spread * density / paddle.clip(share, min=_RARE)
    return paddle.where(share > _RARE, closed, -3 * spread)
