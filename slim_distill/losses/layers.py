"""Layers that a term owns: named under the term's prefix, trained and checkpointed with the student, never exported."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import paddle
import paddle.nn.functional as F
from paddle.nn import initializer

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor

__all__ = ["Layers"]


class Layers:
    """A factory of parameters for one term; asking twice for a name returns the same parameter.

    It works eagerly and while a program is built: there the parameter joins the current main program and its
    initial value the current startup program. Parameters are named `prefix + name`.

    Args:
        prefix: put before every parameter's name, such as "distill.1.".
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._made: dict[str, Tensor] = {}

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Everything created so far, by full name: trainable parameters and the statistics of batch norms."""
        return MappingProxyType(self._made)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Full names of the parameters that must receive a gradient."""
        return tuple(name for name, value in self._made.items() if not value.stop_gradient)

    @staticmethod
    def dtype_of(x: Tensor) -> str:
        """Return the type of parameters that meet `x`: float64 beside float64, else float32."""
        return "float64" if x.dtype == paddle.float64 else "float32"

    def parameter(
        self,
        name: str,
        shape: Sequence[int],
        init: initializer.Initializer,
        *,
        dtype: str = "float32",
        trainable: bool = True,
    ) -> Tensor:
        """Return the parameter `name`, created with `init` on first use.

        Raises:
            LossError: an axis of `shape` is not known (it came from a dynamic axis of a variable), or the name
                is taken by a parameter of another shape.
        """
        full = self.prefix + name
        if any(size < 0 for size in shape):
            raise LossError(
                f"parameter {full!r} needs a known shape, got {list(shape)}: an axis of the variable is dynamic"
            )
        if full not in self._made:
            # Eagerly Paddle refuses a name that any parameter of the process ever had: there ours is only a key.
            name_in_paddle = None if paddle.in_dynamic_mode() else full
            attr = paddle.ParamAttr(name=name_in_paddle, initializer=init, trainable=trainable)
            value = paddle.create_parameter(list(shape), dtype, attr=attr)
            value.stop_gradient = not trainable
            self._made[full] = value
        if list(self._made[full].shape) != list(shape):
            raise LossError(f"parameter {full!r} is {list(self._made[full].shape)}, asked for again as {list(shape)}")
        return self._made[full]

    def conv(
        self, name: str, x: Tensor, channels: int, kernel: int = 1, *, bias: bool = True, small: bool = False
    ) -> Tensor:
        """Convolve [N, C, H, W] to [N, channels, H, W], size kept; weights start Kaiming-uniform, or at 1/100 of that.

        `small` is for the last layer of a residual branch. Where others start it at zero, the layers before it would
        get no gradient in the first step, and could not be told from layers that were forgotten.
        """
        fan_in = int(x.shape[1]) * kernel * kernel
        init = _uniform(math.sqrt(6.0 / max(fan_in, 1)) * (0.01 if small else 1.0))
        dtype = self.dtype_of(x)
        weight = self.parameter(f"{name}.weight", (channels, int(x.shape[1]), kernel, kernel), init, dtype=dtype)
        zero = initializer.Constant(0.0)
        offset = self.parameter(f"{name}.bias", (channels,), zero, dtype=dtype) if bias else None
        return F.conv2d(x, weight, offset, padding=kernel // 2)

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        """Normalise [N, C, ...] over all axes but the channels with the batch's statistics, then scale and shift."""
        one, zero, size, dtype = (
            initializer.Constant(1.0),
            initializer.Constant(0.0),
            (int(x.shape[1]),),
            self.dtype_of(x),
        )
        mean = self.parameter(f"{name}.mean", size, zero, dtype=dtype, trainable=False)
        variance = self.parameter(f"{name}.variance", size, one, dtype=dtype, trainable=False)
        scale = self.parameter(f"{name}.scale", size, one, dtype=dtype)
        offset = self.parameter(f"{name}.offset", size, zero, dtype=dtype)
        return F.batch_norm(x, mean, variance, scale, offset, training=True)

    def linear(self, name: str, x: Tensor, features: int) -> Tensor:
        """Map [..., D] to [..., features]; Kaiming-uniform weights."""
        width, dtype = int(x.shape[-1]), self.dtype_of(x)
        init = _uniform(math.sqrt(6.0 / max(width, 1)))
        weight = self.parameter(f"{name}.weight", (width, features), init, dtype=dtype)
        offset = self.parameter(f"{name}.bias", (features,), initializer.Constant(0.0), dtype=dtype)
        return F.linear(x, weight, offset)


def _uniform(limit: float) -> initializer.Initializer:
    return initializer.Uniform(-limit, limit)
