"""Distillation by Pearson correlation of feature maps."""

import paddle

from slim_distill.losses._common import Tensor, count, from_student, from_teacher

__all__ = ["pkd"]

_EPSILON = 1e-6  # added to the standard deviation, as published


def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared difference of maps whose channels were brought to mean 0 and deviation 1 over the batch.

    Formula: n(x) = (x - mean x) / (std x + 1e-6) for each channel over batch and positions, std unbiased;
        L = mean((n(s) - n(t))^2) / 2, which is about 1 - correlation
    Attaches: feature maps of equal shape, of networks that may differ a lot: magnitudes play no part.
    Shapes: [N, C, H, W] both, or [N, C].
    Reduction: mean over all elements; statistics over the batch of one device.
    Gradient: to the student only; a channel without any spread gives none.
    Source: Cao et al. 2022, https://arxiv.org/abs/2207.02039 (weight 6 to 10).
    Differences: mmrazor resizes the student where sizes differ: here that is the term's `resize: student`.
    """
    return paddle.square(_normalise(from_student(student)) - _normalise(from_teacher(teacher))).mean() / 2


def _normalise(x: Tensor) -> Tensor:
    axes = [axis for axis in range(len(x.shape)) if axis != 1]
    centred = x - x.mean(axis=axes, keepdim=True)
    square = paddle.square(centred).sum(axis=axes, keepdim=True)
    # The tiny constant keeps the root's derivative finite where a channel is constant.
    deviation = paddle.sqrt(square / (count(x, axes) - 1) + 1e-24)
    return centred * (1 / (deviation + _EPSILON))  # the gradient of a division reads three maps, of a product two
