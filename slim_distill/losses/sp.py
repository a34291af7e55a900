"""Similarity-preserving distillation."""

import paddle

from slim_distill.losses._common import Tensor, from_student, from_teacher
from slim_distill.losses._features import unit

__all__ = ["sp"]


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Which samples of a batch look alike to each network.

    Formula: G = F F^T with F the flattened batch, rows divided by their norm; L = mean((G_s - G_t)^2)
    Attaches: feature maps or embeddings; shapes beyond the batch may differ.
    Shapes: [N, ...] each.
    Reduction: mean over all N^2 pairs of samples of one device.
    Gradient: to the student only.
    Source: Tung and Mori 2019, https://arxiv.org/abs/1907.09682 (weight 2000 to 3000).
    Differences: none known. Norms are sqrt(sum x^2 + 1e-12).
    """
    difference = _similarity(from_student(student)) - _similarity(from_teacher(teacher))
    return (difference * difference).mean()


def _similarity(x: Tensor) -> Tensor:
    rows = paddle.flatten(x, 1)
    return unit(paddle.matmul(rows, rows, transpose_y=True), 1)
