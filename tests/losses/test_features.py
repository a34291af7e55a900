"""Relations between losses on features, what they refuse, and the layers that they own."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import LossError
from slim_distill.losses import LOSSES, Layers
from tests.losses.cases_basic import normal

S, T = normal(3, 4, 4, 6), normal(3, 4, 4, 6, seed=1)
BOXES = np.array([[[0.5, 0.5, 0.4, 0.4]]] * 3)


def run(name, student, teacher, **arguments):
    """Value and gradient of a loss on arrays."""
    student = paddle.to_tensor(student, stop_gradient=False)
    given = {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    loss = LOSSES[name](student, paddle.to_tensor(teacher), **given)
    loss.backward()
    return float(loss), student.grad.numpy()


def test_cwd_of_one_channel_is_kd_over_positions():
    for temperature in (1.0, 4.0):
        value, gradient = run("cwd", S[:, :1].copy(), T[:, :1].copy(), temperature=temperature)
        rows = (S[:, 0].reshape(3, -1), T[:, 0].reshape(3, -1))
        kd, kd_gradient = run("kd", *rows, temperature=temperature)
        np.testing.assert_allclose(value, kd, rtol=1e-12)
        np.testing.assert_allclose(gradient.reshape(3, -1), kd_gradient, rtol=0, atol=1e-14)


def test_smooth_l1_tends_to_l1_and_to_half_l2():
    np.testing.assert_allclose(run("smooth_l1", S, T, beta=1e-9)[0], run("l1", S, T)[0], rtol=1e-6)
    np.testing.assert_allclose(run("smooth_l1", S, T, beta=1e3)[0] * 1e3, run("l2", S, T)[0] / 2, rtol=1e-9)


@pytest.mark.parametrize("name", ["l1", "l2", "smooth_l1", "cosine", "at", "cwd", "pkd", "nst", "ickd"])
def test_mean_losses_do_not_grow_with_the_batch(name):
    twice = run(name, np.concatenate([S, S]), np.concatenate([T, T]))[0]
    # pkd: unbiased statistics of 72 and of 144 values differ by a factor of 71 / 72 * 144 / 143.
    np.testing.assert_allclose(twice, run(name, S, T)[0], rtol=1e-2 if name == "pkd" else 1e-9)


@pytest.mark.parametrize("name", ["ab", "ofd"])
def test_sums_grow_with_the_image_and_not_with_the_batch(name):
    value = run(name, S, T)[0]
    np.testing.assert_allclose(run(name, np.concatenate([S, S]), np.concatenate([T, T]))[0], value, rtol=1e-9)
    wide = run(name, np.concatenate([S, S], 3), np.concatenate([T, T], 3))[0]
    np.testing.assert_allclose(wide, 2 * value, rtol=1e-9)


def test_ab_is_zero_beyond_the_margin_on_the_teachers_side():
    assert run("ab", 1.5 * np.sign(T), T, margin=1.5)[0] == 0
    assert run("ab", 1.4 * np.sign(T), T, margin=1.5)[0] > 0


def test_ofd_ignores_what_the_relu_cuts_off_in_both():
    teacher = -np.abs(T)
    margin = np.full(4, -0.5)
    value, gradient = run("ofd", np.full_like(S, -3.0), teacher, margin=margin)
    assert value == 0
    assert not gradient.any()
    assert run("ofd", np.full_like(S, 0.5), teacher, margin=margin)[0] > 0


def test_ofd_of_a_rarely_negative_channel_uses_three_deviations():
    arguments = {"scale": np.full(4, 0.1), "offset": np.full(4, 2.0)}
    assert run("ofd", S, T, **arguments)[0] == pytest.approx(run("ofd", S, T, margin=np.full(4, -0.3))[0], rel=1e-12)


def test_pkd_ignores_scale_and_shift_of_channels_and_is_one_minus_correlation():
    scale, shift = normal(1, 4, 1, 1, seed=8) ** 2 + 0.5, normal(1, 4, 1, 1, seed=9)
    np.testing.assert_allclose(run("pkd", S * scale + shift, T)[0], run("pkd", S, T)[0], rtol=1e-5)
    rows_s, rows_t = (x.transpose(1, 0, 2, 3).reshape(4, -1) for x in (S, T))
    correlation = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(rows_s, rows_t, strict=True)])
    np.testing.assert_allclose(run("pkd", S, T)[0], (1 - correlation) * 71 / 72, rtol=1e-5)


def test_relations_ignore_rotation_and_scale_of_the_student():
    rows_s, rows_t = normal(5, 6), normal(5, 6, seed=1)
    turn = np.linalg.qr(normal(6, 6, seed=4))[0]
    for name in ("rkd", "sp", "pkt", "cc"):
        np.testing.assert_allclose(run(name, 3.0 * rows_s @ turn, rows_t)[0], run(name, rows_s, rows_t)[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["at", "cosine", "nst", "pkd", "sp", "rkd", "ickd", "cwd"])
def test_dead_maps_give_finite_gradients(name):
    value, gradient = run(name, np.zeros_like(S), T)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("smooth_l1", {"beta": 0.0}, r"smooth_l1: beta must be a finite number above 0"),
        ("at", {"power": -1.0}, r"at: power must be"),
        ("at", {"convention": "code"}, r"at: convention must be one of paper, reference, got 'code'"),
        ("ab", {"margin": 0.0}, r"ab: margin must be"),
        ("ofd", {"scale": np.ones(4)}, r"ofd: give either margin, or both scale and offset"),
        ("rkd", {"angle": -1.0}, r"rkd: angle must be a finite number of at least 0"),
        ("cc", {"order": 0}, r"cc: order must be at least 1, got 0"),
        ("cwd", {"temperature": 0.0}, r"cwd: temperature must be"),
        ("mgd", {"mask_ratio": 1.0}, r"mgd: mask_ratio must be at least 0 and below 1, got 1\.0"),
        ("mgd", {"masked": "rows"}, r"mgd: masked must be one of positions, channels"),
        ("ft", {"rate": 0.0}, r"ft: rate must leave 1 to 4 channels of the teacher's 4, got rate 0\.0"),
        ("vid", {"variance": 0.0}, r"vid: variance must be"),
        ("fgd", {"boxes": BOXES, "foreground": -1.0}, r"fgd: foreground must be"),
        ("fbkd", {"temperature": 0.0}, r"fbkd: temperature must be"),
        (
            "crd",
            {"index": np.arange(3), "samples": 5, "momentum": 1.0},
            r"crd: momentum must be at least 0 and below 1",
        ),
    ],
)
def test_refuses_numbers_that_make_no_sense(name, arguments, message):
    owned = {"layers": Layers("distill.0.")} if name in ("mgd", "ft", "vid", "fgd", "fbkd", "crd") else {}
    with pytest.raises(LossError, match=message):
        run(name, S, T, **arguments, **owned)


def test_mgd_without_mask_is_plain_feature_regression():
    layers = Layers("distill.0.")
    value = run("mgd", S, T, mask_ratio=0.0, layers=layers)[0]
    made = layers.conv("generator.0", paddle.to_tensor(S), 4, 3)
    made = layers.conv("generator.1", paddle.nn.functional.relu(made), 4, 3)
    np.testing.assert_allclose(value, run("l2", made.numpy(), T)[0] * 4 * 4 * 6, rtol=1e-12)


def test_mgd_hides_the_asked_share_of_positions_in_all_channels_anew_each_time():
    seen = []
    paddle.seed(3)
    for _ in range(2):
        _, gradient = run(
            "mgd", np.abs(normal(8, 4, 16, 16)), normal(8, 4, 16, 16), mask_ratio=0.65, layers=Layers("d.")
        )
        hidden = gradient == 0
        # A hidden position has no gradient in any channel.
        assert (hidden.all(axis=1) == hidden.any(axis=1)).mean() > 0.99
        assert abs(hidden.all(axis=1).mean() - 0.65) < 0.04
        seen.append(hidden)
    assert (seen[0] != seen[1]).any()


@pytest.mark.parametrize("name", ["mgd", "ft", "vid", "fgd", "fbkd", "crd"])
def test_every_owned_layer_gets_a_gradient_in_the_first_step(name):
    arguments = {"fgd": {"boxes": paddle.to_tensor(BOXES)}, "crd": {"index": paddle.arange(3), "samples": 5}}
    layers = Layers("distill.2.")
    student = paddle.to_tensor(S, stop_gradient=False)
    LOSSES[name](student, paddle.to_tensor(T), layers=layers, **arguments.get(name, {})).backward()
    assert layers.trainable
    for parameter in layers.trainable:
        assert parameter.startswith("distill.2.")
        assert np.abs(layers.parameters[parameter].grad.numpy()).max() > 0, parameter


def test_fgd_at_student_equal_to_teacher_leaves_the_relation_part():
    layers = Layers("d.")
    assert run("fgd", T, T, boxes=BOXES, relation=0.0, layers=layers)[0] == pytest.approx(0, abs=1e-12)
    assert run("fgd", T, T, boxes=BOXES, relation=1.0, layers=layers)[0] > 0


def test_fgd_weighs_inside_and_outside_of_boxes_separately():
    """With flat features all attention is 1: a unit difference counts one over the number of cells of its kind."""
    teacher, student = np.zeros((1, 4, 8, 8)), np.zeros((1, 4, 8, 8))
    student[:] = 1.0
    box = np.array([[[0.5, 0.5, 0.24, 0.24]]])  # cells 3 to 5 both ways: 9 of 64
    off = {"attention": 0.0, "relation": 0.0, "boxes": box}
    inside, _ = run("fgd", student, teacher, foreground=1.0, background=0.0, layers=Layers("d."), **off)
    outside, _ = run("fgd", student, teacher, foreground=0.0, background=1.0, layers=Layers("d."), **off)
    np.testing.assert_allclose([inside, outside], [4.0, 4.0], rtol=1e-12)


def test_crd_remembers_the_embeddings_it_saw_and_estimates_its_constant_once():
    layers, index = Layers("d."), np.array([4, 1, 0])
    settings = {"index": index, "samples": 6, "negatives": 5, "width": 3, "momentum": 0.25, "layers": layers}
    run("crd", S, T, **settings)
    constants = [layers.parameters[f"d.constant_{side}"].numpy().item() for side in ("student", "teacher")]
    assert min(constants) > 0
    before = layers.parameters["d.memory_student"].numpy().copy()
    run("crd", S, T, **settings)
    after = layers.parameters["d.memory_student"].numpy()
    embedding = S.reshape(3, -1) @ layers.parameters["d.embed_student.weight"].numpy()
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    mixed = 0.25 * before[index] + 0.75 * embedding
    np.testing.assert_allclose(after[index], mixed / np.linalg.norm(mixed, axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(after[[2, 3, 5]], before[[2, 3, 5]])
    assert constants == [layers.parameters[f"d.constant_{side}"].numpy().item() for side in ("student", "teacher")]


def test_layers_return_one_parameter_for_one_name_and_refuse_another_shape():
    layers, constant = Layers("d."), paddle.nn.initializer.Constant(1.0)
    first = layers.parameter("a", (2, 3), constant)
    assert layers.parameter("a", (2, 3), constant) is first
    with pytest.raises(LossError, match=r"parameter 'd\.a' is \[2, 3\], asked for again as \[3, 2\]"):
        layers.parameter("a", (3, 2), constant)
    with pytest.raises(LossError, match=r"parameter 'd\.b' needs a known shape, got \[-1, 2\]: an axis .* dynamic"):
        layers.parameter("b", (-1, 2), constant)


def test_batch_norm_statistics_are_parameters_that_no_gradient_is_expected_for():
    layers = Layers("d.")
    layers.batch_norm("n", paddle.to_tensor(S))
    assert set(layers.parameters) == {"d.n.mean", "d.n.variance", "d.n.scale", "d.n.offset"}
    assert set(layers.trainable) == {"d.n.scale", "d.n.offset"}


def test_owned_parameters_are_found_trained_and_named_in_a_program(static_mode):
    student, teacher = static.data("s", [None, 4, 4, 6]), static.data("t", [None, 4, 4, 6])
    student.stop_gradient = False
    layers = Layers("distill.1.")
    loss = LOSSES["mgd"](student, teacher, layers=layers, mask_ratio=0.0)
    _, gradients = paddle.optimizer.SGD(1e-3).minimize(loss)
    assert {parameter.name for parameter, _ in gradients} == set(layers.trainable)
    assert set(layers.trainable) == {f"distill.1.generator.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    executor = static.Executor(paddle.CPUPlace())
    executor.run(static.default_startup_program())
    feed = {"s": S.astype("float32"), "t": T.astype("float32")}
    values = [float(executor.run(feed=feed, fetch_list=[loss])[0]) for _ in range(8)]
    assert values[-1] < values[0]
