"""Variational information distillation."""

import math

import paddle
import paddle.nn.functional as F
from paddle.nn import initializer

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_positive, fixed, from_student, from_teacher
from slim_distill.losses._features import match_sizes
from slim_distill.losses.layers import Layers

__all__ = ["vid"]

_LEAST = 1e-5  # least variance


def vid(student: Tensor, teacher: Tensor, *, layers: Layers, variance: float = 5.0) -> Tensor:
    """Negative log likelihood of the teacher's map under a normal distribution predicted from the student's map.

    Formula: L = mean(((t - mu(s))^2 / v + log v) / 2), v = softplus(a) + 1e-5 for each channel of t;
        mu: three 1x1 convolutions
    Attaches: feature maps; channels may differ, of two sizes the larger map is average-pooled.
    Shapes: [N, C, H, W] each.
    Args:
        variance: v at the start.
    Reduction: mean over all elements of the teacher's map.
    Gradient: to the student, to mu, and to the variances a.
    Minimum: not 0; below 0 where the prediction is good and the variance has become small.
    Source: Ahn et al. 2019, https://arxiv.org/abs/1904.05835 (weight 1).
    Differences: mdistiller never trains the variances; here they are parameters like the others.
    """
    check_positive("vid", variance=variance - _LEAST)
    first, second = match_sizes(from_student(student), from_teacher(teacher))
    channels = fixed(second, 1)
    if channels is None:
        raise LossError(f"vid: the teacher's channels must be known, got {list(second.shape)}")
    mean = F.relu(layers.conv("mean.0", first, channels, bias=False))
    mean = F.relu(layers.conv("mean.1", mean, channels, bias=False))
    mean = layers.conv("mean.2", mean, channels, bias=False)
    start = initializer.Constant(math.log(math.expm1(variance - _LEAST)))
    raw = layers.parameter("spread", (1, channels, 1, 1), start, dtype=layers.dtype_of(second))
    spread = F.softplus(raw) + _LEAST
    difference = second - mean
    return (difference * difference / spread + paddle.log(spread)).mean() / 2
