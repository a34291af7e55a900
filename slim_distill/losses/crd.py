"""Contrastive representation distillation."""

import math

import paddle
from paddle.nn import initializer

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_positive, count, from_student, from_teacher
from slim_distill.losses._features import unit
from slim_distill.losses.layers import Layers

__all__ = ["crd"]

_EPSILON = 1e-7  # added to the denominators, as published


def crd(
    student: Tensor,
    teacher: Tensor,
    *,
    layers: Layers,
    index: Tensor,
    samples: int,
    negatives: int = 16384,
    temperature: float = 0.07,
    momentum: float = 0.5,
    width: int = 128,
) -> Tensor:
    """Tell the teacher's embedding of a sample from those of other samples by the student's embedding, and the reverse.

    Formula: e = unit(W x); p(m) = exp(e . m / T) / Z for remembered embeddings m of the other network, c = K / samples;
        L = sum over both sides of -mean_n (log(p(m_n) / (p(m_n) + c)) + sum_k log(c / (p(m_k) + c))),
        k over K random samples
    Attaches: embeddings, or maps, which are flattened; the two widths may differ.
    Shapes: student and teacher [N, ...]; index [N] or [N, 1].
    Args:
        index: number of each sample in the data set, 0 to samples - 1, the same in every epoch.
        samples: size of the data set.
        negatives: K, drawn with replacement at every step.
        temperature: T.
        momentum: share of the remembered embedding that stays when its sample comes by.
        width: of the embeddings.
    Reduction: sum over the K + 1 comparisons, mean over the batch, both sides added.
    Gradient: to the student and to both embedding layers; not to the teacher, not to the memories.
    Minimum: not at student = teacher; there is none in closed form.
    Source: Tian et al. 2020, https://arxiv.org/abs/1910.10699 (weight 0.8).
    Differences: negatives are drawn uniformly without an alias table. As published the constants Z are estimated from
        the first batch and kept; memories and Z are parameters that no gradient reaches.
    """
    check_positive("crd", temperature=temperature, samples=samples, negatives=negatives, width=width)
    if not 0 <= momentum < 1:
        raise LossError(f"crd: momentum must be at least 0 and below 1, got {momentum}")
    first, second = (paddle.flatten(x, 1) for x in (from_student(student), from_teacher(teacher)))
    e_s = unit(layers.linear("embed_student", first, width), 1)
    e_t = unit(layers.linear("embed_teacher", second, width), 1)
    place = paddle.cast(paddle.flatten(index), "int64")
    others = paddle.randint(
        0, samples, paddle.shape(paddle.expand(paddle.unsqueeze(place, 1), [-1, negatives])), "int64"
    )
    drawn = paddle.concat([paddle.unsqueeze(place, 1), others], axis=1)  # [N, 1 + K]
    dtype = layers.dtype_of(first)
    limit = 1.0 / math.sqrt(width / 3)
    bound = initializer.Uniform(-limit, limit)
    total = []
    for name, anchor, other in (("student", e_s, e_t), ("teacher", e_t, e_s)):
        # Memory of this side, looked up by the other side's embeddings.
        memory = layers.parameter(f"memory_{name}", (samples, width), bound, dtype=dtype, trainable=False)
        constant = layers.parameter(f"constant_{name}", (1,), initializer.Constant(-1.0), dtype=dtype, trainable=False)
        rows = paddle.reshape(paddle.gather(memory, paddle.flatten(drawn)), [-1, 1 + negatives, width])
        similar = paddle.exp((rows * paddle.unsqueeze(other, 1)).sum(axis=-1) / temperature)  # [N, 1 + K]
        total.append(_noise_contrast(similar, constant, negatives, samples))
        kept = paddle.gather(memory, place) * momentum + from_teacher(anchor) * (1 - momentum)
        paddle.assign(paddle.scatter(memory, place, unit(kept, 1)), memory)
    return total[0] + total[1]


def _noise_contrast(similar: Tensor, constant: Tensor, negatives: int, samples: int) -> Tensor:
    estimate = from_teacher(similar).mean() * float(samples)
    normaliser = paddle.where(constant < 0, estimate, constant)
    paddle.assign(normaliser, constant)
    probability = similar / from_teacher(normaliser)
    noise = negatives / samples
    below = paddle.log(probability + (noise + _EPSILON))
    gain = paddle.log(probability[:, 0]) - below[:, 0]
    rest = (math.log(noise) - below[:, 1:]).sum(axis=1)
    return -(gain + rest).sum() / count(similar, (0,))
