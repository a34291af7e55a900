"""Cosine distance of feature vectors."""

from slim_distill.losses._common import Tensor, from_student, from_teacher
from slim_distill.losses._features import unit

__all__ = ["cosine"]


def cosine(student: Tensor, teacher: Tensor, *, axis: int = 1) -> Tensor:
    """One minus the cosine between the feature vectors at each position.

    Formula: L = mean(1 - s . t / (|s| |t|))
    Attaches: feature maps (vectors along the channels) and embeddings.
    Shapes: [N, C, ...] both, vectors along `axis`.
    Args:
        axis: the axis of the vectors: 1 for [N, C, H, W] and [N, C], -1 for tokens [N, L, C].
    Reduction: mean over everything but `axis`; between 0 and 2.
    Gradient: to the student only, none along its own direction.
    Source: elementary; Ultralytics' distillation from DINO teachers.
    Differences: norms are sqrt(sum x^2 + 1e-12).
    """
    return (1 - (unit(from_student(student), axis) * unit(from_teacher(teacher), axis)).sum(axis=axis)).mean()
