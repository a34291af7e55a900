"""Losses on class logits."""

import numpy as np

from slim_distill.losses import LOSSES
from tests.losses.cases_basic import log_softmax, normal, sigmoid, softmax
from tests.losses.harness import Case

S, T = normal(5, 7, scale=2.0), normal(5, 7, seed=1, scale=2.0)
S3, T3 = normal(2, 3, 4, scale=2.0), normal(2, 3, 4, seed=1, scale=2.0)
T2 = normal(5, 7, seed=2, scale=2.0)
LABELS = np.array([0, 6, 3, 3, 1])
LABELS3 = np.array([[[0], [1], [2]], [[3], [3], [0]]])


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def ce(z, labels):
    labels = labels.reshape(z.shape[:-1])
    return -np.take_along_axis(log_softmax(z), labels[..., None], -1)[..., 0]


def one_hot(labels, z):
    return np.eye(z.shape[-1])[labels.reshape(z.shape[:-1])]


def kd(student, teacher, temperature=4.0, alpha=1.0, labels=None):
    loss = alpha * temperature**2 * kl(log_softmax(teacher / temperature), log_softmax(student / temperature)).mean()
    return loss if labels is None else loss + (1 - alpha) * ce(student, labels).mean()


def dkd(student, teacher, labels=None, alpha=1.0, beta=8.0, temperature=4.0, mask=None):
    def per_position(z_s, z_t, y):
        parts = []
        for z in (z_s, z_t):
            p = softmax(z / temperature)
            others = np.delete(p, y)
            parts.append((np.array([p[y], others.sum()]), others / others.sum()))
        (b_s, q_s), (b_t, q_t) = parts
        return alpha * (b_t * np.log(b_t / b_s)).sum() + beta * (q_t * np.log(q_t / q_s)).sum()

    classes = teacher.argmax(-1) if labels is None else labels
    rows = zip(
        student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]), classes.reshape(-1), strict=True
    )
    values = np.array([per_position(*row) for row in rows])
    weights = np.ones(len(values)) if mask is None else mask.reshape(-1)
    return temperature**2 * (values * weights).sum() / max(weights.sum(), 1)


def skd(student, teacher, multiplier=None):
    def normalise(z):
        return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-7)

    scale = teacher.std(-1, ddof=1, keepdims=True) if multiplier is None else multiplier
    return -(softmax(normalise(teacher) * scale) * log_softmax(normalise(student) * scale)).sum(-1).mean()


def dist(student, teacher, temperature=1.0, beta=1.0, gamma=1.0):
    a, b = softmax(student / temperature), softmax(teacher / temperature)
    inter = np.mean([np.corrcoef(a[i], b[i])[0, 1] for i in range(len(a))])
    intra = np.mean([np.corrcoef(a[:, c], b[:, c])[0, 1] for c in range(a.shape[1])])
    return temperature**2 * (beta * (1 - inter) + gamma * (1 - intra))


def wsld(student, teacher, at, labels, temperature=2.0):
    weight = 1 - np.exp(-ce(at, labels) / (ce(teacher, labels) + 1e-7))
    soft = -(softmax(teacher / temperature) * log_softmax(student / temperature)).sum(-1)
    return temperature**2 * (weight * soft).mean()


def logit_std(student, teacher, temperature=2.0):
    def standardise(z):
        return (z - z.mean(-1, keepdims=True)) / (z.std(-1, ddof=1, keepdims=True) + 1e-7)

    return kd(standardise(student), standardise(teacher), temperature)


def dml(student, teacher, temperature=1.0):
    return np.mean([kd(student, peer, temperature) for peer in teacher])


def multi_teacher_kd(student, teacher, temperature=4.0, confidence="labels", labels=None):
    def doubt(z):
        return -(softmax(z) * log_softmax(z)).sum(-1) if confidence == "entropy" else ce(z, labels)

    each = np.array([kl(log_softmax(z / temperature), log_softmax(student / temperature)) for z in teacher])
    shares = np.full(each.shape, 1 / len(teacher))
    if confidence != "equal" and len(teacher) > 1:
        u = np.exp([doubt(z) for z in teacher])
        shares = (1 - u / u.sum(0)) / (len(teacher) - 1)
    return temperature**2 * (shares * each).sum(0).mean()


def js(student, teacher, temperature=1.0):
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    m = (p + q) / 2
    return temperature**2 * ((p * np.log(p / m)).sum(-1) + (q * np.log(q / m)).sum(-1)).mean() / 2


def symmetric_kl(student, teacher, temperature=1.0):
    return (kd(student, teacher, temperature) + kd(teacher, student, temperature)) / 2


def kd_bernoulli(student, teacher, temperature=1.0, scale_by=None):
    a, b = sigmoid(teacher / temperature), sigmoid(student / temperature)
    loss = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    if scale_by is not None:
        loss = loss * sigmoid(scale_by).reshape(*scale_by.shape, *[1] * (loss.ndim - scale_by.ndim))
    return temperature**2 * loss.mean()


def function_matching(student, teacher, temperature=10.0, convention="paper"):
    return kd(student, teacher, temperature) / (1 if convention == "paper" else temperature**2)


def hard(student, teacher):
    return ce(student, teacher.argmax(-1)).mean()


def tf_kd(student, labels, correct=0.99, temperature=20.0, convention="paper"):
    classes = student.shape[-1]
    u = np.where(one_hot(labels, student) > 0, correct, (1 - correct) / (classes - 1))
    value = kl(log_softmax(u / temperature), log_softmax(student)).mean()
    return value / classes if convention == "reference" else value


def case(name, reference, student=S, teacher=T, arguments=None, tensors=None, **more):
    loss = reference.__name__
    return Case(f"{loss}_{name}", LOSSES[loss], reference, student, teacher, arguments or {}, tensors or {}, **more)


CASES = [
    case("default", kd),
    case("temperature", kd, S3, T3, {"temperature": 1.5}),
    case("labels", kd, arguments={"temperature": 20.0, "alpha": 0.9}, tensors={"labels": LABELS}, minimum=None),
    case("labels_column", kd, S3, T3, {"alpha": 0.0}, {"labels": LABELS3}, minimum=None),
    case("default", dkd),
    case("labels", dkd, arguments={"alpha": 0.5, "beta": 2.0, "temperature": 1.0}, tensors={"labels": LABELS}),
    case("mask", dkd, S3, T3, tensors={"labels": LABELS3, "mask": np.array([[1.0, 1, 0], [1, 0, 0]])}),
    case("default", skd, minimum=lambda teacher: skd(teacher, teacher)),
    case("multiplier", skd, S3, T3, {"multiplier": 2.0}, minimum=lambda t, multiplier: skd(t, t, multiplier)),
    case("default", dist),
    case("weights", dist, arguments={"temperature": 4.0, "beta": 2.0, "gamma": 0.5}),
    case("default", wsld, tensors={"labels": LABELS}, minimum=None),
    case("tokens", wsld, S3, T3, {"temperature": 1.0}, {"labels": LABELS3}, minimum=None),
    case("default", logit_std),
    case("tokens", logit_std, S3, T3, {"temperature": 4.0}),
    case("two_peers", dml, S, (T, normal(5, 7, seed=2)), minimum=None),
    case("one_peer", dml, S3, (T3,), {"temperature": 2.0}, minimum=None),
    case("labels", multi_teacher_kd, S, (T, T2, S[::-1].copy()), tensors={"labels": LABELS}, minimum=None),
    case("entropy", multi_teacher_kd, S3, (T3, S3[::-1].copy()), {"confidence": "entropy"}, minimum=None),
    case("equal", multi_teacher_kd, S, (T, T2), {"confidence": "equal", "temperature": 1.0}, minimum=None),
    case("one", multi_teacher_kd, S, (T,), tensors={"labels": LABELS}, minimum=None),
    case("default", js),
    case("temperature", js, S3, T3, {"temperature": 3.0}),
    case("default", symmetric_kl),
    case("temperature", symmetric_kl, S3, T3, {"temperature": 3.0}),
    case("default", kd_bernoulli),
    case("scaled", kd_bernoulli, S3, T3, {"temperature": 2.0}, {"scale_by": normal(2, 3)}),
    case("scaled_each", kd_bernoulli, S3, T3, {}, {"scale_by": normal(2, 3, 4, seed=4)}),
    case("paper", function_matching),
    case("reference", function_matching, arguments={"convention": "reference", "temperature": 3.0}),
    case("default", hard, minimum=None),
    case("tokens", hard, S3, T3, minimum=None),
    case("paper", tf_kd, teacher=None, tensors={"labels": LABELS}, minimum=None),
    case("reference", tf_kd, S3, None, {"convention": "reference", "correct": 0.8}, {"labels": LABELS3}, minimum=None),
]
