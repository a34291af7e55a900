"""Correlation congruence."""

import math
from typing import Literal

import paddle

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_choice, check_positive, from_student, from_teacher
from slim_distill.losses._features import unit

__all__ = ["cc"]


def cc(
    student: Tensor,
    teacher: Tensor,
    *,
    gamma: float = 0.4,
    order: int = 2,
    convention: Literal["paper", "reference"] = "paper",
) -> Tensor:
    """Difference of the correlations between the samples of a batch.

    Formula: "paper": K_ij = sum_p exp(-2 gamma) (2 gamma)^p / p! (x_i . x_j)^p, p = 0 ... order, x of length 1;
        L = mean((K_s - K_t)^2). "reference": d_i = |s_i - t_i| per element; L = mean_i sum_c d_i d_(i+1)
    Attaches: embeddings, or maps, which are flattened; widths may differ by "paper".
    Shapes: [N, ...] each, at least two samples.
    Args:
        gamma: of the Gaussian kernel exp(-gamma |x - y|^2).
        order: where its Taylor series ends.
        convention: "paper" compares kernel matrices; "reference" is RepDistiller's product of neighbours in the batch.
    Reduction: mean over N^2 pairs (paper), or over the N - 1 neighbours (reference).
    Gradient: to the student only.
    Source: Peng et al. 2019, https://arxiv.org/abs/1904.01802 (weight 0.02 in RepDistiller).
    Differences: as stated; the two conventions are different losses under one name.
    """
    check_positive("cc", gamma=gamma)
    check_choice("cc", "convention", convention, ("paper", "reference"))
    if order < 1:
        raise LossError(f"cc: order must be at least 1, got {order}")
    first, second = (paddle.flatten(x, 1) for x in (from_student(student), from_teacher(teacher)))
    if convention == "reference":
        if int(first.shape[1]) != int(second.shape[1]):
            raise LossError(
                f"cc: convention 'reference' needs equal widths, got {first.shape[1]} and {second.shape[1]}"
            )
        distance = paddle.abs(first - second)
        return (distance[:-1] * distance[1:]).sum(axis=1).mean()
    difference = _kernel(first, gamma, order) - _kernel(second, gamma, order)
    return (difference * difference).mean()


def _kernel(x: Tensor, gamma: float, order: int) -> Tensor:
    x = unit(x, 1)
    product = paddle.matmul(x, x, transpose_y=True)
    # Horner's scheme, from the highest power down.
    series = paddle.full_like(product, (2 * gamma) ** order / math.factorial(order))
    for power in reversed(range(order)):
        series = series * product + (2 * gamma) ** power / math.factorial(power)
    return series * math.exp(-2 * gamma)
