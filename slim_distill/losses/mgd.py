"""Masked generative distillation."""

from typing import Literal

import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_choice, fixed, from_student, from_teacher
from slim_distill.losses._features import per_sample, random_keep
from slim_distill.losses.layers import Layers

__all__ = ["mgd"]


def mgd(
    student: Tensor,
    teacher: Tensor,
    *,
    layers: Layers,
    mask_ratio: float = 0.65,
    masked: Literal["positions", "channels"] = "positions",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Make the teacher's whole map from the student's map of which a random part was blotted out.

    Formula: L = mean_n sum (G(s m) - t)^2; m is 0 with probability mask_ratio, else 1; G = conv3x3, ReLU, conv3x3
    Attaches: feature maps of equal shape, or with an adapter.
    Shapes: [N, C, H, W] both.
    Args:
        mask_ratio: share of the map that is hidden; 0.65 for detectors, 0.5 or less for classifiers. 0 hides nothing.
        masked: hide whole positions (detection), or whole channels (classification).
        reduction: "sum" over channels and positions, as published (weight 2e-5 for detectors, 7e-5 for
            classifiers), or "mean", which does not grow with channels and image.
    Reduction: see `reduction`; mean over the batch.
    Gradient: to the student and to the generator G.
    Minimum: 0 when G undoes the mask; not at student = teacher.
    Source: Yang et al. 2022, https://arxiv.org/abs/2205.01529.
    Differences: PaddleDetection draws no mask and never trains G; ModelOpt uses the mean.
    """
    check_choice("mgd", "masked", masked, ("positions", "channels"))
    check_choice("mgd", "reduction", reduction, ("sum", "mean"))
    if not 0 <= mask_ratio < 1:
        raise LossError(f"mgd: mask_ratio must be at least 0 and below 1, got {mask_ratio}")
    student, teacher = from_student(student), from_teacher(teacher)
    channels = fixed(teacher, 1)
    if channels is None:
        raise LossError(f"mgd: the teacher's channels must be known, got {list(teacher.shape)}")
    if mask_ratio > 0:
        student = student * random_keep(student, mask_ratio, (0, 2, 3) if masked == "positions" else (0, 1))
    hidden = F.relu(layers.conv("generator.0", student, channels, 3))
    difference = layers.conv("generator.1", hidden, channels, 3) - teacher
    square = difference * difference
    return per_sample(square) if reduction == "sum" else square.mean()
