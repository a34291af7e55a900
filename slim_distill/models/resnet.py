"""ResNet 18, 34 and 50, variants b and d, as the backbone of a detector."""

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import pick
from slim_distill.models._layers import Layers, scaled_channels
from slim_distill.models._names import Value

__all__ = ["resnet"]

BLOCK_COUNTS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
STAGE_CHANNELS = (64, 128, 256, 512)
EXPANSION = 4


def resnet(
    image: Value, layers: Layers, *, depth: int = 34, variant: str = "b", scale: float = 1.0
) -> dict[str, Value]:
    """Build a ResNet on an image [N, 3, H, W]; return its stages c1 to c5, of stride 2 to 32.

    Variant b halves the size in the 3x3 convolution of a block; d also has three 3x3 convolutions for a stem and
    averages before the projection of a shortcut. Below 50 layers the first block of stage 2 has a projection too.
    Source: https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/1812.01187 (d); names as in PaddleDetection 0.4.

    Raises:
        ConfigError: there is no network of this depth or variant.
    """
    counts = pick({str(k): v for k, v in BLOCK_COUNTS.items()}, str(depth), "model.backbone.depth: ResNet", ConfigError)
    stems = {"b": ((64, 7, "conv1"),), "d": ((32, 3, "conv1_1"), (32, 3, "conv1_2"), (64, 3, "conv1_3"))}
    stem = pick(stems, variant, "model.backbone.variant: ResNet variant", ConfigError)
    build = layers.stage(1)
    x = image
    for i, (channels, kernel, name) in enumerate(stem):
        width = scaled_channels(channels, scale)
        x = _conv_norm(x, build, width, kernel, name, stride=2 if i == 0 else 1, act="relu")
    stages = {"c1": x}
    x = layers.names.unnamed("pool2d", F.max_pool2d(x, 3, stride=2, padding=1))
    block = _bottleneck if depth >= 50 else _basic_block
    for number, (count, channels) in enumerate(zip(counts, STAGE_CHANNELS, strict=True), start=2):
        build = layers.stage(number)
        for i in range(count):
            stride = 2 if i == 0 and number > 2 else 1
            x = block(x, build, scaled_channels(channels, scale), stride, f"{number}{chr(ord('a') + i)}", variant)
        stages[f"c{number}"] = x
    return stages


def _basic_block(x: Value, layers: Layers, channels: int, stride: int, name: str, variant: str) -> Value:
    y = _conv_norm(x, layers, channels, 3, f"res{name}_branch2a", stride=stride, act="relu")
    y = _conv_norm(y, layers, channels, 3, f"res{name}_branch2b")
    short = _shortcut(x, layers, channels, stride, name, variant, always=name == "2a")
    return _join(short, y, layers, layers.names.legacy_layer("elementwise_add"))


def _bottleneck(x: Value, layers: Layers, channels: int, stride: int, name: str, variant: str) -> Value:
    y = _conv_norm(x, layers, channels, 1, f"res{name}_branch2a", act="relu")
    y = _conv_norm(y, layers, channels, 3, f"res{name}_branch2b", stride=stride, act="relu")
    y = _conv_norm(y, layers, channels * EXPANSION, 1, f"res{name}_branch2c")
    short = _shortcut(x, layers, channels * EXPANSION, stride, name, variant)
    return _join(short, y, layers, f"res{name}.add.output.5")


def _shortcut(
    x: Value, layers: Layers, channels: int, stride: int, name: str, variant: str, *, always: bool = False
) -> Value:
    if not always and stride == 1 and x.shape[1] == channels:
        return x
    if variant == "d" and not name.startswith("2"):
        x = layers.names.unnamed("pool2d", F.avg_pool2d(x, 2, stride=2, ceil_mode=True))
        stride = 1
    return _conv_norm(x, layers, channels, 1, f"res{name}_branch1", stride=stride)


def _join(short: Value, y: Value, layers: Layers, layer: str) -> Value:
    total = layers.names.legacy(f"{layer}.tmp_0", paddle.add(short, y))
    return layers.names.legacy(f"{layer}.tmp_1", F.relu(total))


def _conv_norm(
    x: Value, layers: Layers, channels: int, kernel: int, name: str, *, stride: int = 1, act: str | None = None
) -> Value:
    y = layers.conv(x, channels, kernel, f"{name}_weights", stride=stride, legacy=f"{name}.conv2d.output.1")
    # The published rule drops three letters: res2a_branch1 -> bn2a_branch1, and so also conv1_1 -> bnv1_1.
    norm = "bn_conv1" if name == "conv1" else f"bn{name[3:]}"
    return layers.norm(y, f"{norm}_{{}}", act=act, legacy=f"{norm}.output.1")
