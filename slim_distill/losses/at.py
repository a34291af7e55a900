"""Attention transfer."""

from typing import Literal

import paddle

from slim_distill.losses._common import Tensor, check_choice, check_positive, from_student, from_teacher
from slim_distill.losses._features import match_sizes, safe_sqrt, unit

__all__ = ["at"]


def at(
    student: Tensor,
    teacher: Tensor,
    *,
    power: float = 2.0,
    convention: Literal["paper", "reference"] = "reference",
) -> Tensor:
    """Difference of normalised maps of where a layer is active.

    Formula: q = vec(mean_c |F|^p) / norm; "reference": L = mean((q_s - q_t)^2); "paper": L = mean_n norm(q_s - q_t) / 2
    Attaches: feature maps; channels may differ, of two sizes the larger map is average-pooled.
    Shapes: [N, C, H, W] each.
    Args:
        power: p.
        convention: "reference" is the authors' code (usual weight 1000), "paper" their formula; a factor of about H W.
    Reduction: mean over batch and positions (reference), or over the batch (paper).
    Gradient: to the student only.
    Source: Zagoruyko and Komodakis 2017, https://arxiv.org/abs/1612.03928.
    Differences: paper and code differ as stated. Norms are sqrt(sum x^2 + 1e-12).
    """
    check_positive("at", power=power)
    check_choice("at", "convention", convention, ("paper", "reference"))
    first, second = match_sizes(from_student(student), from_teacher(teacher))
    difference = _attention(first, power) - _attention(second, power)
    if convention == "reference":
        return (difference * difference).mean()
    return safe_sqrt((difference * difference).sum(axis=1)).mean() / 2


def _attention(x: Tensor, power: float) -> Tensor:
    strength = x * x if power == 2 else paddle.abs(x) ** power
    return unit(paddle.flatten(strength.mean(axis=1), 1), 1)
