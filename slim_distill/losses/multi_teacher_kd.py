"""Knowledge distillation from several teachers at once, each sample from those that know it."""

from typing import Literal

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_choice, check_positive, from_student, from_teacher
from slim_distill.losses._logits import cross_entropy, kl_divergence, log_probabilities

__all__ = ["multi_teacher_kd"]

_CONFIDENCES = ("labels", "entropy", "equal")


def multi_teacher_kd(
    student: Tensor,
    teacher: tuple[Tensor, ...],
    *,
    temperature: float = 4.0,
    confidence: Literal["labels", "entropy", "equal"] = "labels",
    labels: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence from several teachers, weighted for each sample by how sure each of them is.

    Formula: u_k = CE(z_k, y), or H(softmax(z_k)); w_k = (1 - softmax_k(u)_k) / (K - 1), or 1 / K;
        L = T^2 mean_n sum_k w_nk KL(softmax(z_k / T) || softmax(z_s / T))
    Attaches: class logits of a softmax classifier, classes along the last axis; one variable of each teacher.
    Shapes: student and every teacher [N, ..., C], raw logits; labels [N, ...] or [N, ..., 1], class numbers.
    Args:
        temperature: T of the divergence; the weights are computed without.
        confidence: "labels" trusts a teacher where it is right, "entropy" where it is sure, right or not; "equal"
            trusts all alike. For other fixed shares write a term of loss kd, with its weight, for each teacher.
        labels: class numbers, needed for "labels".
    Reduction: the weights of a position sum to 1; mean over all positions. One teacher has weight 1.
    Gradient: to the student only; none through the weights.
    Minimum: 0 where all teachers agree with the student.
    Source: CA-MKD, Zhang et al. 2022, https://arxiv.org/abs/2201.00007 (its divergence part).
    Differences: the entropy in place of the cross entropy is for data without labels, and not in the paper.
    """
    check_positive("multi_teacher_kd", temperature=temperature)
    check_choice("multi_teacher_kd", "confidence", confidence, _CONFIDENCES)
    if confidence == "labels" and labels is None:
        raise LossError('multi_teacher_kd: confidence "labels" needs labels; without any use "entropy" or "equal"')
    teachers = [from_teacher(z) for z in teacher]
    log_s = log_probabilities(from_student(student), temperature)
    losses = [kl_divergence(log_probabilities(z, temperature), log_s) for z in teachers]
    if len(teachers) == 1 or confidence == "equal":
        return paddle.add_n(losses).mean() * (temperature**2 / len(teachers))
    doubts = [_entropy(z) if confidence == "entropy" else cross_entropy(z, labels) for z in teachers]
    weights = (1 - F.softmax(paddle.stack(doubts), axis=0)) / (len(teachers) - 1)
    return (weights * paddle.stack(losses)).sum(axis=0).mean() * temperature**2


def _entropy(logits: Tensor) -> Tensor:
    log_p = log_probabilities(logits)
    return -(paddle.exp(log_p) * log_p).sum(axis=-1)
