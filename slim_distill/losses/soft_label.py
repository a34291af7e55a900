"""Cross entropy against the teacher's class probabilities."""

import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import log_probabilities

__all__ = ["soft_label"]


def soft_label(
    student: Tensor, teacher: Tensor, *, student_temperature: float = 1.0, teacher_temperature: float = 1.0
) -> Tensor:
    """Cross entropy of the student's class distribution against the teacher's.

    Formula: L = -mean_n sum_c softmax(t / T_t)_c log softmax(s / T_s)_c
    Attaches: class logits, classes along the last axis.
    Shapes: [N, ..., C] both, raw logits.
    Args:
        student_temperature: T_s.
        teacher_temperature: T_t; above T_s the student is asked to be softer than it would be.
    Reduction: sum over classes, mean over everything else. No T^2: the gradient shrinks as 1 / T_s.
    Gradient: to the student only.
    Minimum: the teacher's entropy, not 0, reached where both distributions agree.
    Source: PaddleSlim `dist.soft_label`; Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    Differences: PaddleSlim takes the logarithm of a softmax; here it is a log-softmax, which does not underflow.
    """
    check_positive("soft_label", student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    log_p = log_probabilities(from_student(student), student_temperature)
    target = F.softmax(from_teacher(teacher) / teacher_temperature, axis=-1)
    return -(target * log_p).sum(axis=-1).mean()
