"""Jensen-Shannon divergence."""

import math

import paddle

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["js"]


def js(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Jensen-Shannon divergence of class distributions: symmetric and bounded.

    Formula: p = softmax(z_s / T), q = softmax(z_t / T), m = (p + q) / 2; L = T^2 mean_n (KL(p || m) + KL(q || m)) / 2
    Attaches: class logits of a softmax classifier, classes along the last axis.
    Shapes: student and teacher [N, ..., C], raw logits.
    Args:
        temperature: T.
    Reduction: sum over classes, mean over everything else; at most T^2 log 2.
    Gradient: to the student only.
    Source: Lin 1991 (IEEE Transactions on Information Theory 37).
    Differences: what PaddleClas calls JS is half the symmetric KL (here: symmetric_kl); PaddleOCR's adds 1e-5 inside
        the logarithms and averages over two axes.
    """
    check_positive("js", temperature=temperature)
    log_p, log_q = (log_probabilities(z, temperature) for z in (from_student(student), from_teacher(teacher)))
    log_m = paddle.logaddexp(log_p, log_q) - math.log(2.0)
    return (kl_divergence(log_p, log_m) + kl_divergence(log_q, log_m)).mean() * (0.5 * temperature**2)
