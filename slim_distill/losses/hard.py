"""Hard-label distillation."""

from slim_distill.losses._common import Tensor, from_student, from_teacher
from slim_distill.losses._logits import cross_entropy, hardest_class

__all__ = ["hard"]


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy with the teacher's decision as label.

    Formula: L = mean_n CE(z_s, argmax z_t)
    Attaches: class logits of a softmax classifier (DeiT: those of the distillation token).
    Shapes: student and teacher [N, ..., C], raw logits.
    Reduction: mean over everything but the classes.
    Gradient: to the student only.
    Minimum: not at student = teacher: it falls towards 0 as the student grows surer of the teacher's decision.
    Source: Touvron et al. 2021 (DeiT), https://arxiv.org/abs/2012.12877.
    Differences: DeiT adds the cross entropy with the true label and halves both: set both weights to 0.5.
    """
    return cross_entropy(from_student(student), hardest_class(from_teacher(teacher))).mean()
