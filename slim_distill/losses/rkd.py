"""Relational knowledge distillation."""

import paddle

from slim_distill.losses._common import Tensor, check_not_negative, from_student, from_teacher
from slim_distill.losses._features import huber, safe_sqrt, unit

__all__ = ["rkd"]


def rkd(
    student: Tensor, teacher: Tensor, *, distance: float = 1.0, angle: float = 2.0, normalise: bool = False
) -> Tensor:
    """Distances between samples of a batch, relative to their mean, and angles between triples of samples.

    Formula: d_ij = |x_i - x_j| / mu, mu the mean of the distances above 0; a_ijk = cosine of the angle at j;
        L = distance mean_ij huber(d_s - d_t) + angle mean_ijk huber(a_s - a_t), huber with beta 1
    Attaches: embeddings, or maps, which are flattened; the two widths may differ. Memory grows with N^2 D and N^3.
    Shapes: [N, ...] each, at least two samples.
    Args:
        distance: weight of the distances.
        angle: weight of the angles.
        normalise: bring each sample to length 1 first, as mmrazor does.
    Reduction: mean over all pairs and all triples, those of a sample with itself included.
    Gradient: to the student only, through mu as well.
    Source: Park et al. 2019, https://arxiv.org/abs/1904.05068 (25 and 50, or 1 and 2).
    Differences: PaddleSlim takes mu over all pairs with the zeros of i = j, so its scale depends on the batch size.
    """
    check_not_negative("rkd", distance=distance, angle=angle)
    (d_s, a_s), (d_t, a_t) = (
        _relations(paddle.flatten(x, 1), normalise) for x in (from_student(student), from_teacher(teacher))
    )
    return distance * huber(d_s - d_t, 1.0).mean() + angle * huber(a_s - a_t, 1.0).mean()


def _relations(x: Tensor, normalise: bool) -> tuple[Tensor, Tensor]:
    """Return relative distances [N, N] and cosines [N, N, N], the vertex first."""
    x = unit(x, 1) if normalise else x
    difference = paddle.unsqueeze(x, 0) - paddle.unsqueeze(x, 1)  # [N, N, D]
    square = (difference * difference).sum(axis=-1)
    distances = safe_sqrt(square)
    number = paddle.cast(square > 0, x.dtype).sum()
    mean = distances.sum() / paddle.clip(number, min=1.0)
    directions = unit(difference, -1)
    return distances / paddle.clip(mean, min=1e-12), paddle.matmul(directions, directions, transpose_y=True)
