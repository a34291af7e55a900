"""Feature-based distillation with attention and non-local relations."""

import paddle

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
from slim_distill.losses._features import safe_sqrt, spatial_attention
from slim_distill.losses.layers import Layers

__all__ = ["fbkd"]


def fbkd(
    student: Tensor,
    teacher: Tensor,
    *,
    layers: Layers,
    feature: float = 7e-5,
    channel: float = 4e-3,
    position: float = 4e-3,
    relation: float = 7e-5,
    temperature: float = 0.5,
) -> Tensor:
    """Attention-weighted feature difference, pooled differences, and difference of relations between positions.

    Formula: A = H W softmax(mean_c |x| / T), norm(x) = sqrt(sum x^2) over the whole batch;
        L = feature norm((t - a(s)) sqrt((A_s + A_t) / 2)) + channel norm(mean_hw t - b(mean_hw s))
            + position norm(mean_c t - c(mean_c s)) + relation norm(N_t(t) - d(N_s(s)))
    Attaches: feature maps of detectors (necks) of equal shape, or with an adapter. N costs (H W)^2 memory.
    Shapes: [N, C, H, W] both.
    Args:
        feature: weight of the feature difference.
        channel: weight of the difference of channel means.
        position: weight of the difference of position means.
        relation: weight of the difference after non-local blocks.
        temperature: T.
    Reduction: norms of the whole batch, not squared: grow with the square root of batch, channels and positions.
    Gradient: to the student, its adaptations a, b, c, d and both non-local blocks; the attention is a constant.
    Minimum: 0 only when the adaptations are the identity and the blocks agree; not at student = teacher.
    Source: Zhang and Ma 2021 (ICLR), https://openreview.net/forum?id=uKhGRvM8QNH.
    Differences: as the authors' code: norms are not squared and the channel attention is not used. Their non-local
        blocks end in a convolution that starts at 0, so that the layers before it get no gradient in the first
        step; here it starts small. mmrazor adds a batch norm there.
    """
    check_positive("fbkd", temperature=temperature)
    check_not_negative("fbkd", feature=feature, channel=channel, position=position, relation=relation)
    s, t = from_student(student), from_teacher(teacher)
    channels = fixed(s, 1)
    if channels is None or channels < 2:
        raise LossError(f"fbkd: the number of channels must be known and at least 2, got {list(s.shape)}")
    weights = (spatial_attention(from_teacher(s), temperature) + spatial_attention(t, temperature)) / 2
    apart = t - layers.conv("feature", s, channels)
    pooled = layers.linear("channel", s.mean(axis=[2, 3]), channels)
    place = layers.conv("position", s.mean(axis=1, keepdim=True), 1, 3)
    related = layers.conv("relation", _non_local("student", s, layers), channels)
    return (
        feature * safe_sqrt((apart * apart * weights).sum())
        + channel * _norm(t.mean(axis=[2, 3]) - pooled)
        + position * _norm(t.mean(axis=1, keepdim=True) - place)
        + relation * _norm(_non_local("teacher", t, layers) - related)
    )


def _norm(x: Tensor) -> Tensor:
    return safe_sqrt((x * x).sum())


def _non_local(name: str, x: Tensor, layers: Layers) -> Tensor:
    """Add to each position the others' features, weighed by products of embeddings over H W."""
    channels = int(x.shape[1])
    theta, phi, value = (
        paddle.flatten(layers.conv(f"{name}.{part}", x, channels // 2), 2) for part in ("theta", "phi", "value")
    )  # [N, C / 2, H W]
    weights = paddle.matmul(theta, phi, transpose_x=True) / count(x, (2, 3))  # [N, H W, H W]
    gathered = paddle.matmul(value, weights, transpose_y=True)  # [N, C / 2, H W]
    shape = paddle.shape(x)
    gathered = paddle.reshape(gathered, [-1, channels // 2, *_lengths(x, shape)])
    return x + layers.conv(f"{name}.expand", gathered, channels, small=True)


def _lengths(x: Tensor, shape: Tensor) -> list[int | Tensor]:
    known = [fixed(x, axis) for axis in (2, 3)]
    return [shape[axis] if number is None else number for axis, number in zip((2, 3), known, strict=True)]
