"""Localisation distillation."""

from typing import Literal

from slim_distill.losses._common import Tensor, check_choice, check_positive, from_student, from_teacher, weighted_mean
from slim_distill.losses._logits import class_count, kl_divergence, log_probabilities

__all__ = ["ld"]


def ld(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 10.0,
    weight: Tensor | None = None,
    convention: Literal["paper", "reference"] = "paper",
) -> Tensor:
    """Divergence of the distributions over the distance of each box edge.

    Formula: p = softmax over bins of z / T; L = T^2 sum_e w_e KL(p_t || p_s) / sum_e w_e, divided by the number of bins
        by convention "reference"
    Attaches: edge logits of heads with distributions (GFL, PP-YOLOE, YOLOv8), bins along the last axis.
    Shapes: student and teacher [N, M, 4, bins], raw logits; weight [N, M, 4] or [N, M].
    Args:
        temperature: T.
        weight: how much a place or an edge counts: the assigner's positives, or the teacher's score; alike without.
        convention: "paper" sums over bins, "reference" averages over them as mmdet and PaddleDetection do.
    Reduction: sum (or mean) over bins, weighted mean over edges and places.
    Gradient: to the student only.
    Source: Zheng et al. 2022, https://arxiv.org/abs/2102.12252 (T 10, weight 0.25).
    Differences: mmdet and PaddleDetection divide by the constants 4 and 16 instead of by the number of positives, so
        that theirs grows with it. The region between positives and negatives (VLR) is a
        second term with its own weight.
    """
    check_positive("ld", temperature=temperature)
    check_choice("ld", "convention", convention, ("paper", "reference"))
    log_s, log_t = (log_probabilities(z, temperature) for z in (from_student(student), from_teacher(teacher)))
    loss = weighted_mean(kl_divergence(log_t, log_s), weight) * temperature**2
    return loss / class_count("ld", student) if convention == "reference" else loss
