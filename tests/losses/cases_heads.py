"""Losses on the outputs of detectors and text recognisers."""

import math

import numpy as np

from slim_distill.losses import LOSSES
from tests.losses.cases_basic import bce, log_softmax, normal, sigmoid, softmax
from tests.losses.harness import Case


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def weighted(loss, weight):
    if weight is None:
        return loss.mean()
    loss = loss.mean(-1) if weight.ndim < loss.ndim else loss
    return (loss * weight).sum() / weight.sum() if weight.sum() else 0.0


def ld(student, teacher, temperature=10.0, weight=None, convention="paper"):
    loss = temperature**2 * kl(log_softmax(teacher / temperature), log_softmax(student / temperature))
    return weighted(loss, weight) / (1 if convention == "paper" else student.shape[-1])


def dfl(student, teacher, weight=None, target="distribution"):
    q = softmax(teacher)
    if target == "distance":
        exact = (q * np.arange(q.shape[-1])).sum(-1)
        left = np.floor(exact).astype(int)
        q = np.zeros_like(q)
        np.put_along_axis(q, left[..., None], (left + 1 - exact)[..., None], -1)
        np.put_along_axis(q, left[..., None] + 1, (exact - left)[..., None], -1)
    return weighted(-(q * log_softmax(student)).sum(-1), weight)


def qfl(student, teacher, beta=2.0):
    y = sigmoid(teacher)
    return (np.abs(y - sigmoid(student)) ** beta * bce(student, y)).sum() / max(y.max(-1).sum(), 1)


def giou(student, teacher, weight=None):
    losses = []
    for a, b in zip(student.reshape(-1, 4), teacher.reshape(-1, 4), strict=True):
        width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        losses.append(1 - (width * height / union - (hull - union) / hull))
    return weighted(np.reshape(losses, student.shape[:-1]), weight)


def iou(a, b):
    """Overlap of boxes given as centre and size."""
    size = [
        max(min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2), 0)
        for i in (0, 1)
    ]
    shared = size[0] * size[1]
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def decode(x, anchors):
    """Raw map [A, 5 + C, H, W] to rows (score per class, centre x, y, width, height as shares), objectness kept raw."""
    count, _, height, width = x.shape
    stride_w, stride_h = 1 / width, 1 / height
    for a in range(count):
        for i in range(height):
            for j in range(width):
                v = x[a, :, i, j]
                box = [
                    (j + sigmoid(v[0])) * stride_w,
                    (i + sigmoid(v[1])) * stride_h,
                    np.exp(v[2]) * anchors[a][0],
                    np.exp(v[3]) * anchors[a][1],
                ]
                yield (a, i, j), box, sigmoid(v[4]) * sigmoid(v[5:])


def teacher_boxes(maps, shares, threshold, overlap, most):
    rows = [(s.max(), s.argmax(), box) for x, own in zip(maps, shares, strict=True) for _, box, s in decode(x, own)]
    rows = sorted(rows, key=lambda row: -row[0])[:most]
    kept = []
    for k, (score, label, box) in enumerate(rows):
        beaten = any(label == other[1] and iou(box, other[2]) > overlap for other in rows[:k])
        if score > threshold and not beaten:
            kept.append((score, label, box))
    return kept


def yolo_scale(x, boxes, mask, every_share, ignore):
    """YOLOv3's loss of one image and one scale, as the operator defines it, without label smoothing."""
    own = [every_share[k] for k in mask]
    _, channels, height, width = x.shape
    total, positive = 0.0, {}
    for score, label, box in boxes:
        ious = [iou([0, 0, *share], [0, 0, *box[2:]]) for share in every_share]
        best = int(np.argmax(ious))
        if best not in mask:
            continue
        a, i, j = mask.index(best), int(box[1] * height), int(box[0] * width)
        v = x[a, :, i, j]
        size = [math.log(box[2] / every_share[best][0]), math.log(box[3] / every_share[best][1])]
        place = bce(v[0], box[0] * width - j) + bce(v[1], box[1] * height - i)
        place += abs(v[2] - size[0]) + abs(v[3] - size[1])
        total += score * (2 - box[2] * box[3]) * place
        total += score * sum(bce(v[5 + c], float(c == label)) for c in range(channels - 5))
        positive[a, i, j] = score
    for cell, box, _ in decode(x, own):
        raw = x[cell[0], 4, cell[1], cell[2]]
        if cell in positive:
            total += positive[cell] * bce(raw, 1.0)
        elif max((iou(box, other[2]) for other in boxes), default=0.0) <= ignore:
            total += bce(raw, 0.0)
    return total


def pseudo_label(student, teacher, anchors, masks, threshold=0.3, overlap=0.45, most=50, ignore=0.7):
    pairs = [anchors[2 * k : 2 * k + 2] for k in range(len(anchors) // 2)]
    total = 0.0
    for n in range(len(student[0])):
        height, width = (32 * s for s in student[0].shape[2:])
        shares = [(w / width, h / height) for w, h in pairs]
        split_s, split_t = (
            [x[n].reshape(len(m), -1, *x.shape[2:]) for x, m in zip(side, masks, strict=True)]
            for side in (student, teacher)
        )
        boxes = teacher_boxes(split_t, [[shares[k] for k in m] for m in masks], threshold, overlap, most)
        total += sum(yolo_scale(x, boxes, list(m), shares, ignore) for x, m in zip(split_s, masks, strict=True))
    return total / len(student[0])


def ctc_dml(student, teacher, blank=0, skip_blank=1.0):
    p, q = log_softmax(student), log_softmax(teacher)
    loss = (kl(p, q) + kl(q, p)) / 2
    return loss[np.exp(q[..., blank]) <= skip_blank].mean() if skip_blank < 1 else loss.mean()


def negated(z, blank):
    z = z.copy()
    z[..., blank] *= -1
    return z


def ctc_mean_kl(student, teacher, temperature=0.5, negate_blank=False, blank=0):
    if negate_blank:
        student, teacher = negated(student, blank), negated(teacher, blank)
    q_s, q_t = (softmax(z / temperature).mean(1) for z in (student, teacher))
    return (q_t * np.log(q_t / q_s)).sum(-1).mean()


def ctc_dkd(student, teacher, labels, temperature=0.5, alpha=1.0, beta=1.0, negate_blank=False, blank=0):
    if negate_blank:
        student, teacher = negated(student, blank), negated(teacher, blank)
    total = 0.0
    for z_s, z_t, label in zip(student, teacher, labels, strict=True):
        inside = np.isin(np.arange(z_s.shape[-1]), label[label != blank])
        parts = []
        for z in (z_s, z_t):
            q = softmax(z / temperature).mean(0)
            rest = softmax(z[:, ~inside] / temperature).mean(0)
            parts.append((np.array([q[inside].sum(), q[~inside].sum()]), rest))
        (b_s, r_s), (b_t, r_t) = parts
        masses = (b_t * np.log(b_t / b_s)).sum() if inside.any() else 0.0
        total += alpha * masses + beta * (r_t * np.log(r_t / r_s)).sum()
    return total / len(student)


def db_map(student, teacher, mask=None, threshold=0.3, alpha=5.0, ratio=3.0):
    p, b = (x.reshape(x.shape[0], *x.shape[-2:]) for x in student)
    t = teacher.reshape(p.shape) > threshold
    g = t.copy()
    g[:, 1:] |= t[:, :-1]
    g[:, :, 1:] |= t[:, :, :-1]
    g[:, 1:, 1:] |= t[:, :-1, :-1]
    m = np.ones(p.shape) if mask is None else mask.reshape(p.shape)
    entropy = -np.where(g, np.log(p), np.log(1 - p))
    positive, negative = g * m, (1 - g) * m
    wanted = int(min(negative.sum(), positive.sum() * ratio))
    hardest = np.sort((entropy * negative).reshape(-1))[::-1][:wanted]
    balanced = ((entropy * positive).sum() + hardest.sum()) / (positive.sum() + wanted + 1e-6)
    dice = 1 - 2 * (b * g * m).sum() / ((b * m).sum() + (g * m).sum() + 1e-6)
    return alpha * balanced + dice


def case(name, reference, student, teacher, arguments=None, tensors=None, **more):
    loss = reference.__name__
    return Case(f"{loss}_{name}", LOSSES[loss], reference, student, teacher, arguments or {}, tensors or {}, **more)


def boxes(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 20, (2, 5, 2))
    return np.concatenate([low, low + rng.uniform(2, 20, (2, 5, 2))], -1)


def head_maps(seed, classes=3):
    """Three raw maps of a 64 x 64 image, in which the teacher is sure of few places."""
    maps = []
    for scale, side in enumerate((2, 4, 8)):
        x = normal(2, 3, 5 + classes, side, side, seed=seed + scale)
        x[:, :, 4] -= 1.0
        maps.append(x.reshape(2, -1, side, side))
    return tuple(maps)


EDGES_S, EDGES_T = normal(2, 3, 4, 6, scale=2.0), normal(2, 3, 4, 6, seed=1, scale=2.0)
LINES_S, LINES_T = normal(2, 7, 5, scale=2.0), normal(2, 7, 5, seed=1, scale=2.0)
PLACES = np.array([[1.0, 0.25, 0.0], [0.5, 0.0, 1.0]])
WORDS = np.array([[1, 3, 3, 0], [4, 2, 0, 0]])
DB = tuple(sigmoid(normal(2, 6, 8, seed=s, scale=2.0)) for s in range(3))
VALID = (np.random.default_rng(5).random((2, 6, 8)) > 0.2).astype("float64")
YOLO = {
    "anchors": (10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326),
    "masks": ((6, 7, 8), (3, 4, 5), (0, 1, 2)),
}

CASES = [
    case("default", ld, EDGES_S, EDGES_T),
    case(
        "places",
        ld,
        EDGES_S,
        EDGES_T,
        {"convention": "reference", "temperature": 2.0},
        {"weight": PLACES},
        sizes_known=True,
    ),
    case("edges", ld, EDGES_S, EDGES_T, {}, {"weight": np.abs(normal(2, 3, 4))}),
    case("default", dfl, EDGES_S, EDGES_T, minimum=lambda t: dfl(t, t)),
    case("distance", dfl, EDGES_S, EDGES_T, {"target": "distance"}, {"weight": PLACES}, minimum=None, sizes_known=True),
    case("default", qfl, LINES_S, LINES_T),
    case("beta_0", qfl, LINES_S, LINES_T, {"beta": 0.0}, minimum=lambda t, beta: qfl(t, t, beta)),
    case("beta_1", qfl, LINES_S - 4, LINES_T - 4, {"beta": 1.5}),
    case("default", giou, boxes(0), boxes(1)),
    case("weight", giou, boxes(0), boxes(1), {}, {"weight": np.abs(normal(2, 5))}),
    case("default", pseudo_label, head_maps(0), head_maps(20), YOLO | {"most": 14}, minimum=None),
    case(
        "few",
        pseudo_label,
        head_maps(3),
        head_maps(33),
        YOLO | {"threshold": 0.2, "overlap": 0.1, "most": 5},
        minimum=None,
    ),
    case("default", ctc_dml, LINES_S, LINES_T),
    case("skip_blank", ctc_dml, LINES_S, LINES_T, {"blank": 2, "skip_blank": 0.3}),
    case("default", ctc_mean_kl, LINES_S, LINES_T),
    case(
        "lengths",
        ctc_mean_kl,
        LINES_S,
        normal(2, 4, 5, seed=6),
        {"temperature": 1.0, "negate_blank": True},
        minimum=None,
    ),
    case("default", ctc_dkd, LINES_S, LINES_T, {}, {"labels": WORDS}),
    case(
        "weights",
        ctc_dkd,
        LINES_S,
        LINES_T,
        {"alpha": 0.5, "beta": 2.0, "temperature": 1.0, "negate_blank": True, "blank": 4},
        {"labels": np.array([[1, 3, 4], [4, 4, 4]])},
    ),
    case("default", db_map, DB[:2], DB[2], minimum=None),
    case("mask", db_map, DB[:2], DB[2], {"alpha": 1.0, "ratio": 1.0, "threshold": 0.9}, {"mask": VALID}, minimum=None),
    case("channel", db_map, tuple(x[:, None] for x in DB[:2]), DB[2][:, None], {}, {"mask": VALID}, minimum=None),
]
