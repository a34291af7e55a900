"""Flow of solution procedure: how one layer's channels relate to another's."""

import paddle

from slim_distill.losses._common import Tensor, count, from_student, from_teacher
from slim_distill.losses._features import match_sizes

__all__ = ["fsp"]


def fsp(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared difference of the flow matrices between two layers.

    Formula: G = F1 F2^T / (H W); L = mean((G_s - G_t)^2)
    Attaches: two feature maps of each network: the first and the last of a stage.
    Shapes: student ([N, A, H, W], [N, B, H, W]), teacher ([N, A, h, w], [N, B, h, w]): equal channels, any size.
    Reduction: mean over N, A and B.
    Gradient: to the student only.
    Source: Yim et al. 2017 (CVPR), "A Gift from Knowledge Distillation"; PaddleSlim `dist.fsp`.
    Differences: PaddleSlim's calls an operator that Paddle 2 removed. Where the two maps of one network differ in size
        the larger is average-pooled, as in RepDistiller; torchdistill max-pools. The paper weighs each pair of layers.
    """
    flow_s = _flow(*(from_student(x) for x in student))
    flow_t = _flow(*(from_teacher(x) for x in teacher))
    difference = flow_s - flow_t
    return (difference * difference).mean()


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """Return G[n, a, b] = mean over positions of first[n, a] * second[n, b]."""
    first, second = match_sizes(first, second)
    product = paddle.matmul(paddle.flatten(first, 2), paddle.flatten(second, 2), transpose_y=True)
    return product / count(first, (2, 3))
