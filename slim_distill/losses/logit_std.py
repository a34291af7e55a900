"""Distillation of standardised logits."""

import paddle

from slim_distill.losses._common import Tensor, check_positive, count, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["logit_std"]

_EPSILON = 1e-7  # of the standard deviation, as published


def logit_std(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Divergence of class distributions after each sample's logits were brought to mean 0 and deviation 1.

    Formula: n(z) = (z - mean z) / (std z + 1e-7), std unbiased;
        L = T^2 mean_n KL(softmax(n(z_t) / T) || softmax(n(z_s) / T))
    Attaches: class logits of a softmax classifier, classes along the last axis.
    Shapes: student and teacher [N, ..., C], raw logits.
    Args:
        temperature: T, of the standardised logits.
    Reduction: sum over classes, mean over everything else.
    Gradient: to the student only. Logits without any spread give none.
    Source: Sun et al. 2024, https://arxiv.org/abs/2403.01427 (T 2, weight 9).
    Differences: none known.
    """
    check_positive("logit_std", temperature=temperature)
    log_s, log_t = (
        log_probabilities(_standardise(z), temperature) for z in (from_student(student), from_teacher(teacher))
    )
    return kl_divergence(log_t, log_s).mean() * temperature**2


def _standardise(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(axis=-1, keepdim=True)
    square = (centred * centred).sum(axis=-1, keepdim=True)
    # The tiny constant keeps the root's derivative finite where all logits are equal.
    return centred / (paddle.sqrt(square / (count(logits, (-1,)) - 1) + 1e-24) + _EPSILON)
