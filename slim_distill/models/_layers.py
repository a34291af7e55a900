"""Layers of the published detectors: they create their parameters in the current program and record their names."""

import math
from dataclasses import dataclass, replace

import paddle
import paddle.nn.functional as F
from paddle import static
from paddle.nn.initializer import Constant, Initializer, Normal

from slim_distill.models._names import Names, Value

__all__ = ["BATCH_NORM_EPSILON", "BATCH_NORM_MOMENTUM", "LEAKY_SLOPE", "Layers", "scaled_channels"]

BATCH_NORM_MOMENTUM = 0.9
BATCH_NORM_EPSILON = 1e-5
LEAKY_SLOPE = 0.1


def scaled_channels(channels: float, scale: float = 1.0) -> int:
    """Return `channels * scale` rounded to a multiple of 8: at least 8, and never more than a tenth too few.

    The rule of MobileNetV3, https://arxiv.org/abs/1905.02244 (the authors' `make_divisible`).
    """
    wanted = channels * scale
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


@dataclass(frozen=True)
class Layers:
    """Builds layers of one part of a network (its backbone, its head).

    Attributes:
        names: where variables are recorded.
        training: batch norms use the statistics of the batch and move their running ones.
        prefix: put before every parameter name.
        conv_decay: L2 decay of convolution weights and biases; None for the optimizer's.
        norm_decay: L2 decay of batch norm scales and offsets.
        freeze_at: number of leading stages whose parameters do not train.
        freeze_norm: batch norms neither train nor move their statistics.
        frozen: the layers built now do not train; `stage` sets it.
    """

    names: Names
    training: bool
    prefix: str = ""
    conv_decay: float | None = None
    norm_decay: float | None = 0.0
    freeze_at: int = 0
    freeze_norm: bool = False
    frozen: bool = False

    def stage(self, number: int) -> "Layers":
        """Return the builder of the layers of stage `number`, counted from 1."""
        return replace(self, frozen=number <= self.freeze_at)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int,
        weight: str,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: str | None = None,
        bias_decay: float | None = None,
        bias_init: Initializer | None = None,
        init: Initializer | None = None,
        legacy: str | None = None,
    ) -> Value:
        """Convolve [N, C, H, W] to [N, channels, H / stride, W / stride], padded so that stride 1 keeps the size.

        Args:
            x: the input.
            channels: number of output channels.
            kernel: width and height of the kernel, odd.
            weight: parameter name of the kernel.
            stride: step in both directions.
            groups: number of channel groups; as many as input channels for a depthwise convolution.
            bias: parameter name of the bias; None for no bias.
            bias_decay: L2 decay of the bias; None for the optimizer's.
            bias_init: how the bias starts; None for zeros.
            init: how the kernel starts; None for a normal distribution of variance 2 / (kernel^2 * C), Paddle 1.x's
                default, where C counts the channels of all groups.
            legacy: name that the published network gives this layer; None where it gives none.
        """
        inputs = x.shape[1]
        default = Normal(0.0, math.sqrt(2.0 / (kernel * kernel * inputs)))
        kernel_shape = [channels, inputs // groups, kernel, kernel]
        w = self._parameter(weight, kernel_shape, init or default, self.conv_decay)
        y = F.conv2d(x, w, stride=stride, padding=(kernel - 1) // 2, groups=groups)
        kind = "depthwise_conv2d" if groups > 1 and groups == inputs else "conv2d"
        layer = self.prefix + legacy if legacy is not None else self.names.legacy_layer(kind)
        self._record(y, weight, f"{layer}.tmp_0")
        if bias is None:
            return y
        b = self._parameter(bias, [channels], bias_init or Constant(0.0), bias_decay)
        return self._record(y + paddle.reshape(b, [1, channels, 1, 1]), weight, f"{layer}.tmp_1")

    def norm(
        self, x: Value, pattern: str, *, variance: str = "variance", act: str | None = None, legacy: str | None = None
    ) -> Value:
        """Batch norm over N, H, W of [N, C, H, W], with a ReLU after it where act is "relu".

        Args:
            x: the input.
            pattern: parameter names, "{}" standing for scale, offset, mean and variance.
            variance: what the published network calls the running variance.
            act: "relu" or None.
            legacy: name that the published network gives this layer; None where it gives none.
        """
        size = [x.shape[1]]
        train = not self.freeze_norm
        scale = self._parameter(pattern.format("scale"), size, Constant(1.0), self.norm_decay, train)
        offset = self._parameter(pattern.format("offset"), size, Constant(0.0), self.norm_decay, train)
        mean = self._parameter(pattern.format("mean"), size, Constant(0.0), None, False)
        var = self._parameter(pattern.format(variance), size, Constant(1.0), None, False)
        y = F.batch_norm(
            x,
            mean,
            var,
            scale,
            offset,
            training=self.training,
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=BATCH_NORM_EPSILON,
            use_global_stats=True if self.freeze_norm else None,
        )
        layer = self.prefix + legacy if legacy is not None else self.names.legacy_layer("batch_norm")
        self._record(y, pattern, f"{layer}.tmp_2")
        return self._record(F.relu(y), pattern, f"{layer}.tmp_3") if act == "relu" else y

    def leaky(self, x: Value) -> Value:
        """x where it is positive, x / 10 elsewhere."""
        return self.names.unnamed("leaky_relu", F.leaky_relu(x, LEAKY_SLOPE))

    def dark_conv(self, x: Value, channels: int, kernel: int, name: str, *, stride: int = 1) -> Value:
        """Convolution, batch norm and leaky ReLU as in DarkNet and the YOLO head: `NAME.conv.*`, `NAME.bn.*`."""
        y = self.conv(x, channels, kernel, f"{name}.conv.weights", stride=stride)
        return self.leaky(self.norm(y, f"{name}.bn.{{}}", variance="var"))

    def add(self, x: Value, y: Value) -> Value:
        """Sum of two feature maps of one shape."""
        return self.names.unnamed("elementwise_add", paddle.add(x, y))

    def concat(self, parts: list[Value]) -> Value:
        """Feature maps side by side along the channels."""
        return self.names.unnamed("concat", paddle.concat(parts, axis=1))

    def upsample(self, x: Value) -> Value:
        """Every cell repeated 2 x 2 times."""
        return self.names.unnamed("nearest_interp", F.interpolate(x, scale_factor=2, mode="nearest"))

    def _parameter(
        self, name: str, shape: list[int], init: Initializer, decay: float | None, train: bool = True
    ) -> Value:
        train = train and not self.frozen
        attr = paddle.ParamAttr(
            name=self.prefix + name,
            initializer=init,
            regularizer=paddle.regularizer.L2Decay(decay) if decay is not None else None,
            trainable=train,
        )
        return static.create_parameter(shape, "float32", attr=attr)

    def _record(self, value: Value, parameter: str, legacy: str) -> Value:
        self.names.layer(self.prefix + parameter, value)
        return self.names.legacy(legacy, value)
