"""What the losses on CTC logits [N, L, K] share."""

import math

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, count
from slim_distill.losses._logits import class_count, log_probabilities

__all__ = ["negate_class", "time_average"]


def time_average(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean over frames of softmax(logits), [N, K], without leaving log space."""
    frames = count(logits, (1,))
    log_frames = math.log(frames) if isinstance(frames, float) else paddle.log(frames)
    return paddle.logsumexp(log_probabilities(logits), axis=1) - log_frames


def negate_class(loss: str, logits: Tensor, number: int) -> Tensor:
    """Return a copy of the logits with one class's logit times -1."""
    classes = class_count(loss, logits)
    chosen = F.one_hot(paddle.full([1], number, "int64"), classes)
    return logits * (1 - 2 * paddle.cast(chosen, logits.dtype))
