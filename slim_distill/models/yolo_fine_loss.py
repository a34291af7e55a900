"""YOLOv3's own loss computed in the graph from the reader's targets, with every output of a head as a variable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import paddle
import paddle.nn.functional as F

from slim_distill.models._names import Names, Value
from slim_distill.models.box_overlap import Corners, corners, overlap
from slim_distill.models.yolo_loss import PARTS, bce, smoothing
from slim_distill.models.yolov3 import Anchors

__all__ = ["BoxLoss", "HeadParts", "fine_grained_loss", "split_head"]

AXES = [1, 2, 3]


class HeadParts(NamedTuple):
    """Raw outputs of one scale: x, y, w, h, obj [N, A, g, g] and cls [N, A, g, g, C]."""

    x: Value
    y: Value
    w: Value
    h: Value
    obj: Value
    cls: Value


@dataclass(frozen=True)
class BoxLoss:
    """An extra loss between predicted and true boxes.

    Attributes:
        kind: iou | giou | diou | ciou.
        weight: factor.
        square: weight * (1 - v * v) instead of weight * (1 - v), where v is the overlap of that kind.
    """

    kind: str
    weight: float
    square: bool = False


def split_head(head: Value, names: Names, *, count: int, num_classes: int) -> HeadParts:
    """Split a raw map [N, A * (5 + C), g, g], A = `count`, into its parts."""
    # One split and one concatenation a part: its gradient is then a single concatenation too.
    pieces = paddle.split(head, [1, 1, 1, 1, 1, num_classes] * count, axis=1)
    fields = [names.unnamed("strided_slice", paddle.concat(pieces[k::6], axis=1)) for k in range(5)]
    classes = paddle.stack([names.unnamed("slice", piece) for piece in pieces[5::6]], axis=1)  # [N, A, C, g, g]
    return HeadParts._make([*fields, names.unnamed("transpose", paddle.transpose(classes, [0, 1, 3, 4, 2]))])


def fine_grained_loss(
    heads: Sequence[Value],
    gt_bbox: Value,
    targets: Sequence[Value],
    names: Names,
    anchors: Anchors,
    *,
    num_classes: int,
    ignore_thresh: float = 0.7,
    label_smooth: bool = False,
    scale_x_y: float = 1.0,
    box_loss: BoxLoss | None = None,
) -> None:
    """Record `loss`, its parts and the raw outputs of every scale.

    Parts: `loss_xy`, `loss_wh`, `loss_obj`, `loss_cls` and, with a box loss, `loss_iou`; those of scale i are called
    `loss_xy.i`, ... Raw outputs: `x.i`, `y.i`, `w.i`, `h.i`, `obj.i` [N, A, g, g] and `cls.i` [N, A, g, g, C].

    Formula, from a target tx, ty, tw, th, scale, score, classes of every cell, B the binary cross entropy with logits:
        xy: scale score (B(x, tx) + B(y, ty));  wh: scale score (|w - tw| + |h - th|);  cls: score sum_c B(c, tc)
        obj: score B(o, 1) in cells with a box; B(o, 0) elsewhere, but nothing where the predicted box (not clipped,
            `scale_x_y` applied) overlaps any ground truth by more than `ignore_thresh`
        iou: scale score weight (1 - v), see `BoxLoss`
    Each is summed over the image, averaged over the batch, summed over the scales.

    Args:
        heads: raw maps, coarsest first.
        gt_bbox: [N, B, 4] centre x, centre y, width, height as shares of the image; zero rows are padding.
        targets: one for each scale, [N, A, 6 + C, g, g].
        names: where the results are recorded.
        anchors: the anchor boxes.
        num_classes: C.
        ignore_thresh: see above.
        label_smooth: smooth the class targets. The published system says so in its configuration and does not do it.
        scale_x_y: stretches the range of a box centre; the xy loss does not know it, as published.
        box_loss: the extra loss; None for none.

    Source: `YOLOv3Loss._get_fine_grained_loss` of PaddleDetection 0.4, unrolled over the batch there and not here.
    """
    kinds = (*PARTS, "iou") if box_loss is not None else PARTS
    sums: dict[str, list[Value]] = {kind: [] for kind in kinds}
    smooth = smoothing(num_classes, label_smooth)
    gt_bbox = _without_padding(gt_bbox)
    for i, (head, target) in enumerate(zip(heads, targets, strict=True)):
        parts = split_head(head, names, count=len(anchors.masks[i]), num_classes=num_classes)
        for field, value in zip(HeadParts._fields, parts, strict=True):
            names.role(f"{field}.{i}", value)
        truth = _split_target(target, names, num_classes, i)
        pixels = anchors.of_scale(i), anchors.stride(i)
        keep = _background(parts, gt_bbox, pixels, ignore_thresh, scale_x_y)
        names.legacy(f"{names.legacy_layer('reshape2')}.tmp_2", keep)
        losses: dict[str, Value] = {}
        if box_loss is not None:
            losses["iou"] = _box_loss(parts, truth, pixels, scale_x_y, box_loss)
        losses.update(_part_losses(parts, truth, keep, smooth))
        for kind, loss in losses.items():
            mean = names.unnamed("reduce_mean", paddle.mean(loss))
            sums[kind].append(names.role(f"loss_{kind}.{i}", mean))
    totals = [names.unnamed("sum", names.role(f"loss_{kind}", paddle.add_n(sums[kind]))) for kind in kinds]
    names.unnamed("sum", names.role("loss", paddle.add_n(totals)))


class _Target(NamedTuple):
    """tx, ty, tw, th, scale and score [N, A, g, g] and classes [N, A, g, g, C] of one scale."""

    x: Value
    y: Value
    w: Value
    h: Value
    scale: Value
    score: Value
    cls: Value


def _split_target(target: Value, names: Names, num_classes: int, scale: int) -> _Target:
    pieces = paddle.split(target, [1, 1, 1, 1, 1, 1, num_classes], axis=2)
    fields = [paddle.squeeze(piece, 2) for piece in pieces[:6]]
    for k, piece in enumerate([*fields, pieces[6]]):
        names.legacy(f"target{scale}_slice_{k}", piece)
    return _Target._make([*fields, names.unnamed("transpose", paddle.transpose(pieces[6], [0, 1, 3, 4, 2]))])


def _part_losses(parts: HeadParts, truth: _Target, keep: Value, smooth: float) -> dict[str, Value]:
    """The parts of the loss of each image, [N] each."""
    weight = truth.scale * truth.score
    occupied = paddle.cast(truth.score > 0, "float32")
    classes = truth.cls * (1 - 2 * smooth) + smooth if smooth else truth.cls
    xy = bce(parts.x, truth.x) + bce(parts.y, truth.y)
    wh = paddle.abs(parts.w - truth.w) + paddle.abs(parts.h - truth.h)
    obj = bce(parts.obj, occupied) * (truth.score + (1 - occupied) * keep)
    cls = paddle.sum(bce(parts.cls, classes), axis=-1)
    return {
        "xy": paddle.sum(weight * xy, axis=AXES),
        "wh": paddle.sum(weight * wh, axis=AXES),
        "obj": paddle.sum(obj, axis=AXES),
        "cls": paddle.sum(truth.score * cls, axis=AXES),
    }


def _without_padding(gt_bbox: Value) -> Value:
    """The boxes up to the last one that is not padding in every image, and at least one."""
    real = paddle.max(paddle.cast(gt_bbox[:, :, 2] > 0, "int64"), axis=0)  # [B]
    last = paddle.max(real * paddle.cumsum(paddle.ones_like(real)))
    return gt_bbox[:, : paddle.clip(last, min=1)]


def _background(
    parts: HeadParts,
    gt_bbox: Value,
    pixels: tuple[Sequence[tuple[float, float]], int],
    ignore_thresh: float,
    scale_x_y: float,
) -> Value:
    """1 [N, A, g, g] where the predicted box overlaps no ground truth by more than `ignore_thresh`, else 0."""
    # Predictions only choose cells here: no gradient may flow through them.
    x, y, w, h = (v.detach() for v in parts[:4])
    boxes = [paddle.reshape(side, [0, -1, 1]) for side in _decode(x, y, w, h, *pixels, scale_x_y)]  # [N, P, 1]
    cx, cy, gw, gh = (paddle.transpose(v, [0, 2, 1]) for v in paddle.split(gt_bbox, 4, axis=-1))  # [N, 1, B]
    truth = corners(cx, cy, gw, gh)
    area, true_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (boxes, truth))
    # IoU > t is inter > k (area + true area) with k = t / (1 + t): no division, which padding rows would make 0 / 0.
    k = ignore_thresh / (1 + ignore_thresh)
    # [N, P, B]: with one operand of full size Paddle's kernels need no index arithmetic, which is four times slower.
    cells = paddle.shape(boxes[0])[1]
    *full, spared = (paddle.expand(v, [-1, cells, -1]) for v in (*truth, k * true_area))
    left, top = paddle.maximum(full[0], boxes[0]), paddle.maximum(full[1], boxes[1])
    right, bottom = paddle.minimum(full[2], boxes[2]), paddle.minimum(full[3], boxes[3])
    # Where the height is negative so is the product, and that decides as 0 would.
    inter = F.relu(right - left) * (bottom - top)
    excess = paddle.max(inter - spared, axis=-1, keepdim=True) - k * area
    return paddle.reshape(paddle.cast(excess <= 0, "float32"), paddle.shape(x))


def _decode(
    x: Value, y: Value, w: Value, h: Value, sizes: Sequence[tuple[float, float]], stride: int, scale_x_y: float
) -> Corners:
    """Corners [N, A, g, g] of the predicted boxes, as shares of the image and not clipped."""
    shift = 0.5 * (scale_x_y - 1)
    return _place(F.sigmoid(x) * scale_x_y - shift, F.sigmoid(y) * scale_x_y - shift, w, h, sizes, stride)


def _place(dx: Value, dy: Value, w: Value, h: Value, sizes: Sequence[tuple[float, float]], stride: int) -> Corners:
    """Corners of boxes whose centres are dx, dy (cells) from the corner of their cell, exp(w), exp(h) anchors big."""
    # Counting ones gives the cells' numbers whatever the sizes of the dynamic axes are.
    ones = paddle.ones_like(dx[0:1, 0:1])  # [1, 1, g, g]
    columns, rows = paddle.cumsum(ones, axis=3), paddle.cumsum(ones, axis=2)
    wide, high = columns[:, :, :, -1:], rows[:, :, -1:, :]  # g, as variables
    anchor_w = paddle.to_tensor([size[0] / stride for size in sizes], dtype="float32").reshape([1, -1, 1, 1])
    anchor_h = paddle.to_tensor([size[1] / stride for size in sizes], dtype="float32").reshape([1, -1, 1, 1])
    return corners(
        (dx + columns - 1) / wide,
        (dy + rows - 1) / high,
        paddle.exp(w) * anchor_w / wide,
        paddle.exp(h) * anchor_h / high,
    )


def _box_loss(
    parts: HeadParts,
    truth: _Target,
    pixels: tuple[Sequence[tuple[float, float]], int],
    scale_x_y: float,
    loss: BoxLoss,
) -> Value:
    """The extra box loss of each image, [N]."""
    weight = truth.scale * truth.score
    occupied = paddle.cast(weight > 0, "float32")
    # Sizes of empty cells are replaced before exp: an overflow there would turn into NaN when multiplied by zero.
    w, h = parts.w * occupied, parts.h * occupied
    predicted = _decode(parts.x, parts.y, w, h, *pixels, scale_x_y)
    wanted = _place(truth.x, truth.y, truth.w, truth.h, *pixels)
    v = overlap(predicted, wanted, loss.kind)
    value = 1 - v * v if loss.square else 1 - v
    return paddle.sum(weight * value * loss.weight, axis=AXES)
