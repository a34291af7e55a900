"""Box, class and objectness distillation of YOLOv3 heads, scaled by the teacher's objectness."""

from typing import TypeAlias

import paddle
import paddle.nn.functional as F

from slim_distill.losses._common import Tensor, bce_with_logits, from_student, from_teacher

__all__ = ["yolo_objectness"]

YoloParts: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def yolo_objectness(student: YoloParts, teacher: YoloParts) -> Tensor:
    """Distil one scale of a YOLOv3 head, position by position, where the teacher sees an object.

    Formula: o = sigmoid(t_obj); B(x, p) = binary cross entropy of logit x with target p;
        reg = mean(o (B(s_x, sigmoid(t_x)) + B(s_y, sigmoid(t_y)) + |s_w - t_w| + |s_h - t_h|));
        cls = mean(o B(s_cls, sigmoid(t_cls))); obj = mean(B(s_obj, [t_obj > 0])); L = reg + cls + obj
    Attaches: the raw outputs x, y, w, h, obj, cls of one scale, in this order; one term for each scale.
    Shapes: x, y, w, h, obj [N, A, H, W]; cls [N, A, H, W, C]; all raw (logits, log sizes).
    Reduction: mean over all elements of each part, cls over classes too. Most o are near 0: weight 1000 as published.
    Gradient: to the student only.
    Minimum: not 0 at student = teacher: the binary entropies of the teacher's own x, y and classes remain.
    Source: Mehta and Ozturk 2018, https://arxiv.org/abs/1805.06361; PaddleDetection 0.4 `split_distill`.
    Differences: the paper uses squared errors for boxes and the teacher's probability as target of the objectness;
        PaddleDetection, followed here, uses the forms above with the hard target.
    """
    s_x, s_y, s_w, s_h, s_obj, s_cls = (from_student(part) for part in student)
    t_x, t_y, t_w, t_h, t_obj, t_cls = (from_teacher(part) for part in teacher)
    scale = F.sigmoid(t_obj)
    centre = bce_with_logits(s_x, F.sigmoid(t_x)) + bce_with_logits(s_y, F.sigmoid(t_y))
    size = paddle.abs(s_w - t_w) + paddle.abs(s_h - t_h)
    reg = (scale * (centre + size)).mean()
    cls = (scale * bce_with_logits(s_cls, F.sigmoid(t_cls)).mean(axis=-1)).mean()
    obj = bce_with_logits(s_obj, paddle.cast(t_obj > 0, t_obj.dtype)).mean()
    return reg + cls + obj
