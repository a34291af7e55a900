"""Mean squared difference."""

from slim_distill.losses._common import Tensor, from_student, from_teacher

__all__ = ["l2"]


def l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two variables of one shape.

    Formula: L = mean((s - t)^2)
    Attaches: any pair of equal shape: raw head maps, features, logits.
    Shapes: [N, ...] both.
    Reduction: mean over all elements, so the scale depends neither on batch nor on image size.
    Gradient: to the student only.
    Source: FitNets, Romero et al. 2015, https://arxiv.org/abs/1412.6550; PaddleSlim `dist.l2`.
    Differences: mdistiller and some FitNet codes sum over elements and divide by the batch: C*H*W times larger.
    """
    difference = from_student(student) - from_teacher(teacher)
    return (difference * difference).mean()
