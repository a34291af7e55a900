"""Deep mutual learning."""

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["dml"]


def dml(student: Tensor, teacher: tuple[Tensor, ...], *, temperature: float = 1.0) -> Tensor:
    """Mean divergence from each peer's class distribution: one term for each network that learns.

    Formula: p = softmax(z / T); L = T^2 / K sum_k mean_n KL(p_k || p_s) over K peers
    Attaches: class logits of networks that teach each other; `teacher` lists the peers.
    Shapes: student [N, ..., C], each peer the same, raw logits.
    Args:
        temperature: T, 1 in the paper.
    Reduction: sum over classes, mean over everything else and over the peers.
    Minimum: 0 where all agree; with several peers that disagree, above 0.
    Gradient: to the student only. A peer learns from a term of its own in which it is the student.
    Source: Zhang et al. 2018, https://arxiv.org/abs/1706.00384.
    Differences: PaddleSlim and PaddleOCR let the gradient flow into both sides of a pair; the paper does not.
    """
    check_positive("dml", temperature=temperature)
    log_s = log_probabilities(from_student(student), temperature)
    parts = [kl_divergence(log_probabilities(from_teacher(z), temperature), log_s).mean() for z in teacher]
    return sum(parts[1:], parts[0]) * (temperature**2 / len(parts))
