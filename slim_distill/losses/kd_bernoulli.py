"""Distillation of independent (sigmoid) classes."""

import paddle
import paddle.nn.functional as F

from slim_distill.common.errors import LossError
from slim_distill.losses._common import TeacherTensor, Tensor, check_positive, from_student, from_teacher

__all__ = ["kd_bernoulli"]


def kd_bernoulli(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, scale_by: TeacherTensor | None = None
) -> Tensor:
    """Divergence of each class's own yes-or-no distribution: for heads whose classes do not exclude each other.

    Formula: a = sigmoid(z_t / T), b = sigmoid(z_s / T), w = sigmoid(scale_by) or 1;
        L = T^2 mean(w (a log(a / b) + (1 - a) log((1 - a) / (1 - b))))
    Attaches: class logits (or objectness) of detectors with sigmoid heads, and multi-label classifiers.
    Shapes: student and teacher any equal shape, raw logits; scale_by the same shape, or one axis (the last) less.
    Args:
        temperature: T.
        scale_by: raw objectness of the teacher: places without an object count less.
    Reduction: mean over all elements, places and classes (the weights w are not summed up and divided by).
    Gradient: to the student only.
    Source: binary relevance form of Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    Differences: YOLOv6 and PaddleDetection's `main_kd` take a softmax across sigmoid classes instead, which compares
        classes that do not compete and is identically 0 with one class.
    """
    check_positive("kd_bernoulli", temperature=temperature)
    z_s, z_t = from_student(student) / temperature, from_teacher(teacher) / temperature
    yes = F.log_sigmoid(z_t) - F.log_sigmoid(z_s)
    no = F.log_sigmoid(-z_t) - F.log_sigmoid(-z_s)
    loss = F.sigmoid(z_t) * yes + F.sigmoid(-z_t) * no
    if scale_by is not None:
        weight = F.sigmoid(from_teacher(scale_by))
        if len(weight.shape) not in (len(loss.shape), len(loss.shape) - 1):
            raise LossError(
                f"kd_bernoulli: scale_by must have the shape of the logits {list(loss.shape)}, or that without the "
                f"last axis, got {list(weight.shape)}"
            )
        loss = loss * (weight if len(weight.shape) == len(loss.shape) else paddle.unsqueeze(weight, -1))
    return loss.mean() * temperature**2
