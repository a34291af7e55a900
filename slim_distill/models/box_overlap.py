"""How well two boxes agree: intersection over union and its generalised forms."""

import math
from typing import NamedTuple

import paddle

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import pick
from slim_distill.models._names import Value

__all__ = ["Corners", "corners", "overlap"]

EPSILON = 1e-10


class Corners(NamedTuple):
    """Left, top, right and bottom of boxes, all of one shape."""

    x1: Value
    y1: Value
    x2: Value
    y2: Value


def corners(cx: Value, cy: Value, w: Value, h: Value) -> Corners:
    """Corners of boxes given by centre and size."""
    return Corners(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)


def overlap(a: Corners, b: Corners, kind: str) -> Value:
    """Agreement of the boxes `a` and `b` element by element, 1 where they coincide.

    iou: I / U, the intersection over the union, in 0..1.
    giou: iou - (E - U) / E with E the enclosing box, in -1..1. https://arxiv.org/abs/1902.09630
    diou: iou - d^2 / c^2, distance of the centres over the diagonal of E, in -1..1. https://arxiv.org/abs/1911.08287
    ciou: diou - s v, v = 4 / pi^2 (atan(w_b / h_b) - atan(w_a / h_a))^2, s = v / (1 - iou + v) taken as a constant.

    Source: `IouLoss` and `DiouLossYolo` of PaddleDetection 0.4, which have iou, diou and ciou.

    Raises:
        ConfigError: there is no such kind.
    """
    kinds = {"iou": _no_penalty, "giou": _empty_share, "diou": _distance, "ciou": _distance_and_shape}
    penalty = pick(kinds, kind, "model.loss.iou_loss.type: overlap", ConfigError)
    width = paddle.clip(paddle.minimum(a.x2, b.x2) - paddle.maximum(a.x1, b.x1), min=0)
    height = paddle.clip(paddle.minimum(a.y2, b.y2) - paddle.maximum(a.y1, b.y1), min=0)
    inter = width * height
    union = _area(a) + _area(b) - inter + EPSILON
    return inter / union - penalty(a, b, inter / union, union)


def _area(box: Corners) -> Value:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


def _enclosing(a: Corners, b: Corners) -> tuple[Value, Value]:
    width = paddle.maximum(a.x2, b.x2) - paddle.minimum(a.x1, b.x1)
    return width, paddle.maximum(a.y2, b.y2) - paddle.minimum(a.y1, b.y1)


def _no_penalty(a: Corners, b: Corners, iou: Value, union: Value) -> float:
    return 0.0


def _empty_share(a: Corners, b: Corners, iou: Value, union: Value) -> Value:
    width, height = _enclosing(a, b)
    return (width * height + EPSILON - union) / (width * height + EPSILON)


def _distance(a: Corners, b: Corners, iou: Value, union: Value) -> Value:
    width, height = _enclosing(a, b)
    dx, dy = (a.x1 + a.x2 - b.x1 - b.x2) / 2, (a.y1 + a.y2 - b.y1 - b.y2) / 2
    return (dx * dx + dy * dy + EPSILON) / (width * width + height * height + EPSILON)


def _distance_and_shape(a: Corners, b: Corners, iou: Value, union: Value) -> Value:
    angles = [paddle.atan((box.x2 - box.x1) / (box.y2 - box.y1)) for box in (b, a)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    share = (v / (1 - iou + v + EPSILON)).detach()
    return _distance(a, b, iou, union) + share * v
