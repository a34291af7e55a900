"""Distribution focal loss towards a teacher's edges."""

from typing import Literal

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, check_choice, from_student, from_teacher, weighted_mean
from slim_distill.losses._logits import class_count, log_probabilities

__all__ = ["dfl"]


def dfl(
    student: Tensor,
    teacher: Tensor,
    *,
    weight: Tensor | None = None,
    target: Literal["distribution", "distance"] = "distribution",
) -> Tensor:
    """Cross entropy of the distribution over each edge's distance against what the teacher says of it.

    Formula: q = softmax(z_t) (target "distribution"), or the two bins around y = sum_i i softmax(z_t)_i, with weights
        1 - |i - y| (target "distance"); L = -sum_e w_e sum_i q_i log softmax(z_s)_i / sum_e w_e
    Attaches: edge logits of heads with distributions (GFL, PP-YOLOE, YOLOv8), bins along the last axis.
    Shapes: student and teacher [N, M, 4, bins], raw logits; weight [N, M, 4] or [N, M].
    Args:
        weight: how much a place or an edge counts: positives of the teacher's assigner; all alike without.
        target: the teacher's whole distribution (PaddleDetection), or only the distance it predicts (the loss of GFL).
    Reduction: sum over bins, weighted mean over edges and places.
    Gradient: to the student only.
    Minimum: the entropy of q, not 0.
    Source: Li et al. 2020, https://arxiv.org/abs/2006.04388; PaddleDetection `DistillPPYOLOELoss` (weight 0.5).
    Differences: none known for "distribution".
    """
    check_choice("dfl", "target", target, ("distribution", "distance"))
    student, teacher = from_student(student), from_teacher(teacher)
    wanted = F.softmax(teacher, axis=-1)
    if target == "distance":
        bins = paddle.arange(class_count("dfl", teacher), dtype=wanted.dtype)
        distance = (wanted * bins).sum(axis=-1, keepdim=True)
        wanted = F.relu(1 - paddle.abs(bins - distance))
    return weighted_mean(-(wanted * log_probabilities(student)).sum(axis=-1), weight)
