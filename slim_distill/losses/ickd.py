"""Inter-channel correlation distillation."""

from typing import Literal

import paddle

from slim_distill.losses._common import Tensor, check_choice, from_student, from_teacher
from slim_distill.losses._features import unit

__all__ = ["ickd"]


def ickd(student: Tensor, teacher: Tensor, *, convention: Literal["paper", "reference"] = "reference") -> Tensor:
    """Which channels of a map are active together.

    Formula: G = F F^T over positions [C, C], rows divided by their norm; L = mean_n sum (G_s - G_t)^2 / C, or / C^2
    Attaches: feature maps of equal channels; sizes may differ.
    Shapes: [N, C, H, W] both.
    Args:
        convention: "reference" divides by C as the authors' code does, "paper" by C^2.
    Reduction: see `convention`; mean over the batch.
    Gradient: to the student only; the strength of whole channels plays no part.
    Source: Liu et al. 2021 (ICCV), "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
        Distillation".
    Differences: as stated. The authors map the student's channels by a 1x1 convolution and batch norm: `adapter`.
    """
    check_choice("ickd", "convention", convention, ("paper", "reference"))
    difference = _correlation(from_student(student)) - _correlation(from_teacher(teacher))
    square = difference * difference
    return square.mean() if convention == "paper" else square.sum(axis=-1).mean()


def _correlation(x: Tensor) -> Tensor:
    rows = paddle.flatten(x, 2)
    return unit(paddle.matmul(rows, rows, transpose_y=True), 2)
