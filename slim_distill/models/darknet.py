"""DarkNet53 as the backbone of a detector."""

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import pick
from slim_distill.models._layers import Layers, scaled_channels
from slim_distill.models._names import Value

__all__ = ["darknet"]

BLOCK_COUNTS = {"53": (1, 2, 8, 8, 4)}


def darknet(image: Value, layers: Layers, *, depth: int = 53, scale: float = 1.0) -> dict[str, Value]:
    """Build DarkNet on an image [N, 3, H, W]; return its stages c1 to c5, of stride 2 to 32.

    Source: https://arxiv.org/abs/1804.02767; names as in PaddleDetection 0.4.

    Raises:
        ConfigError: there is no network of this depth.
    """
    counts = pick(BLOCK_COUNTS, str(depth), "model.backbone.depth: DarkNet", ConfigError)
    build = layers.stage(1)
    x = build.dark_conv(image, scaled_channels(32, scale), 3, "yolo_input")
    name = "yolo_input.downsample"
    stages: dict[str, Value] = {}
    for i, count in enumerate(counts):
        build = layers.stage(i + 1)
        inner, outer = (scaled_channels(c * 2**i, scale) for c in (32, 64))
        x = build.dark_conv(x, outer, 3, name, stride=2)
        for j in range(count):
            y = build.dark_conv(x, inner, 1, f"stage.{i}.{j}.0")
            x = build.add(x, build.dark_conv(y, outer, 3, f"stage.{i}.{j}.1"))
        stages[f"c{i + 1}"] = x
        name = f"stage.{i}.downsample"
    return stages
