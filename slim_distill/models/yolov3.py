"""The YOLOv3 head, and how its raw maps become boxes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle.nn.initializer import Assign

from slim_distill.models._layers import Layers, scaled_channels
from slim_distill.models._names import Names, Value

__all__ = ["COARSEST_STRIDE", "HEAD_CHANNELS", "Anchors", "Suppression", "detect", "yolo_head"]

COARSEST_STRIDE = 32
HEAD_CHANNELS = 512


@dataclass(frozen=True)
class Anchors:
    """The anchor boxes of a detector.

    Attributes:
        sizes: (width, height) of every anchor, in pixels of the network's input.
        masks: numbers of the anchors of every scale, stride 32 first, then 16 and 8.
    """

    sizes: Sequence[tuple[float, float]]
    masks: Sequence[Sequence[int]]

    def flat(self) -> list[int]:
        """Width and height of all anchors one after another, as Paddle's operators take them."""
        return [int(v) for size in self.sizes for v in size]

    def of_scale(self, scale: int) -> list[tuple[float, float]]:
        """(width, height) of the anchors of scale 0 (stride 32), 1 or 2."""
        return [self.sizes[number] for number in self.masks[scale]]

    def stride(self, scale: int) -> int:
        """Pixels of the network's input to a cell."""
        return COARSEST_STRIDE >> scale


@dataclass(frozen=True)
class Suppression:
    """Numbers of the multi-class non-maximum suppression.

    Attributes:
        score_threshold: scores up to this are dropped, and boxes whose objectness is below it.
        nms_top_k: at most so many candidates of a class, -1 for all.
        keep_top_k: at most so many detections of an image, -1 for all.
        nms_threshold: of two boxes of a class that overlap more than this, the lower score is dropped.
        normalized: boxes are in 0..1; False for pixels, whose widths count the last pixel too.
        background_label: class that is no object, -1 for none.
    """

    score_threshold: float = 0.01
    nms_top_k: int = 1000
    keep_top_k: int = 100
    nms_threshold: float = 0.45
    normalized: bool = False
    background_label: int = -1


def yolo_head(
    features: Sequence[Value],
    layers: Layers,
    *,
    num_classes: int,
    masks: Sequence[Sequence[int]],
    scale: float = 1.0,
    objectness_prior: float = 0.5,
) -> list[Value]:
    """Build the YOLOv3 head; return its raw maps, coarsest first, each [N, A * (5 + C), g, g].

    Channels of a map: anchor by anchor x, y, w, h, objectness, then the classes.

    Args:
        features: feature maps of the backbone, coarsest (stride 32) first, one for each mask.
        layers: builder of the head's layers.
        num_classes: C.
        masks: anchors of each scale; only their number matters here.
        scale: multiplies the inner channels.
        objectness_prior: objectness of a cell before training; 0.5, a bias of zero, as published. Less (RetinaNet's
            0.01, https://arxiv.org/abs/1708.02002) spares a network trained from scratch unlearning a thousand objects.

    Source: https://arxiv.org/abs/1804.02767; names as in PaddleDetection 0.4.
    """
    names = layers.names
    heads: list[Value] = []
    route = None
    for i, (feature, mask) in enumerate(zip(features, masks, strict=True)):
        x = feature if route is None else layers.concat([route, feature])
        channels = scaled_channels(HEAD_CHANNELS >> i, scale)
        for j in range(2):
            x = layers.dark_conv(x, channels, 1, f"yolo_block.{i}.{j}.0")
            x = layers.dark_conv(x, 2 * channels, 3, f"yolo_block.{i}.{j}.1")
        route = layers.dark_conv(x, channels, 1, f"yolo_block.{i}.2")
        tip = layers.dark_conv(route, 2 * channels, 3, f"yolo_block.{i}.tip")
        names.role(f"neck.p{5 - i}", tip)
        output = f"yolo_output.{i}.conv"
        start = np.zeros((len(mask), 5 + num_classes), "float32")
        start[:, 4] = math.log(objectness_prior / (1 - objectness_prior))
        head = layers.conv(
            tip,
            start.size,
            1,
            f"{output}.weights",
            bias=f"{output}.bias",
            bias_decay=0.0,
            bias_init=Assign(start.reshape(-1)) if start.any() else None,
        )
        heads.append(names.role(f"yolo_head.{i}", head))
        if i + 1 < len(masks):
            transition = scaled_channels((HEAD_CHANNELS >> i) // 2, scale)
            route = layers.upsample(layers.dark_conv(route, transition, 1, f"yolo_transition.{i}"))
    return heads


def detect(
    heads: Sequence[Value],
    im_size: Value,
    names: Names,
    anchors: Anchors,
    *,
    num_classes: int,
    suppression: Suppression,
    clip_bbox: bool = True,
    scale_x_y: float = 1.0,
    prefix: str = "",
) -> None:
    """Decode raw maps and drop overlapping boxes; records `boxes`, `scores`, `dets` and `dets_num`.

    `boxes` [N, M, 4] are x1, y1, x2, y2 in pixels of the original image, `scores` [N, C, M]; M runs over scale,
    anchor, row, column. A box whose objectness is below the threshold is all zero, scores too. `dets` [K, 6] are
    class, score, x1, y1, x2, y2: image by image, inside an image by class, inside a class by falling score;
    `dets_num` [N] int32 says how many rows belong to each image. Without a single detection K is 0 (Paddle 1.x
    gave one row holding -1).

    Args:
        heads: raw maps, coarsest first.
        im_size: [N, 2] int32, height and width of the original images.
        names: where the results are recorded.
        anchors: the anchor boxes.
        num_classes: C.
        suppression: numbers of the non-maximum suppression.
        clip_bbox: cut boxes at the image's borders.
        scale_x_y: stretches the range of a box centre around the middle of its cell.
        prefix: of the head's layers.
    """
    boxes, scores = [], []
    for i, head in enumerate(heads):
        box, score = paddle.vision.ops.yolo_box(
            head,
            im_size,
            anchors=[int(v) for size in anchors.of_scale(i) for v in size],
            class_num=num_classes,
            conf_thresh=suppression.score_threshold,
            downsample_ratio=anchors.stride(i),
            clip_bbox=clip_bbox,
            scale_x_y=scale_x_y,
        )
        boxes.append(names.legacy(f"{prefix}yolo_box{i}.tmp_0", box))
        names.legacy(f"{prefix}yolo_box{i}.tmp_1", score)
        scores.append(names.unnamed("transpose", paddle.transpose(score, [0, 2, 1])))
    all_boxes = names.unnamed("concat", names.role("boxes", paddle.concat(boxes, axis=1)))
    all_scores = names.unnamed("concat", names.role("scores", paddle.concat(scores, axis=2)))
    dets, _, counts = paddle._C_ops.multiclass_nms3(
        all_boxes,
        all_scores,
        None,
        suppression.score_threshold,
        suppression.nms_top_k,
        suppression.keep_top_k,
        suppression.nms_threshold,
        suppression.normalized,
        1.0,
        suppression.background_label,
    )
    names.unnamed("multiclass_nms", names.role("dets", dets))
    names.role("dets_num", counts)
