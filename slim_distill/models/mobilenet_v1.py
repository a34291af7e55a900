"""MobileNetV1 as the backbone of a detector."""

from paddle.nn.initializer import KaimingUniform

from slim_distill.models._layers import Layers, scaled_channels
from slim_distill.models._names import Value

__all__ = ["mobilenet_v1"]

# Blocks of every stage: name, output channels, stride.
STAGES = (
    (("conv2_1", 64, 1),),
    (("conv2_2", 128, 2), ("conv3_1", 128, 1)),
    (("conv3_2", 256, 2),),
    (("conv4_1", 256, 1), ("conv4_2", 512, 2)),
    (*((f"conv5_{i}", 512, 1) for i in range(1, 6)), ("conv5_6", 1024, 2), ("conv6", 1024, 1)),
)


def mobilenet_v1(image: Value, layers: Layers, *, scale: float = 1.0) -> dict[str, Value]:
    """Build MobileNetV1 on an image [N, 3, H, W]; return its stages c1 to c5, of stride 2 to 32.

    As published, c3 and c4 end right after the convolution that halves the size, not before the next one.
    Source: https://arxiv.org/abs/1704.04861; names, taps and initial values as in PaddleDetection 0.4.
    """
    stages: dict[str, Value] = {}
    x = _conv_norm(image, layers.stage(1), scaled_channels(32, scale), 3, "conv1", stride=2)
    for number, blocks in enumerate(STAGES, start=1):
        build = layers.stage(number)
        for name, channels, stride in blocks:
            inputs = x.shape[1]
            x = _conv_norm(x, build, inputs, 3, f"{name}_dw", stride=stride, groups=inputs)
            x = _conv_norm(x, build, scaled_channels(channels, scale), 1, f"{name}_sep")
        stages[f"c{number}"] = x
    return stages


def _conv_norm(
    x: Value, layers: Layers, channels: int, kernel: int, name: str, *, stride: int = 1, groups: int = 1
) -> Value:
    init = KaimingUniform()  # called MSRA in Paddle 1.x
    y = layers.conv(x, channels, kernel, f"{name}_weights", stride=stride, groups=groups, init=init)
    return layers.norm(y, f"{name}_bn_{{}}", act="relu")
