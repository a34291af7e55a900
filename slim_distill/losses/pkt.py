"""Probabilistic knowledge transfer."""

import paddle

from slim_distill.losses._common import Tensor, from_student, from_teacher
from slim_distill.losses._features import unit

__all__ = ["pkt"]

_EPSILON = 1e-7  # inside the logarithm, as published: a probability here may be exactly 0


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the probabilities that one sample of a batch is a neighbour of another.

    Formula: k_ij = (cos(x_i, x_j) + 1) / 2, p_ij = k_ij / sum_j k_ij; L = mean(p_t log((p_t + 1e-7) / (p_s + 1e-7)))
    Attaches: embeddings, or maps, which are flattened; the two widths may differ.
    Shapes: [N, ...] each.
    Reduction: mean over all N^2 pairs, so 1 / N of the sum over neighbours.
    Gradient: to the student only.
    Source: Passalis and Tefas 2018, https://arxiv.org/abs/1803.10837 (weight 30000 in RepDistiller).
    Differences: none known. Norms are sqrt(sum x^2 + 1e-12).
    """
    p_s, p_t = (_neighbours(x) for x in (from_student(student), from_teacher(teacher)))
    return (p_t * (paddle.log(p_t + _EPSILON) - paddle.log(p_s + _EPSILON))).mean()


def _neighbours(x: Tensor) -> Tensor:
    x = unit(paddle.flatten(x, 1), 1)
    kernel = (paddle.matmul(x, x, transpose_y=True) + 1) / 2
    return kernel / kernel.sum(axis=1, keepdim=True)
