"""Distillation from a stronger teacher: correlation instead of equality."""

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, check_not_negative, check_positive, from_student, from_teacher

__all__ = ["dist"]

_SMALLEST = 1e-8  # product of norms


def dist(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0
) -> Tensor:
    """Pearson correlation of class probabilities, across the classes of a sample and across the samples of a class.

    Formula: y = softmax(z / T); r = Pearson correlation;
        L = T^2 (beta (1 - mean_n r(y_s[n, :], y_t[n, :])) + gamma (1 - mean_c r(y_s[:, c], y_t[:, c])))
    Attaches: class logits of a softmax classifier. The second part wants batches of 32 or more.
    Shapes: student and teacher [N, C], raw logits.
    Args:
        temperature: T.
        beta: weight of the correlation inside a sample.
        gamma: weight of the correlation inside a class, over the batch.
    Reduction: mean over samples and mean over classes. At most 2 T^2 (beta + gamma).
    Gradient: to the student only.
    Source: Huang et al. 2022, https://arxiv.org/abs/2205.10536 (T 1 on ImageNet, 4 elsewhere; weight 2 in mmrazor).
    Differences: T^2 is in the authors' code and not in the paper. The authors add 1e-8 to the product of the norms,
        here it is the least the product may be: rows and columns with more spread are exact.
    """
    check_positive("dist", temperature=temperature)
    check_not_negative("dist", beta=beta, gamma=gamma)
    y_s, y_t = (F.softmax(z / temperature, axis=-1) for z in (from_student(student), from_teacher(teacher)))
    inter = 1 - _pearson(y_s, y_t, -1).mean()
    intra = 1 - _pearson(y_s, y_t, 0).mean()
    return (beta * inter + gamma * intra) * temperature**2


def _pearson(a: Tensor, b: Tensor, axis: int) -> Tensor:
    a, b = (x - x.mean(axis=axis, keepdim=True) for x in (a, b))
    # Clipped before the root, so that a column without variance (one sample) has no infinite derivative.
    norms = paddle.sqrt(paddle.clip((a * a).sum(axis=axis) * (b * b).sum(axis=axis), min=_SMALLEST**2))
    return (a * b).sum(axis=axis) / norms
