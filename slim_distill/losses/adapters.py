"""What joins a student's variable to a teacher's of another shape: channels by a trained layer, sizes by resizing."""

from collections.abc import Callable, Mapping
from typing import Any

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.common.names import pick
from slim_distill.losses._common import Tensor, check_choice, fixed
from slim_distill.losses.layers import Layers
from slim_distill.losses.shapes import Shape

__all__ = ["ADAPTERS", "RESIZE", "adapt", "adapted_shapes"]

RESIZE = ("none", "student", "teacher")


def _identity(x: Tensor, channels: int, name: str, layers: Layers) -> Tensor:
    return x


def _conv1x1(x: Tensor, channels: int, name: str, layers: Layers) -> Tensor:
    return layers.conv(name, x, channels)


def _conv1x1_bn(x: Tensor, channels: int, name: str, layers: Layers) -> Tensor:
    return layers.batch_norm(f"{name}.norm", layers.conv(name, x, channels, bias=False))


def _linear(x: Tensor, channels: int, name: str, layers: Layers) -> Tensor:
    return layers.linear(name, x, channels)


# Every adapter maps the student's variable to the teacher's number of channels (features, for `linear`).
ADAPTERS: Mapping[str, Callable[[Tensor, int, str, Layers], Tensor]] = {
    "identity": _identity,
    "conv1x1": _conv1x1,
    "conv1x1_bn": _conv1x1_bn,
    "linear": _linear,
}


def adapted_shapes(what: str, student: Shape, teacher: Shape, adapter: str, resize: str) -> tuple[Shape, Shape]:
    """Return the shapes that the loss will see.

    Args:
        what: the config path, for messages.
        student: the student's shape, -1 for an open axis; teacher: the teacher's.
        adapter: name in `ADAPTERS`. Convolutions act on maps [N, C, H, W], `linear` on the last axis.
        resize: which of two maps is resized (bilinear) to the other's size: none, student or teacher.

    Raises:
        LossError: unknown adapter or policy, or shapes that it cannot join.
    """
    pick(ADAPTERS, adapter, f"{what}.adapter: adapter", LossError)
    check_choice(what, "resize", resize, RESIZE)
    shapes = f"student {list(student)}, teacher {list(teacher)}"
    if adapter.startswith("conv") and not len(student) == len(teacher) == 4:
        raise LossError(
            f"{what}.adapter: {adapter} joins maps [N, C, H, W], got {shapes}; for the last axis use linear"
        )
    if resize != "none" and not len(student) == len(teacher) == 4:
        raise LossError(f"{what}.resize: only maps [N, C, H, W] can be resized, got {shapes}")
    axis = {"identity": None, "linear": -1}.get(adapter, 1)
    if axis is not None:
        if -1 in (student[axis], teacher[axis]):
            raise LossError(f"{what}.adapter: {adapter} needs a known number of channels, got {shapes}")
        changed = list(student)
        changed[axis] = teacher[axis]
        student = tuple(changed)
    if resize == "student":
        student = (*student[:2], *teacher[2:])
    elif resize == "teacher":
        teacher = (*teacher[:2], *student[2:])
    return student, teacher


def adapt(
    student: Tensor, teacher: Tensor, adapter: str, resize: str, name: str, layers: Layers
) -> tuple[Tensor, Tensor]:
    """Return both variables as the loss will see them; the adapter's parameters are `layers`' under `name`.

    The student is adapted first and resized after: on the smaller map the convolution would be cheaper only
    when the teacher's map is the smaller one.
    """
    student = ADAPTERS[adapter](student, int(teacher.shape[-1 if adapter == "linear" else 1]), name, layers)
    if resize == "student":
        student = _resized(student, teacher)
    elif resize == "teacher":
        teacher = _resized(teacher, student)
    return student, teacher


def _resized(x: Tensor, like: Tensor) -> Tensor:
    if all(fixed(x, axis) is not None and fixed(x, axis) == fixed(like, axis) for axis in (2, 3)):
        return x
    shape: Any = paddle.shape(like)
    size = [shape[axis] if fixed(like, axis) is None else fixed(like, axis) for axis in (2, 3)]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
