"""Divergence of what two text recognisers read in a line, wherever in it."""

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence
from slim_distill.losses._text import negate_class, time_average

__all__ = ["ctc_mean_kl"]


def ctc_mean_kl(
    student: Tensor, teacher: Tensor, *, temperature: float = 0.5, negate_blank: bool = False, blank: int = 0
) -> Tensor:
    """Divergence of the character distributions averaged over a line: peaks may be at different frames.

    Formula: q = mean over frames of softmax(z / T); L = mean_n KL(q_t || q_s)
    Attaches: CTC logits of two recognisers with one dictionary; their numbers of frames may differ.
    Shapes: student [N, L, K], teacher [N, M, K], raw logits.
    Args:
        temperature: T; below 1 it sharpens, so that peaks count and the rest does not.
        negate_blank: multiply the blank's logit by -1 first, which all but removes the blank from the average.
        blank: number of the blank.
    Reduction: sum over characters, mean over the batch. No T^2.
    Gradient: to the student only.
    Source: PaddleOCR `KLCTCLogits` (PP-OCRv4), where T is 0.5 and the weight 1.
    Differences: PaddleOCR adds 1e-6 in three places of the logarithm, here it is in log space. Its modes `mean`,
        `meanlog` and `ctcdkd` are `negate_blank`, done there to the tensors that other losses use too.
    """
    check_positive("ctc_mean_kl", temperature=temperature)
    student, teacher = from_student(student), from_teacher(teacher)
    if negate_blank:
        student, teacher = (negate_class("ctc_mean_kl", z, blank) for z in (student, teacher))
    return kl_divergence(time_average(teacher / temperature), time_average(student / temperature)).mean()
