"""Decoupled knowledge distillation."""

import paddle

from slim_distill.losses._common import (
    Tensor,
    check_not_negative,
    check_positive,
    from_student,
    from_teacher,
    weighted_mean,
)
from slim_distill.losses._logits import hardest_class, kl_divergence, label_mask, log_probabilities

__all__ = ["dkd"]

# Subtracted from the target's logit to take it out of a softmax. exp(-1e4) is 0, and 0 * 1e4 is still exact.
_EXCLUDE = 1e4


def dkd(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Distil how sure the teacher is of the target class, and how it ranks the others, with separate weights.

    Formula: p = softmax(z / T), b = (p_y, 1 - p_y), q = softmax of z / T over the classes other than y;
        L = T^2 mean_n (alpha KL(b_t || b_s) + beta KL(q_t || q_s))
    Attaches: class logits of a softmax classifier with at least three classes, along the last axis.
    Shapes: student and teacher [N, ..., C], raw logits; labels [N, ...] or [N, ..., 1]; mask [N, ...].
    Args:
        labels: class numbers y; without them y is the teacher's best class.
        alpha: weight of the target part.
        beta: weight of the part among the other classes.
        temperature: T.
        mask: 1 for positions that count, 0 for padding; without it all count.
    Reduction: sum over classes, mean over the positions that count.
    Gradient: to the student only.
    Source: Zhao et al. 2022, https://arxiv.org/abs/2203.08679 (beta 8, T 4 on CIFAR; beta 0.5, T 1 on ImageNet).
    Differences: PaddleSlim hands probabilities to a function of log-probabilities, so its value is no divergence; it
        always uses the teacher's best class. The authors' code takes the logarithm of p_y; here it is a log-softmax
        and a log-sum-exp, which do not underflow. The authors ramp the weight up over 20 epochs.
    """
    check_positive("dkd", temperature=temperature)
    check_not_negative("dkd", alpha=alpha, beta=beta)
    student, teacher = from_student(student), from_teacher(teacher)
    target = label_mask("dkd", student, hardest_class(teacher) if labels is None else labels)
    binary_s, others_s = _decouple(student / temperature, target)
    binary_t, others_t = _decouple(teacher / temperature, target)
    loss = alpha * kl_divergence(binary_t, binary_s) + beta * kl_divergence(others_t, others_s)
    return weighted_mean(loss, mask) * temperature**2


def _decouple(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (log p_y, log(1 - p_y)) [..., 2] and log q [..., C], where q excludes the target."""
    without = logits - _EXCLUDE * target
    of_target = (logits * target).sum(axis=-1)
    of_others = paddle.logsumexp(without, axis=-1)
    total = paddle.logsumexp(logits, axis=-1)
    binary = paddle.stack([of_target - total, of_others - total], axis=-1)
    return binary, log_probabilities(without)
