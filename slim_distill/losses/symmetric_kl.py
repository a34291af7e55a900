"""Symmetric Kullback-Leibler divergence."""

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["symmetric_kl"]


def symmetric_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Mean of the two Kullback-Leibler divergences between class distributions.

    Formula: p = softmax(z_s / T), q = softmax(z_t / T); L = T^2 mean_n (KL(p || q) + KL(q || p)) / 2
    Attaches: class logits of a softmax classifier, classes along the last axis.
    Shapes: student and teacher [N, ..., C], raw logits.
    Args:
        temperature: T.
    Reduction: sum over classes, mean over everything else.
    Gradient: to the student only.
    Source: Kullback and Leibler 1951; SSLD, https://arxiv.org/abs/2103.05959, as PaddleClas computes it.
    Differences: PaddleClas calls it JS. PaddleOCR adds constants inside the logarithms; here all is in log space.
    """
    check_positive("symmetric_kl", temperature=temperature)
    log_p, log_q = (log_probabilities(z, temperature) for z in (from_student(student), from_teacher(teacher)))
    return (kl_divergence(log_p, log_q) + kl_divergence(log_q, log_p)).mean() * (0.5 * temperature**2)
