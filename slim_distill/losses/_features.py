"""What the losses on feature maps and embeddings share. Maps are [N, C, H, W]."""

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, count, fixed

__all__ = [
    "channel_attention",
    "huber",
    "match_sizes",
    "per_sample",
    "random_keep",
    "safe_sqrt",
    "spatial_attention",
    "unit",
]

_EPSILON = 1e-12  # added to the square of a norm: far below what float32 resolves beside a norm of 1


def per_sample(x: Tensor) -> Tensor:
    """Return the sum over everything but the first axis, averaged over it: "sum, divided by the batch"."""
    return paddle.flatten(x, 1).sum(axis=1).mean()


def unit(x: Tensor, axis: int) -> Tensor:
    """Return `x` divided by its Euclidean norm along `axis`: x / sqrt(sum x^2 + 1e-12). Zero stays zero."""
    return x * paddle.rsqrt((x * x).sum(axis=axis, keepdim=True) + _EPSILON)


def safe_sqrt(x: Tensor) -> Tensor:
    """Return the square root of `x` >= 0, with derivative 0 instead of infinity at 0."""
    positive = x > 0
    root = paddle.sqrt(paddle.where(positive, x, paddle.ones_like(x)))
    return paddle.where(positive, root, paddle.zeros_like(x))


def huber(difference: Tensor, beta: float) -> Tensor:
    """Return d^2 / (2 beta) where |d| < beta, else |d| - beta / 2."""
    size = paddle.abs(difference)
    inner = paddle.clip(size, max=beta)
    return inner * (size - inner / 2) / beta


def match_sizes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps to the smaller's size, axis by axis; sizes not known are taken as equal."""
    sizes = [[fixed(x, axis) for axis in (2, 3)] for x in (first, second)]
    if None in sizes[0] + sizes[1] or sizes[0] == sizes[1]:
        return first, second
    smaller = [min(a, b) for a, b in zip(*sizes, strict=True)]  # type: ignore[type-var]
    pooled = [
        x if size == smaller else F.adaptive_avg_pool2d(x, smaller)
        for x, size in zip((first, second), sizes, strict=True)
    ]
    return pooled[0], pooled[1]


def spatial_attention(x: Tensor, temperature: float) -> Tensor:
    """Return H W softmax over positions of (mean_c |x|) / temperature, [N, 1, H, W]: 1 on average."""
    strength = paddle.abs(x).mean(axis=1, keepdim=True)
    logits = strength / temperature
    return paddle.exp(logits - paddle.logsumexp(logits, axis=[2, 3], keepdim=True)) * count(x, (2, 3))


def channel_attention(x: Tensor, temperature: float) -> Tensor:
    """Return C softmax over channels of (mean_hw |x|) / temperature, [N, C, 1, 1]: 1 on average."""
    strength = paddle.abs(x).mean(axis=[2, 3], keepdim=True)
    return F.softmax(strength / temperature, axis=1) * count(x, (1,))


def random_keep(like: Tensor, drop: float, kept_axes: Sequence[int]) -> Tensor:
    """Return a mask of 0 (with probability `drop`) and 1, drawn anew at every run, sized 1 but along `kept_axes`.

    Drawn in float32 whatever the precision, so that a seed gives one mask.
    """
    single = [axis for axis in range(len(like.shape)) if axis not in kept_axes]
    pattern = paddle.slice(like, single, [0] * len(single), [1] * len(single))
    draw = paddle.rand(paddle.shape(pattern), dtype="float32")
    return paddle.cast(draw >= drop, like.dtype)
