"""Factor transfer."""

from typing import Literal

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_choice, check_not_negative, fixed, from_student, from_teacher
from slim_distill.losses._features import match_sizes, unit
from slim_distill.losses.layers import Layers

__all__ = ["ft"]

_SLOPE = 0.1  # of the leaky ReLUs of paraphraser and translator


def ft(
    student: Tensor,
    teacher: Tensor,
    *,
    layers: Layers,
    rate: float = 0.5,
    reconstruction: float = 1.0,
    convention: Literal["paper", "reference"] = "paper",
) -> Tensor:
    """Difference of normalised factors: a code of the teacher's map, and what the student makes of its own map.

    Formula: f = vec(.) / norm;
        "paper": L = mean(|f(translator(s)) - f(encoder(t))|) + r mean((decoder(encoder(t)) - t)^2);
        "reference": L = mean(|f(mean_c s^2) - f(mean_c t^2)|), without layers
    Attaches: feature maps; channels may differ, of two sizes the larger map is average-pooled.
    Shapes: [N, C, H, W] each.
    Args:
        rate: channels of the factors, as a share of the teacher's.
        reconstruction: weight r of the paraphraser's own training.
        convention: "paper" with paraphraser and translator; "reference" is RepDistiller's variant without.
    Reduction: mean over all elements of the factors.
    Gradient: to the student and the translator; to the paraphraser (encoder, decoder) from its reconstruction only.
    Minimum: 0 for student = teacher by "reference" only.
    Source: Kim et al. 2018, https://arxiv.org/abs/1802.04977 (weight 200 to 500).
    Differences: the paper trains the paraphraser beforehand; here it learns beside the student, and the factors it
        gives are taken as constants. Its transposed convolutions of stride 1 are plain convolutions here.
    """
    check_choice("ft", "convention", convention, ("paper", "reference"))
    check_not_negative("ft", reconstruction=reconstruction)
    first, second = match_sizes(from_student(student), from_teacher(teacher))
    if convention == "reference":
        return paddle.abs(_factor((first * first).mean(axis=1)) - _factor((second * second).mean(axis=1))).mean()
    channels = fixed(second, 1) or 0
    narrow = round(channels * rate)
    if not 1 <= narrow <= channels:
        raise LossError(f"ft: rate must leave 1 to {channels} channels of the teacher's {channels}, got rate {rate}")
    code = _stack("encoder", second, (channels, narrow, narrow), layers)
    back = _stack("decoder", code, (narrow, channels, channels), layers) - second
    translated = _stack("translator", first, (narrow, narrow, narrow), layers)
    transfer = paddle.abs(_factor(translated) - _factor(from_teacher(code))).mean()
    return transfer + reconstruction * (back * back).mean()


def _factor(x: Tensor) -> Tensor:
    return unit(paddle.flatten(x, 1), 1)


def _stack(name: str, x: Tensor, widths: tuple[int, ...], layers: Layers) -> Tensor:
    for number, width in enumerate(widths):
        x = F.leaky_relu(layers.conv(f"{name}.{number}", x, width, 3), _SLOPE)
    return x
