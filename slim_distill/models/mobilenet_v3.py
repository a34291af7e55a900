"""MobileNetV3, large and small, as the backbone of a detector."""

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import pick
from slim_distill.models._layers import Layers, scaled_channels
from slim_distill.models._names import Value

__all__ = ["mobilenet_v3"]

# Kernel, inner channels, output channels, squeeze and excitation, hard swish instead of ReLU, stride.
BLOCKS = {
    "large": (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ),
    "small": (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ),
}
STEM_CHANNELS = 16
SQUEEZE = 4
HARD_SIGMOID_SLOPE = 0.2  # Paddle 1.x's default; today's is 1/6


def mobilenet_v3(image: Value, layers: Layers, *, scale: float = 1.0, model_name: str = "large") -> dict[str, Value]:
    """Build MobileNetV3 on an image [N, 3, H, W]; return its stages c1 to c5, of stride 2 to 32.

    Source: https://arxiv.org/abs/1905.02244; names and initial values as in PaddleDetection 0.4.

    Raises:
        ConfigError: `model_name` is neither "large" nor "small".
    """
    blocks = pick(BLOCKS, model_name, "model.backbone.model_name: size of MobileNetV3", ConfigError)
    stages: dict[str, Value] = {}
    build = layers.stage(1)
    x = _conv_norm(image, build, scaled_channels(STEM_CHANNELS, scale), 3, "conv1", stride=2)
    x = _hard_swish(x, build)
    for number, (kernel, inner, outer, squeeze, swish, stride) in enumerate(blocks, start=2):
        if stride == 2:
            stages[f"c{len(stages) + 1}"] = x
            build = layers.stage(len(stages) + 1)
        shape = (kernel, scaled_channels(inner, scale), scaled_channels(outer, scale), stride)
        x = _block(x, build, shape, f"conv{number}", squeeze=squeeze, swish=swish)
    return {**stages, f"c{len(stages) + 1}": x}


def _block(
    x: Value, layers: Layers, shape: tuple[int, int, int, int], name: str, *, squeeze: bool, swish: bool
) -> Value:
    kernel, inner, outer, stride = shape
    act = _hard_swish if swish else _relu
    y = act(_conv_norm(x, layers, inner, 1, f"{name}_expand"), layers)
    y = act(_conv_norm(y, layers, inner, kernel, f"{name}_depthwise", stride=stride, groups=inner), layers)
    if squeeze:
        y = _squeeze_excite(y, layers, f"{name}_se")
    y = _conv_norm(y, layers, outer, 1, f"{name}_linear")
    return layers.add(x, y) if stride == 1 and x.shape[1] == outer else y


def _squeeze_excite(x: Value, layers: Layers, name: str) -> Value:
    channels, decay = x.shape[1], layers.conv_decay
    y = layers.names.unnamed("pool2d", F.adaptive_avg_pool2d(x, 1))
    y = layers.conv(y, channels // SQUEEZE, 1, f"{name}_1_weights", bias=f"{name}_1_offset", bias_decay=decay)
    y = layers.conv(F.relu(y), channels, 1, f"{name}_2_weights", bias=f"{name}_2_offset", bias_decay=decay)
    return layers.names.unnamed("elementwise_mul", paddle.multiply(x, F.hardsigmoid(y, slope=HARD_SIGMOID_SLOPE)))


def _conv_norm(
    x: Value, layers: Layers, channels: int, kernel: int, name: str, *, stride: int = 1, groups: int = 1
) -> Value:
    y = layers.conv(x, channels, kernel, f"{name}_weights", stride=stride, groups=groups)
    return layers.norm(y, f"{name}_bn_{{}}", legacy=f"{name}_bn.output.1")


def _relu(x: Value, layers: Layers) -> Value:
    return layers.names.unnamed("relu", F.relu(x))


def _hard_swish(x: Value, layers: Layers) -> Value:
    return F.hardswish(x)
