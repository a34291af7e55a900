"""Relations between losses on class logits, and what they refuse."""

import numpy as np
import paddle
import pytest

from slim_distill.common.errors import LossError
from slim_distill.losses import LOSSES
from tests.losses.cases_basic import log_softmax, normal, softmax

S, T = normal(6, 5, scale=3.0), normal(6, 5, seed=1, scale=3.0)
LABELS = np.array([0, 1, 2, 3, 4, 4])


def run(name, student, teacher=None, **arguments):
    """Value and gradient of a loss on arrays."""
    student = paddle.to_tensor(student, stop_gradient=False)
    given = {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    others = [] if teacher is None else [paddle.to_tensor(teacher)]
    loss = LOSSES[name](student, *others, **given)
    loss.backward()
    return float(loss), student.grad.numpy()


def entropy(logits):
    return -(softmax(logits) * log_softmax(logits)).sum(-1)


def test_kd_at_temperature_1_is_soft_label_without_the_teachers_entropy():
    value, gradient = run("kd", S, T, temperature=1.0, alpha=1.0)
    soft, soft_gradient = run("soft_label", S, T)
    np.testing.assert_allclose(value, soft - entropy(T).mean(), rtol=1e-12)
    np.testing.assert_allclose(gradient, soft_gradient, rtol=0, atol=1e-14)


def test_kd_gradient_does_not_shrink_with_temperature_and_its_value_tends_to_half_the_squared_difference():
    centred_s, centred_t = (z - z.mean(-1, keepdims=True) for z in (S, T))
    limit = 0.5 * ((centred_s - centred_t) ** 2).sum(-1).mean() / S.shape[1]
    np.testing.assert_allclose(run("kd", S, T, temperature=1000.0)[0], limit, rtol=2e-2)
    for temperature in (2.0, 5.0):
        scaled = run("kd", S * temperature, T * temperature, temperature=temperature)[0]
        np.testing.assert_allclose(scaled, temperature**2 * run("kd", S, T, temperature=1.0)[0], rtol=1e-12)


def test_kd_with_alpha_0_is_the_cross_entropy():
    value, _ = run("kd", S, T, alpha=0.0, labels=LABELS)
    np.testing.assert_allclose(value, -log_softmax(S)[np.arange(6), LABELS].mean(), rtol=1e-12)


def test_dkd_with_beta_of_the_teachers_doubt_is_kd():
    """KL(p_t || p_s) = TCKD + (1 - p_t[y]) NCKD, sample by sample."""
    for row in range(6):
        s, t, y = S[row : row + 1], T[row : row + 1], LABELS[row : row + 1]
        beta = float(1 - softmax(t / 2.0)[0, y[0]])
        value, gradient = run("dkd", s, t, labels=y, alpha=1.0, beta=beta, temperature=2.0)
        kd, kd_gradient = run("kd", s, t, temperature=2.0)
        np.testing.assert_allclose(value, kd, rtol=1e-9)
        np.testing.assert_allclose(gradient, kd_gradient, rtol=0, atol=1e-9)


def test_dkd_is_finite_where_the_teacher_is_certain():
    """log p would be -inf for probabilities that round to 0 and to 1; in log space nothing is."""
    certain = np.array([[200.0, -100.0, -100.0]], "float32")
    value, gradient = run("dkd", -certain, certain, temperature=1.0)
    assert np.isfinite(value)
    assert value > 0
    assert np.isfinite(gradient).all()


def test_symmetric_kl_is_the_mean_of_both_kls():
    mean = (run("kd", S, T, temperature=1.0)[0] + run("kd", T, S, temperature=1.0)[0]) / 2
    np.testing.assert_allclose(run("symmetric_kl", S, T)[0], mean, rtol=1e-12)
    np.testing.assert_allclose(run("symmetric_kl", T, S)[0], mean, rtol=1e-12)


def test_js_is_symmetric_and_bounded_by_log_2():
    np.testing.assert_allclose(run("js", S, T)[0], run("js", T, S)[0], rtol=1e-12)
    far = np.array([[60.0, 0, 0]])
    np.testing.assert_allclose(run("js", far, far[:, ::-1].copy())[0], np.log(2), rtol=1e-9)


def test_skd_and_logit_std_ignore_scale_and_shift_of_the_student():
    for name, tolerance in (("skd", 1e-6), ("logit_std", 1e-6)):
        np.testing.assert_allclose(run(name, 3.0 * S + 5.0, T)[0], run(name, S, T)[0], rtol=tolerance)


def test_logit_std_of_flat_logits_has_a_finite_gradient():
    _, gradient = run("logit_std", np.zeros((2, 5)), T[:2])
    assert np.isfinite(gradient).all()


def test_dist_is_blind_to_affine_changes_of_probabilities_but_not_to_order():
    value, gradient = run("dist", np.zeros((6, 5)), T)
    np.testing.assert_allclose(value, 2.0, rtol=1e-12)
    assert np.isfinite(gradient).all()
    assert run("dist", -T, T)[0] > 2.0


def test_kd_bernoulli_of_one_class_is_the_divergence_of_two_class_softmax():
    pair_s, pair_t = (np.concatenate([z[:, :1], np.zeros((6, 1))], 1) for z in (S, T))
    np.testing.assert_allclose(
        run("kd_bernoulli", S[:, :1].copy(), T[:, :1].copy(), temperature=2.0)[0],
        run("kd", pair_s, pair_t, temperature=2.0)[0],
        rtol=1e-9,
    )


def test_kd_bernoulli_is_finite_for_extreme_logits():
    value, gradient = run("kd_bernoulli", np.array([[1e4, -1e4]], "float32"), np.array([[-1e4, 1e4]], "float32"))
    np.testing.assert_allclose(value, 1e4, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_function_matching_is_kd_without_labels():
    np.testing.assert_allclose(run("function_matching", S, T)[0], run("kd", S, T, temperature=10.0)[0], rtol=1e-12)


def test_wsld_gives_no_lesson_to_a_student_that_is_right():
    right = 40.0 * np.eye(5)[LABELS]
    assert run("wsld", right, T, labels=LABELS)[0] < 1e-6 < run("wsld", -right, T, labels=LABELS)[0]


def test_tf_kd_is_least_where_the_student_is_the_made_up_teacher():
    u = np.where(np.eye(5)[LABELS] > 0, 0.9, 0.1 / 4) / 20
    np.testing.assert_allclose(run("tf_kd", u, labels=LABELS, correct=0.9)[0], 0, atol=1e-15)
    assert run("tf_kd", u + 0.01 * S, labels=LABELS, correct=0.9)[0] > 0


def test_labels_may_be_a_column():
    column = run("kd", S, T, alpha=0.5, labels=LABELS[:, None].astype("int32"))[0]
    assert column == run("kd", S, T, alpha=0.5, labels=LABELS)[0]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("kd", {"temperature": 0.0}, r"kd: temperature must be a finite number above 0, got 0\.0"),
        (
            "kd",
            {"alpha": 0.5},
            r"kd: alpha must be at most 1, and labels are needed below 1; got alpha 0\.5 and no lab",
        ),
        ("kd", {"alpha": 1.5}, r"got alpha 1\.5 and no labels"),
        ("dkd", {"beta": -1.0}, r"dkd: beta must be a finite number of at least 0"),
        ("skd", {"multiplier": 0.0}, r"skd: multiplier must be"),
        ("dist", {"temperature": float("inf")}, r"dist: temperature must be .* got inf"),
        ("wsld", {"temperature": -1.0, "labels": LABELS}, r"wsld: temperature"),
        ("js", {"temperature": 0}, r"js: temperature"),
        ("function_matching", {"convention": "keras"}, r"convention must be one of paper, reference, got 'keras'"),
        (
            "kd_bernoulli",
            {"scale_by": np.zeros(())},
            r"scale_by must have the shape of the logits \[6, 5\], or that .* \[\]",
        ),
    ],
)
def test_refuses_numbers_that_make_no_sense(name, arguments, message):
    with pytest.raises(LossError, match=message):
        run(name, S, T, **arguments)


def test_tf_kd_refuses_a_teacher_that_does_not_prefer_the_label():
    with pytest.raises(LossError, match=r"correct must be above 1 / 5 \(one of 5 classes\) and below 1, got 0\.1"):
        run("tf_kd", S, labels=LABELS, correct=0.1)


def several(student, teachers, **arguments):
    tensors = {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    peers = tuple(paddle.to_tensor(z) for z in teachers)
    return float(LOSSES["multi_teacher_kd"](paddle.to_tensor(student), peers, **tensors))


def test_equal_teachers_together_are_one_teacher():
    one, _ = run("kd", S, T)
    for confidence in ("labels", "entropy", "equal"):
        for number in (1, 3):
            value = several(S, [T] * number, confidence=confidence, labels=LABELS)
            np.testing.assert_allclose(value, one, rtol=1e-12)


def test_a_sure_but_wrong_teacher_is_heard_by_entropy_and_not_by_labels():
    student, right, wrong = (np.array([z]) for z in ([0.5, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 60.0, 0.0]))
    alone = [run("kd", student, z, temperature=1.0)[0] for z in (right, wrong)]
    by_labels = several(student, [right, wrong], temperature=1.0, labels=np.array([0]))
    np.testing.assert_allclose(by_labels, alone[0], rtol=1e-9)
    assert several(student, [right, wrong], temperature=1.0, confidence="entropy") > np.mean(alone)


def test_confidence_by_labels_needs_labels():
    with pytest.raises(LossError, match="needs labels"):
        several(S, [T, T])
