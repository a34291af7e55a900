"""Decoupled distillation of text recognisers."""

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, check_not_negative, check_positive, from_student, from_teacher
from slim_distill.losses._logits import class_count, kl_divergence
from slim_distill.losses._text import negate_class, time_average

__all__ = ["ctc_dkd"]

# Subtracted from logits and logarithms of what is taken out of a sum. exp(-1e4) is 0, and 0 * 1e4 is still exact.
_EXCLUDE = 1e4


def ctc_dkd(
    student: Tensor,
    teacher: Tensor,
    *,
    labels: Tensor,
    temperature: float = 0.5,
    alpha: float = 1.0,
    beta: float = 1.0,
    negate_blank: bool = False,
    blank: int = 0,
) -> Tensor:
    """Distil how much of a line the teacher gives to the label's characters, and how it spreads the rest.

    Formula: S = characters of the label, without the blank; q = mean over frames of softmax(z / T);
        b = (sum_S q, 1 - sum_S q), r = mean over frames of softmax of z / T over the characters outside S;
        L = mean_n (alpha KL(b_t || b_s) + beta KL(r_t || r_s))
    Attaches: CTC logits of two recognisers with one dictionary of any size.
    Shapes: student [N, L, K], teacher [N, M, K], raw logits; labels [N, W].
    Args:
        labels: character numbers, padded with the blank.
        temperature: T.
        alpha: weight of the label's share.
        beta: weight of the spread among the others.
        negate_blank: multiply the blank's logit by -1 first.
        blank: number of the blank, which is never in S.
    Reduction: sum over characters, mean over the batch. No T^2.
    Gradient: to the student only.
    Source: PaddleOCR `CTCDKDLoss` (PP-OCRv4), where alpha and beta are 1 and T is 0.5.
    Differences: PaddleOCR fixes K at 11465, adds 1e-6 in three places of the logarithm, and negates the blank in
        place.
    """
    check_positive("ctc_dkd", temperature=temperature)
    check_not_negative("ctc_dkd", alpha=alpha, beta=beta)
    student, teacher = from_student(student), from_teacher(teacher)
    if negate_blank:
        student, teacher = (negate_class("ctc_dkd", z, blank) for z in (student, teacher))
    classes = class_count("ctc_dkd", student)
    numbers = paddle.cast(labels, "int64")
    present = paddle.cast(F.one_hot(numbers, classes), student.dtype).max(axis=1)  # [N, K]
    not_blank = 1 - paddle.cast(F.one_hot(paddle.full([1], blank, "int64"), classes), student.dtype)
    inside = present * not_blank
    (b_s, r_s), (b_t, r_t) = (_decouple(z / temperature, inside) for z in (student, teacher))
    return (alpha * kl_divergence(b_t, b_s) + beta * kl_divergence(r_t, r_s)).mean()


def _decouple(logits: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of b [N, 2] and of r [N, K]."""
    average = time_average(logits)
    masses = [paddle.logsumexp(average - _EXCLUDE * outside, axis=-1) for outside in (1 - inside, inside)]
    return paddle.stack(masses, axis=-1), time_average(logits - _EXCLUDE * paddle.unsqueeze(inside, 1))
