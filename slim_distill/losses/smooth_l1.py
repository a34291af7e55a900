"""Mean Huber difference."""

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._features import huber

__all__ = ["smooth_l1"]


def smooth_l1(student: Tensor, teacher: Tensor, *, beta: float = 1.0) -> Tensor:
    """Squared difference where it is small, absolute difference where it is large.

    Formula: d = |s - t|; L = mean(d^2 / (2 beta) where d < beta, else d - beta / 2)
    Attaches: any pair of equal shape.
    Shapes: [N, ...] both.
    Args:
        beta: where the square ends, in units of the variable.
    Reduction: mean over all elements.
    Gradient: to the student only, at most 1 / (number of elements) each.
    Source: Girshick 2015 (Fast R-CNN), https://arxiv.org/abs/1504.08083.
    Differences: Paddle's `smooth_l1_loss(delta)` is delta times as large; at 1 they are equal.
    """
    check_positive("smooth_l1", beta=beta)
    return huber(from_student(student) - from_teacher(teacher), beta).mean()
