"""Relations between losses on detector and text heads, and what they refuse."""

import cv2
import numpy as np
import paddle
import pytest

from slim_distill.common.errors import LossError
from slim_distill.losses import LOSSES
from slim_distill.losses.db_map import _dilate
from tests.losses.cases_basic import bce, log_softmax, normal, sigmoid, softmax
from tests.losses.cases_heads import DB, EDGES_S, EDGES_T, LINES_S, LINES_T, WORDS, YOLO, head_maps


def run(name, student, teacher, **arguments):
    """Value and gradient of a loss on arrays (the first student's)."""
    several = isinstance(student, tuple)
    student = [paddle.to_tensor(x, stop_gradient=False) for x in (student if several else (student,))]
    teacher = tuple(map(paddle.to_tensor, teacher)) if isinstance(teacher, tuple) else paddle.to_tensor(teacher)
    given = {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    loss = LOSSES[name](tuple(student) if several else student[0], teacher, **given)
    loss.backward()
    return float(loss), student[0].grad.numpy()


def test_ld_at_temperature_1_is_dfl_without_the_teachers_entropy():
    entropy = -(softmax(EDGES_T) * log_softmax(EDGES_T)).sum(-1).mean()
    value, gradient = run("ld", EDGES_S, EDGES_T, temperature=1.0)
    cross, cross_gradient = run("dfl", EDGES_S, EDGES_T)
    np.testing.assert_allclose(value, cross - entropy, rtol=1e-12)
    np.testing.assert_allclose(gradient, cross_gradient, rtol=0, atol=1e-14)


def test_ld_by_reference_is_a_bin_count_smaller():
    value = run("ld", EDGES_S, EDGES_T, convention="reference")[0]
    np.testing.assert_allclose(value, run("ld", EDGES_S, EDGES_T)[0] / 6, rtol=1e-12)


@pytest.mark.parametrize("name", ["ld", "dfl"])
def test_edge_losses_do_not_grow_with_the_number_of_positives(name):
    few, many = np.zeros((2, 3)), np.zeros((2, 3))
    few[0, 1] = 1.0
    many[:] = 1.0
    student, teacher = (np.broadcast_to(x[:1, 1:2], x.shape).copy() for x in (EDGES_S, EDGES_T))
    values = [run(name, student, teacher, weight=w)[0] for w in (few, many)]
    np.testing.assert_allclose(*values, rtol=1e-12)


@pytest.mark.parametrize("name", ["ld", "dfl"])
def test_no_positives_give_no_loss_and_a_finite_gradient(name):
    value, gradient = run(name, EDGES_S, EDGES_T, weight=np.zeros((2, 3)))
    assert value == 0
    assert not gradient.any()


def test_dfl_towards_a_distance_is_least_at_the_two_bins_around_it():
    teacher = np.full((1, 1, 4, 6), -50.0)
    teacher[..., 2] = 50.0  # every edge at exactly 2
    sure = np.where(np.arange(6) == 2, 40.0, 0.0) * np.ones((1, 1, 4, 6))
    assert run("dfl", sure, teacher, target="distance")[0] < 1e-9
    assert run("dfl", np.roll(sure, 1, -1), teacher, target="distance")[0] > 1


def test_qfl_with_beta_0_is_cross_entropy_over_the_teachers_mass():
    y = sigmoid(LINES_T)
    expected = bce(LINES_S, y).sum() / max(y.max(-1).sum(), 1)
    np.testing.assert_allclose(run("qfl", LINES_S, LINES_T, beta=0.0)[0], expected, rtol=1e-12)


def test_giou_of_apart_and_equal_and_degenerate_boxes():
    left, right = np.array([[0.0, 0, 1, 1]]), np.array([[3.0, 0, 4, 1]])
    np.testing.assert_allclose(run("giou", left, right)[0], 1.5, rtol=1e-9)  # overlap 0, half of the hull empty
    np.testing.assert_allclose(run("giou", 100 * left, 100 * right)[0], 1.5, rtol=1e-9)
    value, gradient = run("giou", np.array([[1.0, 1, 1, 1]]), left)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    turned, _ = run("giou", np.array([[1.0, 1, 0, 0]]), left)
    assert 0 <= turned <= 2


def test_pseudo_label_without_any_box_only_pushes_objectness_down():
    teacher = tuple(x - 50.0 for x in head_maps(20))
    value, gradient = run("pseudo_label", head_maps(0), teacher)
    logits = np.concatenate([x.reshape(2, 3, 8, -1)[:, :, 4].reshape(2, -1) for x in head_maps(0)], 1)
    np.testing.assert_allclose(value, np.logaddexp(0, logits).sum(1).mean(), rtol=1e-6)
    assert not gradient.reshape(2, 3, 8, 2, 2)[:, :, [0, 1, 2, 3, 5, 6, 7]].any()


def test_ctc_losses_of_a_shifted_reading_differ_by_frame_and_agree_on_average():
    teacher, student = np.zeros((1, 8, 4)), np.zeros((1, 8, 4))
    teacher[:, :, 0] = student[:, :, 0] = 6.0
    teacher[0, [1, 4], [2, 3]] = student[0, [2, 5], [2, 3]] = 12.0
    assert run("ctc_dml", student, teacher)[0] > 1.0
    assert run("ctc_mean_kl", student, teacher)[0] == pytest.approx(0, abs=1e-12)
    assert run("ctc_dkd", student, teacher, labels=np.array([[2, 3]]))[0] == pytest.approx(0, abs=1e-9)


def test_ctc_dml_without_blank_frames_looks_at_the_others_only():
    teacher = LINES_T.copy()
    teacher[:, ::2, 0] = 30.0
    value, gradient = run("ctc_dml", LINES_S, teacher, skip_blank=0.9)
    assert not gradient[:, ::2].any()
    np.testing.assert_allclose(value, run("ctc_dml", LINES_S[:, 1::2].copy(), teacher[:, 1::2].copy())[0], rtol=1e-12)


def test_negated_blank_leaves_the_tensors_of_other_losses_alone():
    logits = paddle.to_tensor(LINES_S, stop_gradient=False)
    LOSSES["ctc_mean_kl"](logits, paddle.to_tensor(LINES_T), negate_blank=True)
    np.testing.assert_array_equal(logits.numpy(), LINES_S)


def test_ctc_mean_kl_of_a_large_dictionary_is_finite_in_float32():
    """Averages of probabilities that underflow must not become the logarithm of 0."""
    student, teacher = (normal(1, 3, 2000, seed=s, scale=60.0).astype("float32") for s in (0, 1))
    value, gradient = run("ctc_mean_kl", student, teacher)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_ctc_dkd_of_any_dictionary_and_any_padding():
    longer = np.concatenate([WORDS, np.zeros((2, 5), WORDS.dtype)], 1)
    value = run("ctc_dkd", LINES_S, LINES_T, labels=WORDS)[0]
    assert run("ctc_dkd", LINES_S, LINES_T, labels=longer)[0] == value
    wide_s, wide_t = normal(2, 3, 97), normal(2, 3, 97, seed=1)
    assert run("ctc_dkd", wide_s, wide_t, labels=np.array([[96], [50]]))[0] > 0


def test_db_dilation_is_opencvs():
    maps = (np.random.default_rng(0).random((2, 9, 7)) > 0.8).astype("float32")
    expected = np.stack([cv2.dilate(m.astype("uint8"), np.ones((2, 2), "uint8")) for m in maps])
    np.testing.assert_array_equal(_dilate(paddle.to_tensor(maps)).numpy(), expected)


def test_db_map_without_text_is_dice_alone():
    value, _ = run("db_map", DB[:2], np.zeros_like(DB[2]))
    np.testing.assert_allclose(value, 1.0, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "sides", "arguments", "message"),
    [
        ("ld", (EDGES_S, EDGES_T), {"temperature": 0.0}, r"ld: temperature must be"),
        ("ld", (EDGES_S, EDGES_T), {"weight": np.zeros(2)}, r"weights \[2\] do not fit losses \[2, 3, 4\]"),
        ("dfl", (EDGES_S, EDGES_T), {"target": "mean"}, r"dfl: target must be one of distribution, distance"),
        ("qfl", (LINES_S, LINES_T), {"beta": 0.5}, r"qfl: beta must be 0 or at least 1, got 0\.5"),
        ("ctc_dml", (LINES_S, LINES_T), {"skip_blank": 0.0}, r"ctc_dml: skip_blank must be above 0"),
        ("ctc_mean_kl", (LINES_S, LINES_T), {"temperature": -1.0}, r"ctc_mean_kl: temperature"),
        ("ctc_dkd", (LINES_S, LINES_T), {"labels": WORDS, "alpha": -1.0}, r"ctc_dkd: alpha must be"),
        ("db_map", (DB[:2], DB[2]), {"threshold": 1.0}, r"db_map: threshold must be above 0 and below 1"),
        ("db_map", (DB[:2], DB[2]), {"ratio": 0.0}, r"db_map: ratio must be"),
        ("pseudo_label", (head_maps(0), head_maps(1)), {"threshold": 0.0}, r"pseudo_label: threshold must be"),
        ("pseudo_label", (head_maps(0)[:2], head_maps(1)[:2]), {}, r"one map for each of the 3 masks, got 2 .* and 2"),
        (
            "pseudo_label",
            (head_maps(0), head_maps(0, classes=4)),
            {},
            r"different numbers of classes: \[3, 3, 3, 4, 4, 4\]",
        ),
        (
            "pseudo_label",
            (tuple(x[:, :17].copy() for x in head_maps(0)), head_maps(0)),
            {"masks": YOLO["masks"]},
            r"\[2, 17, 2, 2\] is no head map of 3 anchors",
        ),
    ],
)
def test_refuses_what_makes_no_sense(name, sides, arguments, message):
    with pytest.raises(LossError, match=message):
        run(name, *sides, **arguments)
