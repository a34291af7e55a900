"""Losses of the first release: l2, soft_label, fsp, yolo_objectness."""

import numpy as np

from slim_distill.losses import LOSSES
from tests.losses.harness import Case


def normal(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng([seed, *shape]).normal(size=shape)


def log_softmax(x, axis=-1):
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def softmax(x, axis=-1):
    return np.exp(log_softmax(x, axis))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(x, t):
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def l2(student, teacher):
    return np.mean((student - teacher) ** 2)


def soft_label(student, teacher, student_temperature=1.0, teacher_temperature=1.0):
    target = softmax(teacher / teacher_temperature)
    return -(target * log_softmax(student / student_temperature)).sum(-1).mean()


def soft_label_minimum(teacher, student_temperature=1.0, teacher_temperature=1.0):
    assert student_temperature == teacher_temperature
    log_p = log_softmax(teacher / teacher_temperature)
    return -(np.exp(log_p) * log_p).sum(-1).mean()


def pooled(x, height, width):
    n, c, h, w = x.shape
    return x.reshape(n, c, height, h // height, width, w // width).mean(axis=(3, 5))


def fsp(student, teacher):
    def flow(first, second):
        height, width = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
        first, second = pooled(first, height, width), pooled(second, height, width)
        return np.einsum("nahw,nbhw->nab", first, second) / (height * width)

    return np.mean((flow(*student) - flow(*teacher)) ** 2)


def yolo_objectness(student, teacher):
    s_x, s_y, s_w, s_h, s_o, s_c = student
    t_x, t_y, t_w, t_h, t_o, t_c = teacher
    o = sigmoid(t_o)
    reg = np.mean(o * (bce(s_x, sigmoid(t_x)) + bce(s_y, sigmoid(t_y)) + np.abs(s_w - t_w) + np.abs(s_h - t_h)))
    cls = np.mean(o[..., None] * bce(s_c, sigmoid(t_c)))
    return reg + cls + np.mean(bce(s_o, (t_o > 0).astype(float)))


def heads(seed):
    return (*(normal(2, 3, 4, 4, seed=seed + i) for i in range(5)), normal(2, 3, 4, 4, 6, seed=seed + 5))


CASES = [
    Case("l2_maps", LOSSES["l2"], l2, normal(2, 5, 4, 3), normal(2, 5, 4, 3, seed=1)),
    Case("l2_logits", LOSSES["l2"], l2, normal(4, 6), normal(4, 6, seed=1)),
    Case(
        "soft_label",
        LOSSES["soft_label"],
        soft_label,
        normal(4, 6),
        normal(4, 6, seed=1),
        minimum=soft_label_minimum,
    ),
    Case(
        "soft_label_temperatures",
        LOSSES["soft_label"],
        soft_label,
        normal(3, 2, 6, scale=2.0),
        normal(3, 2, 6, seed=1, scale=2.0),
        {"student_temperature": 2.0, "teacher_temperature": 4.0},
        minimum=None,
    ),
    Case(
        "fsp",
        LOSSES["fsp"],
        fsp,
        (normal(2, 3, 4, 4), normal(2, 5, 4, 4)),
        (normal(2, 3, 4, 4, seed=1), normal(2, 5, 4, 4, seed=1)),
    ),
    Case(
        "fsp_sizes",
        LOSSES["fsp"],
        fsp,
        (normal(2, 3, 4, 8), normal(2, 5, 2, 4)),
        (normal(2, 3, 6, 6, seed=1), normal(2, 5, 3, 6, seed=1)),
        minimum=None,
        sizes_known=True,
    ),
    Case(
        "yolo_objectness",
        LOSSES["yolo_objectness"],
        yolo_objectness,
        heads(0),
        heads(10),
        minimum=None,
    ),
]
