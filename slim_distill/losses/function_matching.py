"""Function matching: the patient and consistent teacher."""

from typing import Literal

from slim_distill.losses._common import Tensor, check_choice, check_positive, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["function_matching"]


def function_matching(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 10.0,
    convention: Literal["paper", "reference"] = "paper",
) -> Tensor:
    """Divergence of softened class distributions on one and the same view of the image, without labels.

    Formula: p = softmax(z / T); L = mean_n KL(p_t || p_s), times T^2 by convention "paper"
    Attaches: class logits of a softmax classifier; both networks must see the same crop and the same mixup.
    Shapes: student and teacher [N, ..., C], raw logits.
    Args:
        temperature: T; the paper tries 1 to 10.
        convention: "paper" has the factor T^2, which keeps the gradient's size; "reference", the Keras example, not.
    Reduction: sum over classes, mean over everything else.
    Gradient: to the student only.
    Source: Beyer et al. 2022, https://arxiv.org/abs/2106.05237.
    Differences: as kd with alpha 1. What makes it function matching is the data: no stored targets, much mixup,
        long schedules.
    """
    check_positive("function_matching", temperature=temperature)
    check_choice("function_matching", "convention", convention, ("paper", "reference"))
    log_s, log_t = (log_probabilities(z, temperature) for z in (from_student(student), from_teacher(teacher)))
    return kl_divergence(log_t, log_s).mean() * (temperature**2 if convention == "paper" else 1.0)
