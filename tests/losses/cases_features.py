"""Losses on feature maps and embeddings."""

import math

import numpy as np
import paddle

from slim_distill.losses import LOSSES
from tests.losses.cases_basic import normal, pooled, softmax
from tests.losses.harness import Case

S, T = normal(3, 4, 4, 6), normal(3, 4, 4, 6, seed=1)
WIDE = normal(3, 6, 4, 6, seed=2)
SMALL = normal(3, 6, 2, 3, seed=3)
ROWS_S, ROWS_T = normal(5, 8), normal(5, 6, seed=1)


def flat(x, axis=1):
    return x.reshape(*x.shape[:axis], -1)


def unit(x, axis):
    return x / np.sqrt((x**2).sum(axis, keepdims=True) + 1e-12)


def huber(d, beta=1.0):
    return np.where(np.abs(d) < beta, d**2 / (2 * beta), np.abs(d) - beta / 2)


def matched(a, b):
    height, width = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    return pooled(a, height, width), pooled(b, height, width)


def conv(x, weight, bias=0.0):
    """Cross-correlation that keeps the size."""
    k = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (k, k), (k, k)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight) + np.reshape(bias, (1, -1, 1, 1))


def layer(params, name, x):
    return conv(x, params[f"{name}.weight"], params.get(f"{name}.bias", 0.0))


def batch_norm(params, name, x, epsilon=1e-5):
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    scale, offset = (params[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("scale", "offset"))
    return (x - mean) / np.sqrt(variance + epsilon) * scale + offset


def relu(x, slope=0.0):
    return np.where(x > 0, x, slope * x)


def per_sample(x):
    return x.sum() / len(x)


def l1(student, teacher):
    return np.abs(student - teacher).mean()


def smooth_l1(student, teacher, beta=1.0):
    return huber(student - teacher, beta).mean()


def cosine(student, teacher, axis=1):
    return (1 - (unit(student, axis) * unit(teacher, axis)).sum(axis)).mean()


def at(student, teacher, power=2.0, convention="reference"):
    q_s, q_t = (unit(flat((np.abs(x) ** power).mean(1)), 1) for x in matched(student, teacher))
    if convention == "reference":
        return ((q_s - q_t) ** 2).mean()
    return np.linalg.norm(q_s - q_t, axis=1).mean() / 2


def ab(student, teacher, margin=1.0):
    s, t, m = student, teacher, margin
    rho = (s + m) ** 2 * ((s > -m) & (t <= 0)) + (s - m) ** 2 * ((s <= m) & (t > 0))
    return per_sample(rho)


def ft(student, teacher, params, params_at, rate=0.5, reconstruction=1.0, convention="paper"):
    s, t = matched(student, teacher)

    def stack(name, x, params=params):
        for i in range(3):
            x = relu(layer(params, f"{name}.{i}", x), 0.1)
        return x

    def factor(x):
        return unit(flat(x), 1)

    if convention == "reference":
        return np.abs(factor((s**2).mean(1)) - factor((t**2).mean(1))).mean()
    transfer = np.abs(factor(stack("translator", s)) - factor(stack("encoder", t, params_at))).mean()
    return transfer + reconstruction * ((stack("decoder", stack("encoder", t)) - t) ** 2).mean()


def ofd(student, teacher, margin=None, scale=None, offset=None):
    if margin is None and scale is None:
        margin = np.array([c[c < 0].mean() if (c < 0).any() else 0.0 for c in teacher.transpose(1, 0, 2, 3)])
    elif margin is None:
        margin = []
        for g, b in zip(np.abs(scale), offset, strict=True):
            share = 0.5 * (1 + math.erf(-b / g / math.sqrt(2)))
            density = math.exp(-((b / g) ** 2) / 2) / math.sqrt(2 * math.pi)
            margin.append(b - g * density / share if share > 1e-3 else -3 * g)
    target = np.maximum(teacher, np.reshape(margin, (1, -1, 1, 1)))
    return per_sample((student - target) ** 2 * ((student > target) | (target > 0)))


def rkd(student, teacher, distance=1.0, angle=2.0, normalise=False):
    relations = []
    for x in (flat(student), flat(teacher)):
        x = unit(x, 1) if normalise else x
        difference = x[None] - x[:, None]
        lengths = np.linalg.norm(difference, axis=-1)
        directions = unit(difference, -1)
        relations.append((lengths / lengths[lengths > 0].mean(), np.einsum("jid,jkd->jik", directions, directions)))
    (d_s, a_s), (d_t, a_t) = relations
    return distance * huber(d_s - d_t).mean() + angle * huber(a_s - a_t).mean()


def sp(student, teacher):
    g_s, g_t = (unit(flat(x) @ flat(x).T, 1) for x in (student, teacher))
    return np.linalg.norm(g_s - g_t) ** 2 / len(student) ** 2


def cc(student, teacher, gamma=0.4, order=2, convention="paper"):
    s, t = flat(student), flat(teacher)
    if convention == "reference":
        d = np.abs(s - t)
        return (d[:-1] * d[1:]).sum(1).mean()

    def kernel(x):
        product = unit(x, 1) @ unit(x, 1).T
        return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * product**p for p in range(order + 1))

    return ((kernel(s) - kernel(t)) ** 2).mean()


def pkt(student, teacher):
    probabilities = []
    for x in (student, teacher):
        k = (unit(flat(x), 1) @ unit(flat(x), 1).T + 1) / 2
        probabilities.append(k / k.sum(1, keepdims=True))
    p_s, p_t = probabilities
    return (p_t * np.log((p_t + 1e-7) / (p_s + 1e-7))).mean()


def nst(student, teacher):
    s, t = (unit(flat(x, 2), 2) for x in matched(student, teacher))

    def kernel(a, b):
        return (np.einsum("nap,nbp->nab", a, b) ** 2).mean()

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def vid(student, teacher, params, variance=5.0):
    s, t = matched(student, teacher)
    mean = relu(layer(params, "mean.1", relu(layer(params, "mean.0", s))))
    spread = np.log1p(np.exp(params["spread"])) + 1e-5
    return ((t - layer(params, "mean.2", mean)) ** 2 / spread + np.log(spread)).mean() / 2


def crd(student, teacher, params, index, samples, negatives, temperature=0.07, momentum=0.5, width=128):
    index = index.reshape(-1)
    paddle.seed(7)
    others = paddle.randint(0, samples, [len(index), negatives], "int64").numpy()
    drawn = np.concatenate([index[:, None], others], 1)
    e_s, e_t = (
        unit(flat(x) @ params[f"embed_{name}.weight"] + params[f"embed_{name}.bias"], 1)
        for name, x in (("student", student), ("teacher", teacher))
    )
    total, c = 0.0, negatives / samples
    for name, other in (("student", e_t), ("teacher", e_s)):
        similar = np.exp((params[f"memory_{name}"][drawn] * other[:, None]).sum(-1) / temperature)
        z = params[f"constant_{name}"]
        assert z > 0, "a constant that is still to be estimated is tested by itself"
        p = similar / z
        total -= (np.log(p[:, 0] / (p[:, 0] + c + 1e-7)) + np.log(c / (p[:, 1:] + c + 1e-7)).sum(1)).mean()
    return total


def cwd(student, teacher, temperature=1.0):
    p_s, p_t = (softmax(flat(x, 2) / temperature) for x in (student, teacher))
    return temperature**2 * (p_t * np.log(p_t / p_s)).sum() / (student.shape[0] * student.shape[1])


def mgd(student, teacher, params, mask_ratio=0.65, masked="positions", reduction="sum"):
    if mask_ratio > 0:
        n, c, h, w = student.shape
        paddle.seed(7)
        shape = [n, 1, h, w] if masked == "positions" else [n, c, 1, 1]
        student = student * (paddle.rand(shape, dtype="float32").numpy() >= mask_ratio)
    made = layer(params, "generator.1", relu(layer(params, "generator.0", student)))
    square = (made - teacher) ** 2
    return per_sample(square) if reduction == "sum" else square.mean()


def pkd(student, teacher):
    axes = tuple(i for i in range(student.ndim) if i != 1)
    n_s, n_t = (
        (x - x.mean(axes, keepdims=True)) / (x.std(axes, ddof=1, keepdims=True) + 1e-6) for x in (student, teacher)
    )
    return ((n_s - n_t) ** 2).mean() / 2


def attentions(x, temperature):
    n, c, h, w = x.shape
    place = h * w * softmax(flat(np.abs(x).mean(1)) / temperature).reshape(n, 1, h, w)
    return place, c * softmax(np.abs(x).mean((2, 3)) / temperature).reshape(n, c, 1, 1)


def box_masks(shape, boxes):
    n, _, h, w = shape
    inside, outside = np.zeros((n, 1, h, w)), np.zeros((n, 1, h, w))
    for i in range(n):
        for cx, cy, bw, bh in boxes[i]:
            if bw <= 0 or bh <= 0:
                continue
            left, right = max(math.floor((cx - bw / 2) * w), 0), math.ceil((cx + bw / 2) * w)
            top, bottom = max(math.floor((cy - bh / 2) * h), 0), math.ceil((cy + bh / 2) * h)
            part = inside[i, 0, top : bottom + 1, left : right + 1]
            part[:] = np.maximum(part, 1 / (bottom + 1 - top) / (right + 1 - left))
        free = inside[i] == 0
        outside[i] = free / max(free.sum(), 1)
    return inside, outside


def fgd(
    student,
    teacher,
    params,
    boxes,
    foreground=1e-3,
    background=5e-4,
    attention=1e-3,
    relation=5e-6,
    temperature=0.5,
):
    (a_s, b_s), (a_t, b_t) = attentions(student, temperature), attentions(teacher, temperature)
    inside, outside = box_masks(teacher.shape, boxes)

    def context(name, x):
        n, c = x.shape[:2]
        weights = softmax(flat(layer(params, f"{name}.attention", x), 2))
        pooled_x = (flat(x, 2) * weights).sum(-1).reshape(n, c, 1, 1)
        hidden = layer(params, f"{name}.squeeze", pooled_x)[:, :, 0, 0]
        hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
        hidden = relu(hidden * params[f"{name}.norm.scale"] + params[f"{name}.norm.offset"])
        return x + layer(params, f"{name}.expand", hidden[:, :, None, None])

    square = (student - teacher) ** 2 * a_t * b_t
    return (
        foreground * per_sample(square * inside)
        + background * per_sample(square * outside)
        + attention * (per_sample(np.abs(a_s - a_t)) + per_sample(np.abs(b_s - b_t)))
        + relation * per_sample((context("student", student) - context("teacher", teacher)) ** 2)
    )


def fbkd(
    student, teacher, params, at, feature=7e-5, channel=4e-3, position=4e-3, relation=7e-5, temperature=0.5
):  # `at`: the attention is a constant
    weights = (attentions(at, temperature)[0] + attentions(teacher, temperature)[0]) / 2

    def non_local(name, x):
        theta, phi, value = (flat(layer(params, f"{name}.{part}", x), 2) for part in ("theta", "phi", "value"))
        products = np.einsum("ncp,ncq->npq", theta, phi) / theta.shape[-1]
        gathered = np.einsum("npq,ncq->ncp", products, value).reshape(len(x), -1, *x.shape[2:])
        return x + layer(params, f"{name}.expand", gathered)

    means = student.mean((2, 3)) @ params["channel.weight"] + params["channel.bias"]
    place = layer(params, "position", student.mean(1, keepdims=True))
    related = layer(params, "relation", non_local("student", student))
    return (
        feature * np.sqrt(((teacher - layer(params, "feature", student)) ** 2 * weights).sum())
        + channel * np.linalg.norm(teacher.mean((2, 3)) - means)
        + position * np.linalg.norm(teacher.mean(1, keepdims=True) - place)
        + relation * np.linalg.norm(non_local("teacher", teacher) - related)
    )


def reviewkd(student, teacher, params, width=256):
    total, deeper = 0.0, None
    for k in reversed(range(len(student))):
        name = f"fusion.{k}"
        x = batch_norm(params, f"{name}.reduce.norm", layer(params, f"{name}.reduce", student[k]))
        if deeper is not None:
            factor = x.shape[2] // deeper.shape[2]
            deeper = deeper.repeat(factor, 2).repeat(factor, 3)
            z = 1 / (1 + np.exp(-layer(params, f"{name}.attention", np.concatenate([x, deeper], 1))))
            x = x * z[:, :1] + deeper * z[:, 1:]
        fused = batch_norm(params, f"{name}.expand.norm", layer(params, f"{name}.expand", x))
        deeper, height = x, x.shape[2]
        sizes = [(1.0, height)] + [(w, s) for w, s in ((0.5, 4), (0.25, 2), (0.125, 1)) if s < height]
        weights = [1.0, 0.5, 0.25, 0.125][: len(sizes)]
        parts = [
            ((pooled(fused, s, s) - pooled(teacher[k], s, s)) ** 2).mean() if i else ((fused - teacher[k]) ** 2).mean()
            for i, (_, s) in enumerate(sizes)
        ]
        total += np.dot(weights, parts) / sum(weights)
    return total


def ickd(student, teacher, convention="reference"):
    g_s, g_t = (unit(np.einsum("nap,nbp->nab", flat(x, 2), flat(x, 2)), 2) for x in (student, teacher))
    value = ((g_s - g_t) ** 2).sum() / len(student) / student.shape[1]
    return value if convention == "reference" else value / student.shape[1]


def case(name, reference, student=S, teacher=T, arguments=None, tensors=None, **more):
    loss = reference.__name__
    return Case(f"{loss}_{name}", LOSSES[loss], reference, student, teacher, arguments or {}, tensors or {}, **more)


def owning(name, reference, student=S, teacher=T, arguments=None, tensors=None, **more):
    return case(name, reference, student, teacher, arguments, tensors, owns_layers=True, minimum=None, **more)


BOXES = np.array(
    [
        [[0.3, 0.4, 0.3, 0.4], [0.35, 0.5, 0.5, 0.6], [0, 0, 0, 0]],
        [[0.9, 0.9, 0.3, 0.3], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0]] * 3,
    ]
)
CRD = {"samples": 11, "negatives": 6, "width": 4, "temperature": 0.5}
PYRAMID_S = (normal(2, 3, 8, 8), normal(2, 4, 4, 4), normal(2, 5, 2, 2))
PYRAMID_T = (normal(2, 4, 8, 8, seed=1), normal(2, 6, 4, 4, seed=1), normal(2, 7, 2, 2, seed=1))

CASES = [
    case("maps", l1),
    case("maps", smooth_l1),
    case("beta", smooth_l1, arguments={"beta": 0.3}),
    case("maps", cosine),
    case("tokens", cosine, normal(2, 3, 5), normal(2, 3, 5, seed=1), {"axis": -1}),
    case("reference", at),
    case("paper", at, arguments={"convention": "paper"}),
    case("sizes", at, S, SMALL, {"power": 3.0}, minimum=None, sizes_known=True),
    case("maps", ab, minimum=None),
    case("margin", ab, arguments={"margin": 0.2}, minimum=None),
    owning("paper", ft, S, WIDE, {"reconstruction": 2.0}),
    owning("sizes", ft, S, SMALL, {"rate": 0.34}, sizes_known=True),
    owning("reference", ft, S, SMALL, {"convention": "reference"}, sizes_known=True),
    case("data", ofd),
    case("margin", ofd, tensors={"margin": np.array([-0.1, -0.5, -1.0, 0.0])}),
    case("closed", ofd, tensors={"scale": np.array([1.0, -0.5, 0.1, 2.0]), "offset": np.array([0.2, -0.3, 2.0, 0.0])}),
    case("embeddings", rkd, ROWS_S, ROWS_T, minimum=0.0),
    case("maps", rkd, S, WIDE, {"distance": 25.0, "angle": 50.0, "normalise": True}),
    case("embeddings", sp, ROWS_S, ROWS_T),
    case("maps", sp, S, WIDE),
    case("paper", cc, ROWS_S, ROWS_T),
    case("order", cc, S, WIDE, {"gamma": 0.7, "order": 4}),
    case("reference", cc, arguments={"convention": "reference"}),
    case("embeddings", pkt, ROWS_S, ROWS_T),
    case("maps", pkt, S, WIDE),
    case("channels", nst, S, WIDE),
    case("sizes", nst, S, SMALL, minimum=None, sizes_known=True),
    owning("channels", vid, S, WIDE),
    owning("sizes", vid, S, SMALL, {"variance": 1.0}, sizes_known=True),
    owning("embeddings", crd, ROWS_S, ROWS_T, CRD, {"index": np.array([3, 0, 10, 4, 7])}),
    owning("maps", crd, S, WIDE, CRD, {"index": np.array([[3], [0], [10]])}, sizes_known=True),
    case("default", cwd),
    case("temperature", cwd, arguments={"temperature": 4.0}),
    owning("default", mgd),
    owning("channels", mgd, arguments={"mask_ratio": 0.5, "masked": "channels", "reduction": "mean"}),
    owning("no_mask", mgd, arguments={"mask_ratio": 0.0}),
    case("maps", pkd),
    case("embeddings", pkd, ROWS_T, normal(5, 6, seed=5)),
    owning("default", fgd, tensors={"boxes": BOXES}),
    owning(
        "weights",
        fgd,
        arguments={"foreground": 1.0, "background": 0.5, "attention": 0.1, "relation": 0.01, "temperature": 1.0},
        tensors={"boxes": BOXES},
    ),
    owning("default", fbkd),
    owning(
        "weights",
        fbkd,
        arguments={"feature": 1.0, "channel": 0.5, "position": 0.25, "relation": 2.0, "temperature": 1.0},
    ),
    owning("pyramid", reviewkd, PYRAMID_S, PYRAMID_T, {"width": 5}),
    case("reference", ickd),
    case("paper", ickd, S, normal(3, 4, 2, 3, seed=1), {"convention": "paper"}),
]
