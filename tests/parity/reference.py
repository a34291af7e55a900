"""The published formulas of the fine-grained losses in float64, with their gradients, from raw head maps.

Written from the formulas alone, independently of the package: B(x, t) = max(x, 0) - x t + log(1 + exp(-|x|)).
"""

import numpy as np

__all__ = ["ANCHORS", "bce", "detection_loss", "objectness_loss", "sigmoid", "split"]

ANCHORS = np.array(
    [(10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326)], np.float64
)
MASKS = ((6, 7, 8), (3, 4, 5), (0, 1, 2))
IGNORE_THRESHOLD = 0.7


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(x, t):
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def split(head):
    """[N, 3 * (5 + C), g, g] -> x, y, w, h, objectness [N, 3, g, g] and classes [N, 3, g, g, C]."""
    n, channels, g, _ = head.shape
    raw = head.astype(np.float64).reshape(n, 3, channels // 3, g, g)
    return *(raw[:, :, k] for k in range(5)), raw[:, :, 5:].transpose(0, 1, 3, 4, 2)


def join(parts):
    """The reverse of `split`."""
    *fields, classes = parts
    raw = np.concatenate([np.stack(fields, axis=2), classes.transpose(0, 1, 4, 2, 3)], axis=2)
    return raw.reshape(len(raw), -1, *raw.shape[3:])


def overlaps(parts, scale, truth):
    """Largest IoU [N, 3, g, g] of each predicted box with any ground truth [N, B, 4] (centre x, y, w, h)."""
    x, y, w, h = parts[:4]
    g = x.shape[-1]
    anchors = ANCHORS[list(MASKS[scale])] / (g * (32 >> scale))
    centre_x, centre_y = (sigmoid(x) + np.arange(g)) / g, (sigmoid(y) + np.arange(g)[:, None]) / g
    width, height = np.exp(w) * anchors[:, 0][:, None, None], np.exp(h) * anchors[:, 1][:, None, None]
    best = np.zeros_like(x)
    for n, boxes in enumerate(truth.astype(np.float64)):
        for cx, cy, bw, bh in boxes[(boxes[:, 2] > 0) & (boxes[:, 3] > 0)]:
            sides = []
            for c, size, other, length in ((centre_x[n], width[n], cx, bw), (centre_y[n], height[n], cy, bh)):
                low, high = np.maximum(c - size / 2, other - length / 2), np.minimum(c + size / 2, other + length / 2)
                sides.append(np.maximum(high - low, 0))
            inter = sides[0] * sides[1]
            best[n] = np.maximum(best[n], inter / (width[n] * height[n] + bw * bh - inter))
    return best


def detection_loss(head, target, truth, scale):
    """-> ({part: loss of one scale}, gradient with respect to the head map, number of ignored cells)."""
    parts = x, y, w, h, o, c = split(head)
    n = len(head)
    t = target.astype(np.float64)
    tx, ty, tw, th, size, score = (t[:, :, k] for k in range(6))
    classes = t[:, :, 6:].transpose(0, 1, 3, 4, 2)
    positive = score > 0
    ignored = ~positive & (overlaps(parts, scale, truth) > IGNORE_THRESHOLD)
    background = ~positive & ~ignored
    weight = size * score
    losses = {
        "xy": np.sum(weight * (bce(x, tx) + bce(y, ty))) / n,
        "wh": np.sum(weight * (np.abs(w - tw) + np.abs(h - th))) / n,
        "obj": np.sum(score * bce(o, 1.0) * positive + bce(o, 0.0) * background) / n,
        "cls": np.sum(score[..., None] * bce(c, classes)) / n,
    }
    gradient = join([
        weight * (sigmoid(x) - tx),
        weight * (sigmoid(y) - ty),
        weight * np.sign(w - tw),
        weight * np.sign(h - th),
        score * positive * (sigmoid(o) - 1) + background * sigmoid(o),
        score[..., None] * (sigmoid(c) - classes),
    ])  # fmt: skip
    return losses, gradient / n, int(ignored.sum())


def objectness_loss(student, teacher):
    """The distillation loss of one scale, not weighted, and its gradient with respect to the student's head map."""
    x, y, w, h, o, c = split(student)
    tx, ty, tw, th, to, tc = split(teacher)
    scale, hard = sigmoid(to), (to > 0).astype(np.float64)
    reg = np.mean(scale * (bce(x, sigmoid(tx)) + bce(y, sigmoid(ty)) + np.abs(w - tw) + np.abs(h - th)))
    cls = np.mean(scale[..., None] * bce(c, sigmoid(tc)))
    gradient = join([
        scale * (sigmoid(x) - sigmoid(tx)) / x.size,
        scale * (sigmoid(y) - sigmoid(ty)) / x.size,
        scale * np.sign(w - tw) / x.size,
        scale * np.sign(h - th) / x.size,
        (sigmoid(o) - hard) / x.size,
        scale[..., None] * (sigmoid(c) - sigmoid(tc)) / c.size,
    ])  # fmt: skip
    return reg + cls + np.mean(bce(o, hard)), gradient
