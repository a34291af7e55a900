"""Mutual learning of text recognisers, frame by frame."""

import paddle

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, from_student, from_teacher, weighted_mean
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["ctc_dml"]


def ctc_dml(student: Tensor, teacher: Tensor, *, blank: int = 0, skip_blank: float = 1.0) -> Tensor:
    """Symmetric divergence of the character distributions of each frame.

    Formula: p = softmax(z) per frame; L = mean over frames of (KL(p_t || p_s) + KL(p_s || p_t)) / 2
    Attaches: CTC logits of two recognisers with one dictionary and one number of frames.
    Shapes: student and teacher [N, L, K], raw logits.
    Args:
        blank: number of the blank.
        skip_blank: leave out frames in which the teacher's probability of the blank is above this; 1 keeps all.
            Blanks are nine frames of ten, and the two networks' peaks need not be at the same frames.
    Reduction: sum over characters, mean over the frames that count, of all samples.
    Gradient: to the student only; a peer learns from a term of its own.
    Source: Zhang et al. 2018, https://arxiv.org/abs/1706.00384; PaddleOCR `DistillationDMLLoss`, PP-OCRv3.
    Differences: PaddleOCR lets the gradient flow into both networks and adds 1e-10 inside a logarithm; it has no
        `skip_blank`.
    """
    if not 0 < skip_blank <= 1:
        raise LossError(f"ctc_dml: skip_blank must be above 0 and at most 1, got {skip_blank}")
    log_s, log_t = (log_probabilities(z) for z in (from_student(student), from_teacher(teacher)))
    loss = (kl_divergence(log_t, log_s) + kl_divergence(log_s, log_t)) / 2
    if skip_blank == 1:
        return loss.mean()
    counts = paddle.cast(paddle.exp(log_t[:, :, blank]) <= skip_blank, loss.dtype)
    return weighted_mean(loss, counts)
