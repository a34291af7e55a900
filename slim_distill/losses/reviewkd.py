"""Knowledge review: deeper student features learn from shallower teacher features."""

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, count, fixed, from_student, from_teacher
from slim_distill.losses.layers import Layers

__all__ = ["reviewkd"]


def reviewkd(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], *, layers: Layers, width: int = 256) -> Tensor:
    """Fuse the student's maps from the deepest up, and compare each fusion with the teacher at several sizes.

    Formula: x_k = attention-weighted sum of conv1x1(s_k) and the upsampled x_(k+1); f_k = conv3x3(x_k);
        L = sum_k (sum_i w_i mean((pool_i f_k - pool_i t_k)^2)) / sum_i w_i, pool_i the full size (w 1), 4x4, 2x2, 1x1
        (w 1/2, 1/4, 1/8)
    Attaches: several feature maps of each network, shallow first; sizes of a pair are equal, channels free.
    Shapes: student and teacher [N, C_k, H_k, W_k] each.
    Args:
        width: channels of the fused maps x.
    Reduction: mean over all elements of each level and size, sum over levels.
    Gradient: to the student and to the fusion layers (convolutions without bias, batch norms).
    Minimum: 0 when every fusion equals the teacher's map; not at student = teacher.
    Source: Chen et al. 2021, https://arxiv.org/abs/2104.09044 (weight 1, ramped up; 0.6 to 1 for detectors).
    Differences: pooling sizes are left out where they are not below the map's height, as in the authors' code.
    """
    if len(student) != len(teacher):
        raise LossError(f"reviewkd: needs as many student as teacher maps, got {len(student)} and {len(teacher)}")
    loss, deeper = None, None
    for level in reversed(range(len(student))):
        target = from_teacher(teacher[level])
        fused, deeper = _fuse(level, from_student(student[level]), deeper, int(target.shape[1]), width, layers)
        part = _hierarchical(fused, target)
        loss = part if loss is None else loss + part
    return loss


def _fuse(
    level: int, x: Tensor, deeper: Tensor | None, channels: int, width: int, layers: Layers
) -> tuple[Tensor, Tensor]:
    """Return the map to compare with the teacher's, and the map to hand up to the next shallower level."""
    name = f"fusion.{level}"
    x = layers.batch_norm(f"{name}.reduce.norm", layers.conv(f"{name}.reduce", x, width, bias=False))
    if deeper is not None:
        sizes = [fixed(x, axis) for axis in (2, 3)]
        size = [paddle.shape(x)[axis] if known is None else known for axis, known in zip((2, 3), sizes, strict=True)]
        deeper = F.interpolate(deeper, size=size, mode="nearest")
        both = paddle.concat([x, deeper], axis=1)
        weights = F.sigmoid(layers.conv(f"{name}.attention", both, 2))
        x = x * weights[:, 0:1] + deeper * weights[:, 1:2]
    fused = layers.batch_norm(f"{name}.expand.norm", layers.conv(f"{name}.expand", x, channels, 3, bias=False))
    return fused, x


def _hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    height = fixed(student, 2)
    difference = student - teacher
    loss, total, weight = (difference * difference).mean(), 1.0, 1.0
    for size in (4, 2, 1):
        # 1 where the pooled map is smaller than the map, else 0; a tensor where the height is not known.
        used = float(size < height) if height is not None else paddle.cast(count(student, (2,)) > size, student.dtype)
        # Pooling is linear: the pooled difference is the difference of the pooled maps.
        pooled = F.adaptive_avg_pool2d(difference, size)
        weight = weight * (1 - used / 2)
        loss = loss + (pooled * pooled).mean() * (weight * used)
        total = total + weight * used
    return loss / total
