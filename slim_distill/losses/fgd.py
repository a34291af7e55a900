"""Focal and global distillation."""

import paddle
import paddle.nn.functional as F
from paddle.nn import initializer

from slim_distill.common.errors import LossError
from slim_distill.losses._common import (
    Tensor,
    check_not_negative,
    check_positive,
    count,
    fixed,
    from_student,
    from_teacher,
)
from slim_distill.losses._features import channel_attention, per_sample, spatial_attention
from slim_distill.losses.layers import Layers

__all__ = ["fgd"]


def fgd(
    student: Tensor,
    teacher: Tensor,
    *,
    layers: Layers,
    boxes: Tensor,
    foreground: float = 1e-3,
    background: float = 5e-4,
    attention: float = 1e-3,
    relation: float = 5e-6,
    temperature: float = 0.5,
) -> Tensor:
    """Feature difference weighed by objects and by the teacher's attention, and difference of global context.

    Formula: A = H W softmax(mean_c |x| / T), B = C softmax(mean_hw |x| / T); M = 1 / (h w) of the smallest box on a
        cell, else 0; U = 1 / (number of free cells) on cells without box, else 0;
        L = mean_n (foreground sum A_t B_t M (s - t)^2 + background sum A_t B_t U (s - t)^2
            + attention (sum |A_s - A_t| + sum |B_s - B_t|) + relation sum (R_s(s) - R_t(t))^2)
    Attaches: feature maps of detectors (necks) of equal shape, or with an adapter.
    Shapes: maps [N, C, H, W] both; boxes [N, M, 4].
    Args:
        boxes: ground truth as centre x, y, width, height, each a share of the image; rows without area are padding.
        foreground: weight of the difference inside boxes.
        background: weight of the difference outside.
        attention: weight of the attention maps' difference.
        relation: weight of the context blocks' difference.
        temperature: T of both attentions.
    Reduction: sums over channels and positions as stated, mean over the batch. The parts have weights of their own.
    Gradient: to the student and to both context blocks R; not to the teacher.
    Minimum: at student = teacher only the relation part remains, as the two context blocks differ.
    Source: Yang et al. 2022, https://arxiv.org/abs/2111.11837 (weights of its RetinaNet).
    Differences: h and w count cells as the authors' code does: ceil - floor + 1. Their context blocks end in a
        convolution that starts at 0, so that the layers before it get no gradient in the first step; here it starts
        small. PaddleDetection starts both convolutions at 0 and trains neither.
    """
    check_positive("fgd", temperature=temperature)
    check_not_negative("fgd", foreground=foreground, background=background, attention=attention, relation=relation)
    s, t = from_student(student), from_teacher(teacher)
    inside, outside = _masks(t, from_teacher(boxes))
    place_s, place_t = spatial_attention(s, temperature), spatial_attention(t, temperature)
    kind_s, kind_t = channel_attention(s, temperature), channel_attention(t, temperature)
    difference = s - t
    weights = place_t * kind_t * (inside * foreground + outside * background)
    apart = _context("student", s, layers) - _context("teacher", t, layers)
    return (
        per_sample(difference * difference * weights)
        + attention * (per_sample(paddle.abs(place_s - place_t)) + per_sample(paddle.abs(kind_s - kind_t)))
        + relation * per_sample(apart * apart)
    )


def _masks(x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of cells inside boxes and of cells outside all boxes, [N, 1, H, W] each."""
    ranges, lengths = [], []
    for axis, centre, size in ((2, boxes[:, :, 1], boxes[:, :, 3]), (3, boxes[:, :, 0], boxes[:, :, 2])):
        cells = count(x, (axis,))
        first = paddle.clip(paddle.floor((centre - size / 2) * cells), min=0.0)
        last = paddle.ceil((centre + size / 2) * cells)
        number = fixed(x, axis)
        steps = paddle.cast(paddle.arange(paddle.shape(x)[axis] if number is None else number), x.dtype)
        low, high = paddle.unsqueeze(first, -1), paddle.unsqueeze(last, -1)
        ranges.append(paddle.cast(paddle.logical_and(steps >= low, steps <= high), x.dtype))  # [N, M, H or W]
        lengths.append(last - first + 1)
    real = paddle.cast(paddle.logical_and(boxes[:, :, 2] > 0, boxes[:, :, 3] > 0), x.dtype)
    weight = real / paddle.clip(lengths[0] * lengths[1], min=1.0)
    rows = ranges[0] * paddle.unsqueeze(weight, -1)
    cover = paddle.unsqueeze(rows, -1) * paddle.unsqueeze(ranges[1], 2)  # [N, M, H, W]
    inside = cover.max(axis=1, keepdim=True)
    free = paddle.cast(inside <= 0, x.dtype)
    outside = free / paddle.clip(free.sum(axis=[1, 2, 3], keepdim=True), min=1.0)
    return inside, outside


def _context(name: str, x: Tensor, layers: Layers) -> Tensor:
    """Add a global context block: attention-pooled features through two 1x1 convolutions."""
    channels = fixed(x, 1)
    if channels is None or channels < 4:
        raise LossError(f"fgd: the number of channels must be known and at least 4, got {list(x.shape)}")
    weights = F.softmax(paddle.flatten(layers.conv(f"{name}.attention", x, 1, bias=False), 2), axis=-1)  # [N, 1, H W]
    pooled = paddle.matmul(paddle.flatten(x, 2), weights, transpose_y=True)  # [N, C, 1]
    pooled = paddle.unsqueeze(pooled, -1)
    half, dtype = channels // 2, layers.dtype_of(x)
    hidden = layers.conv(f"{name}.squeeze", pooled, half)
    scale = layers.parameter(f"{name}.norm.scale", (half,), initializer.Constant(1.0), dtype=dtype)
    offset = layers.parameter(f"{name}.norm.offset", (half,), initializer.Constant(0.0), dtype=dtype)
    normal = F.layer_norm(paddle.flatten(hidden, 1), [half], scale, offset, 1e-5)
    hidden = paddle.unsqueeze(F.relu(normal), [2, 3])
    return x + layers.conv(f"{name}.expand", hidden, channels, small=True)
