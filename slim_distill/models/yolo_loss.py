"""YOLOv3's own loss by Paddle's operator, straight from the boxes; and what it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F

from slim_distill.models._names import Names, Value
from slim_distill.models.yolov3 import Anchors

__all__ = ["PARTS", "GroundTruth", "bce", "operator_loss", "smoothing"]

PARTS = ("xy", "wh", "obj", "cls")
SMALLEST_SIDE = 1e-6  # boxes whose width or height is not above this are padding
POSITIVE = 1e-5  # the operator's bounds in its objectness mask: above this an object,
IGNORED = -0.5  # below this no part of the loss


@dataclass(frozen=True)
class GroundTruth:
    """What the images show.

    Attributes:
        bbox: [N, B, 4] centre x, centre y, width, height as shares of the image; zero rows are padding.
        label: [N, B] int32 class numbers.
        score: [N, B] weight of each box.
    """

    bbox: Value
    label: Value
    score: Value


def bce(logit: Value, target: Value) -> Value:
    """Binary cross entropy of every element: log(1 + exp(x)) - x t."""
    # Half the time of Paddle's own operator and its gradient, which compute the same.
    return F.softplus(logit) - logit * target


def smoothing(num_classes: int, smooth: bool) -> float:
    """Return e: with smoothed labels the target of a box's class is 1 - e and of the other classes e."""
    return min(1.0 / num_classes, 1.0 / 40.0) if smooth else 0.0


def operator_loss(
    heads: Sequence[Value],
    truth: GroundTruth,
    names: Names,
    anchors: Anchors,
    *,
    num_classes: int,
    ignore_thresh: float = 0.7,
    label_smooth: bool = False,
    scale_x_y: float = 1.0,
    prefix: str = "",
) -> None:
    """Record `loss` and `loss.i`: each scale's sum over the image, mean over the batch; `loss` their sum.

    Also recorded are the parts `loss_xy`, `loss_wh`, `loss_obj`, `loss_cls` and those of scale i, `loss_xy.i`, ...
    They are computed beside `loss`, not on the way to it, and disappear when a program is cut to `loss`.

    Formula, for each box that fits the anchors of a scale best, in the cell of its centre (i, j) of a g x g grid,
    with B the binary cross entropy with logits:
        xy: score (2 - w h) (B(x, cx g - i) + B(y, cy g - j))
        wh: score (2 - w h) (|w' - log(w S / aw)| + |h' - log(h S / ah)|)
        cls: score sum_c B(c, target)
        obj: score B(o, 1) in cells with a box; B(o, 0) elsewhere, but nothing where the predicted box overlaps any
            ground truth by more than `ignore_thresh`.
    The best anchor is searched among those of all scales. Where boxes share a cell and an anchor each adds its xy,
    wh and cls; the last one's score weights obj. `scale_x_y` acts on the predicted boxes of the overlap rule only.
    Source: `yolov3_loss` of Paddle 1.x, whose numbers today's operator reproduces bit for bit.
    """
    losses: list[Value] = []
    sums: dict[str, list[Value]] = {part: [] for part in PARTS}
    smooth = smoothing(num_classes, label_smooth)
    boxes = _match(heads[0], truth, anchors)
    for i, head in enumerate(heads):
        per_image = paddle.vision.ops.yolo_loss(
            head,
            truth.bbox,
            truth.label,
            anchors.flat(),
            list(anchors.masks[i]),
            num_classes,
            ignore_thresh,
            anchors.stride(i),
            gt_score=truth.score,
            use_label_smooth=label_smooth,
            scale_x_y=scale_x_y,
        )
        names.legacy(f"{prefix}yolo_loss{i}.tmp_0", per_image)
        loss = names.unnamed("reduce_mean", names.role(f"loss.{i}", paddle.mean(per_image)))
        losses.append(loss)
        # The operator's second result says which cells count as objects, background or neither.
        mask = names.legacy(f"{prefix}yolo_loss{i}.tmp_1", per_image.get_defining_op().result(1))
        mask.stop_gradient = True
        parts = _box_parts(head, truth, boxes, anchors, i, num_classes, smooth)
        parts["obj"] = _obj_part(head, mask, num_classes)
        for part in PARTS:
            sums[part].append(names.role(f"loss_{part}.{i}", paddle.mean(parts[part])))
    names.unnamed("sum", names.role("loss", paddle.add_n(losses)))
    for part in PARTS:
        names.role(f"loss_{part}", paddle.add_n(sums[part]))


def _obj_part(head: Value, mask: Value, num_classes: int) -> Value:
    """Objectness part of each image [N], from the operator's mask [N, A, g, g]."""
    step = 5 + num_classes
    logit = paddle.concat([head[:, a + 4 : a + 5] for a in range(0, head.shape[1], step)], axis=1)
    positive = paddle.cast(mask > POSITIVE, "float32")
    negative = paddle.cast(mask > IGNORED, "float32") - positive
    loss = positive * mask * bce(logit, paddle.ones_like(logit)) + negative * bce(logit, paddle.zeros_like(logit))
    return paddle.sum(loss, axis=[1, 2, 3])


@dataclass(frozen=True)
class _Boxes:
    """The true boxes, [N, B] each: centre and size as shares of the image, their best anchor and whether they count."""

    cx: Value
    cy: Value
    w: Value
    h: Value
    best: Value
    valid: Value
    input_size: Value  # pixels, a scalar


def _match(head: Value, truth: GroundTruth, anchors: Anchors) -> _Boxes:
    """Find the best anchor of every box; `head` is the coarsest map, from which the size of the input follows."""
    input_size = paddle.cast(paddle.shape(head)[2], "float32") * anchors.stride(0)
    cx, cy, w, h = (paddle.squeeze(v, -1) for v in paddle.split(truth.bbox, 4, axis=-1))
    best = _best_anchor(w * input_size, h * input_size, anchors.sizes)
    return _Boxes(cx, cy, w, h, best, paddle.minimum(w, h) > SMALLEST_SIDE, input_size)


def _box_parts(
    head: Value, truth: GroundTruth, boxes: _Boxes, anchors: Anchors, scale: int, num_classes: int, smooth: float
) -> dict[str, Value]:
    """Location and class parts of each image, [N] each; a box that belongs to another scale adds nothing."""
    mask = anchors.masks[scale]
    chosen = paddle.stack([paddle.logical_and(boxes.valid, boxes.best == number) for number in mask], axis=-1)
    chosen = paddle.cast(chosen, "float32")  # [N, B, A]
    ours = paddle.sum(chosen, axis=-1)
    grid = boxes.input_size / anchors.stride(scale)
    cx, cy = boxes.cx * grid, boxes.cy * grid
    column, row = (paddle.minimum(paddle.floor(v), grid - 1) for v in (cx, cy))
    cell = _gather_cells(head, row, column, len(mask), 5 + num_classes)  # [N, B, A, 5 + C]
    cell = paddle.sum(cell * paddle.unsqueeze(chosen, -1), axis=2)
    centre, size, _, classes = paddle.split(cell, [2, 2, 1, num_classes], axis=-1)
    # Boxes of other scales get size 1 and anchor 1, so that no logarithm of zero is multiplied by zero.
    other = paddle.unsqueeze(1 - ours, -1)
    sizes = paddle.to_tensor(anchors.of_scale(scale), dtype="float32")  # [A, 2]
    pixels = truth.bbox[:, :, 2:4] * boxes.input_size * (1 - other)
    wanted_size = paddle.log((pixels + other) / (paddle.matmul(chosen, sizes) + other))
    wanted_centre = paddle.stack([cx - column, cy - row], axis=-1)
    weight = paddle.unsqueeze(truth.score * (2.0 - boxes.w * boxes.h) * ours, -1)
    target = F.one_hot(paddle.cast(truth.label, "int64"), num_classes) * (1 - 2 * smooth) + smooth
    return {
        "xy": paddle.sum(weight * bce(centre, wanted_centre), axis=[1, 2]),
        "wh": paddle.sum(weight * paddle.abs(size - wanted_size), axis=[1, 2]),
        "cls": paddle.sum(paddle.unsqueeze(truth.score * ours, -1) * bce(classes, target), axis=[1, 2]),
    }


def _best_anchor(w: Value, h: Value, sizes: Sequence[tuple[float, float]]) -> Value:
    """Number [N, B] of the anchor that overlaps a box of w x h pixels most when their centres coincide."""
    anchor_w = paddle.to_tensor([size[0] for size in sizes], dtype="float32")
    anchor_h = paddle.to_tensor([size[1] for size in sizes], dtype="float32")
    w, h = paddle.unsqueeze(w, -1), paddle.unsqueeze(h, -1)
    inter = paddle.minimum(w, anchor_w) * paddle.minimum(h, anchor_h)
    return paddle.argmax(inter / (w * h + anchor_w * anchor_h - inter), axis=-1)


def _gather_cells(head: Value, row: Value, column: Value, count: int, size: int) -> Value:
    """[N, A * size, g, g] and the cells' row and column [N, B] to [N, B, A, size]."""
    image = paddle.cumsum(paddle.ones_like(row), axis=0) - 1
    index = paddle.cast(paddle.stack([image, row, column], axis=-1), "int64")
    cells = paddle.gather_nd(paddle.transpose(head, [0, 2, 3, 1]), index)
    return paddle.reshape(cells, [0, 0, count, size])
