"""Mean absolute difference."""

import paddle

from slim_distill.losses._common import Tensor, from_student, from_teacher

__all__ = ["l1"]


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of two variables of one shape.

    Formula: L = mean(|s - t|)
    Attaches: any pair of equal shape.
    Shapes: [N, ...] both.
    Reduction: mean over all elements.
    Gradient: to the student only, the sign of the difference; 0 where both are equal.
    Source: elementary; `distance` losses of PaddleOCR and PaddleClas.
    Differences: none known.
    """
    return paddle.abs(from_student(student) - from_teacher(teacher)).mean()
