"""Activation boundaries."""

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._features import per_sample

__all__ = ["ab"]


def ab(student: Tensor, teacher: Tensor, *, margin: float = 1.0) -> Tensor:
    """Hinge that pushes each student unit to the side of zero on which the teacher's unit is, by a margin.

    Formula: rho = (s + m)^2 where s > -m and t <= 0, (s - m)^2 where s <= m and t > 0, else 0; L = mean_n sum rho
    Attaches: maps before the ReLU; usually with an adapter (conv1x1_bn).
    Shapes: [N, C, H, W] both.
    Args:
        margin: m, in units of the map.
    Reduction: sum over channels and positions, mean over the batch: grows with channels and image size.
    Gradient: to the student only; of the teacher only signs are used.
    Minimum: 0 where every student unit is beyond the margin on the teacher's side, so not at student = teacher.
    Source: Heo et al. 2019, https://arxiv.org/abs/1811.03233.
    Differences: RepDistiller and mmrazor multiply by a further 3 / 1000 and weigh layers by powers of 2; both belong
        into the weight. The paper trains with this loss alone before the task.
    """
    check_positive("ab", margin=margin)
    student, active = from_student(student), from_teacher(teacher) > 0
    below, above = F.relu(margin - student), F.relu(student + margin)
    return per_sample(paddle.where(active, below * below, above * above))
