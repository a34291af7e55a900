"""Neuron selectivity transfer."""

import paddle

from slim_distill.losses._common import Tensor, from_student, from_teacher
from slim_distill.losses._features import match_sizes, unit

__all__ = ["nst"]


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of the two sets of channel maps, as distributions (maximum mean discrepancy, squared product kernel).

    Formula: channels as vectors over positions of length 1, k(x, y) = (x . y)^2;
        L = mean_n (mean k(t, t) + mean k(s, s) - 2 mean k(s, t)), means over all pairs of channels
    Attaches: feature maps; channels may differ, of two sizes the larger map is average-pooled. Costs C^2 H W.
    Shapes: [N, C, H, W] each.
    Reduction: mean over batch and pairs of channels.
    Gradient: to the student only.
    Source: Huang and Wang 2017, https://arxiv.org/abs/1707.01219 (weight 50).
    Differences: RepDistiller can leave the constant k(t, t) out; here it stays, so that the least value is 0.
    """
    first, second = match_sizes(from_student(student), from_teacher(teacher))
    s, t = (unit(paddle.flatten(x, 2), 2) for x in (first, second))
    return _kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t)


def _kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    product = paddle.matmul(a, b, transpose_y=True)
    return (product * product).mean()
