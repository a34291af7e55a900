"""What the losses share: the tensor type, gradient stop, precision, sizes of dynamic axes, checks of numbers."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError

__all__ = [
    "TeacherTensor",
    "Tensor",
    "bce_with_logits",
    "check_choice",
    "check_not_negative",
    "check_positive",
    "count",
    "fixed",
    "from_student",
    "from_teacher",
    "weighted_mean",
]

# A loss runs on eager tensors and on values of a program alike.
Tensor: TypeAlias = paddle.Tensor | paddle.static.Variable
# A keyword argument of this type is looked up among the teacher's variables: written without the teacher's prefix.
TeacherTensor: TypeAlias = Annotated[Tensor, "teacher"]


def from_student(x: Tensor) -> Tensor:
    """Return `x` in a precision that sums can be trusted in: half and bfloat16 become float32, gradients flow."""
    return x if x.dtype in (paddle.float32, paddle.float64) else paddle.cast(x, "float32")


def from_teacher(x: Tensor) -> Tensor:
    """Return `x` in trusted precision and cut off from its producers: no gradient flows through the result.

    The caller's tensor is left as it is: the mark is set on a copy, because the same variable may be trained elsewhere.
    """
    x = from_student(x)
    if x.stop_gradient:
        return x
    if paddle.in_dynamic_mode():
        return x.detach()
    # `detach()` of a program's value shares memory by an in-place operator; a copy cannot be overwritten by others.
    fresh = paddle.assign(x)
    fresh.stop_gradient = True
    return fresh


def fixed(x: Tensor, axis: int) -> int | None:
    """Return the length of an axis, or None when it is only known while running."""
    size = int(x.shape[axis])
    return size if size >= 0 else None


def count(x: Tensor, axes: Sequence[int]) -> Any:
    """Return the number of elements along `axes`: a float where all are known, else a scalar tensor of `x`'s dtype."""
    sizes = [fixed(x, axis) for axis in axes]
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        return float(math.prod(known))
    shape = paddle.shape(x)
    total = paddle.cast(
        math.prod([shape[axis] for axis, size in zip(axes, sizes, strict=True) if size is None]), x.dtype
    )
    return total * float(math.prod(known))


def bce_with_logits(logit: Tensor, target: Tensor) -> Tensor:
    """Return log(1 + exp(x)) - x t for each element: binary cross entropy of logits, in log space."""
    # Half the time of Paddle's own operator and its gradient, which compute the same.
    return F.softplus(logit) - logit * target


def weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """Return the mean of `loss`, or sum(weight * loss) / sum(weight), 0 where all weights are 0.

    `weight` has the shape of `loss`, or that without its last axis, over which `loss` is then averaged.
    """
    if weight is None:
        return loss.mean()
    weight = paddle.cast(from_teacher(weight), loss.dtype)
    if len(weight.shape) == len(loss.shape) - 1:
        loss = loss.mean(axis=-1)
    if len(weight.shape) != len(loss.shape):
        raise LossError(f"weights {list(weight.shape)} do not fit losses {list(loss.shape)}")
    return (loss * weight).sum() / paddle.clip(weight.sum(), min=1e-12)


def check_positive(loss: str, **numbers: float) -> None:
    """Raise `LossError` for a number that is not finite and above 0."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise LossError(f"{loss}: {name} must be a finite number above 0, got {number}")


def check_not_negative(loss: str, **numbers: float) -> None:
    """Raise `LossError` for a number that is not finite and at least 0."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise LossError(f"{loss}: {name} must be a finite number of at least 0, got {number}")


def check_choice(loss: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Raise `LossError` unless `value` is one of `choices`."""
    if value not in choices:
        raise LossError(f"{loss}: {name} must be one of {', '.join(choices)}, got {value!r}")
