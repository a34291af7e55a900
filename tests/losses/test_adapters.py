"""Adapters and resizing: what they join, what they refuse, and that they are trained."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import LossError, VariableNotFoundError
from slim_distill.losses import Term, bind, bind_all
from slim_distill.losses.adapters import ADAPTERS, adapt, adapted_shapes
from slim_distill.losses.layers import Layers
from tests.losses.cases_basic import normal

SHAPES = {
    "map": [None, 3, 8, 8],
    "tokens": [None, 5, 6],
    "teacher_map": [None, 5, 4, 4],
    "teacher_tall": [None, 3, 4, 4],
    "teacher_tokens": [None, 5, 9],
    "teacher_tokens2": [None, 5, 9],
}


@pytest.fixture
def variables(static_mode):
    found = {name: static.data(name, shape, "float32") for name, shape in SHAPES.items()}
    for name in ("map", "tokens"):
        found[name].stop_gradient = False
    return found


def resolver(variables):
    def resolve(name):
        if name not in variables:
            raise VariableNotFoundError(f"no variable {name!r}")
        return variables[name]

    return resolve


def term(loss, student, teacher, **args):
    return Term(loss, (student,), (teacher,), 1.0, args, "distill.terms[3]")


def feed():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=[2, *shape[1:]]).astype("float32") for name, shape in SHAPES.items()}


@pytest.mark.parametrize(
    ("bound_term", "parameters"),
    [
        (term("l2", "map", "teacher_map", adapter="conv1x1", resize="student"), {"weight", "bias"}),
        (
            term("cwd", "map", "teacher_map", adapter="conv1x1_bn", resize="teacher"),
            {"weight", "norm.scale", "norm.offset"},
        ),
        (term("l1", "tokens", "teacher_tokens", adapter="linear"), {"weight", "bias"}),
    ],
    ids=["conv1x1", "conv1x1_bn", "linear"],
)
def test_adapter_joins_the_shapes_and_all_its_parameters_are_trained(variables, bound_term, parameters):
    bound = bind(bound_term, resolver(variables), index=3)
    loss = bound.build()
    assert set(bound.layers.trainable) == {f"distill.3.adapter.0.{part}" for part in parameters}
    _, pairs = paddle.optimizer.SGD(0.05).minimize(loss)
    assert {parameter.name for parameter, _ in pairs} == set(bound.layers.trainable)
    executor = static.Executor(paddle.CPUPlace())
    executor.run(static.default_startup_program())
    data = feed()
    first, *gradients = executor.run(feed=dict(data), fetch_list=[loss, *(g for _, g in pairs)])
    assert all(np.abs(g).max() > 0 for g in gradients)
    assert [executor.run(feed=dict(data), fetch_list=[loss])[0] for _ in range(5)][-1] < first


@pytest.mark.parametrize("resize", ["student", "teacher"])
def test_resize_is_bilinear_and_leaves_the_other_map_alone(resize):
    student, teacher = normal(2, 3, 8, 8), normal(2, 3, 4, 4, seed=1)
    got = adapt(paddle.to_tensor(student), paddle.to_tensor(teacher), "identity", resize, "a", Layers("d."))
    if resize == "student":  # halving by bilinear interpolation is the mean of 2 x 2
        expected = (student.reshape(2, 3, 4, 2, 4, 2).mean((3, 5)), teacher)
    else:
        assert list(got[1].shape) == [2, 3, 8, 8]
        expected = (student, got[1].numpy())
        inner = 0.75 * (0.75 * teacher[..., 0, 0] + 0.25 * teacher[..., 0, 1]) + 0.25 * (
            0.75 * teacher[..., 1, 0] + 0.25 * teacher[..., 1, 1]
        )
        np.testing.assert_allclose(got[1].numpy()[..., 1, 1], inner, rtol=1e-12)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-12)


def test_resize_follows_an_open_image_size(static_mode):
    student = static.data("s", [None, 3, None, None], "float32")
    teacher = static.data("t", [None, 3, None, None], "float32")
    joined, _ = adapt(student, teacher, "identity", "student", "a", Layers("d."))
    executor = static.Executor(paddle.CPUPlace())
    for size in (4, 6):
        x = normal(2, 3, 8, 8).astype("float32")
        y = np.zeros((2, 3, size, size), "float32")
        assert executor.run(feed={"s": x, "t": y}, fetch_list=[joined])[0].shape == (2, 3, size, size)


def test_identity_makes_no_parameters_and_no_change():
    student, teacher = paddle.to_tensor(normal(2, 3)), paddle.to_tensor(normal(2, 3, seed=1))
    layers = Layers("d.")
    got = adapt(student, teacher, "identity", "none", "a", layers)
    assert got[0] is student
    assert got[1] is teacher
    assert not layers.parameters


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            term("l2", "map", "teacher_map"),
            r"distill\.terms\[3\]: l2 needs equal shapes: student 'map' is \[-1, 3, 8, 8\], teacher 'teacher_map' is "
            r"\[-1, 5, 4, 4\]; adapter: conv1x1_bn joins channels, resize: student joins sizes",
        ),
        (term("l2", "tokens", "teacher_tokens"), r"; adapter: linear joins the last axis"),
        (term("l2", "map", "teacher_map", adapter="conv1x1"), r"needs equal shapes: .*; resize: student joins sizes"),
        (term("l2", "map", "teacher_tall"), r"\[-1, 3, 4, 4\]; resize: student joins sizes$"),
        (
            term("l2", "map", "teacher_map", adapter="conv"),
            r"terms\[3\]\.adapter: adapter 'conv' is not known; did you",
        ),
        (term("l2", "map", "teacher_map", resize="both"), r"terms\[3\]: resize must be one of none, student, teacher"),
        (
            term("l2", "tokens", "teacher_tokens", adapter="conv1x1"),
            r"terms\[3\]\.adapter: conv1x1 joins maps \[N, C, H, W\], got student \[-1, 5, 6\], .* for the last axis",
        ),
        (term("l2", "tokens", "teacher_tokens", resize="student"), r"terms\[3\]\.resize: only maps .* can be resized"),
        (
            Term(
                "dml",
                ("tokens",),
                ("teacher_tokens", "teacher_tokens2"),
                1.0,
                {"adapter": "linear"},
                "distill.terms[3]",
            ),
            r"adapter and resize join variables one by one, but dml got 1 of the student and 2 of the teacher",
        ),
    ],
)
def test_refuses_what_no_adapter_can_join(variables, bad, message):
    with pytest.raises(LossError, match=message):
        bind(bad, resolver(variables))


def test_adapter_with_open_channels_is_refused():
    with pytest.raises(LossError, match=r"t\.adapter: conv1x1 needs a known number of channels"):
        adapted_shapes("t", (-1, -1, 8, 8), (-1, 5, 8, 8), "conv1x1", "none")


def test_terms_of_one_recipe_own_separate_layers(variables):
    terms = [term("l2", "map", "teacher_map", adapter=a, resize="student") for a in ("conv1x1", "conv1x1_bn")]
    bound = bind_all(terms, resolver(variables))
    for one in bound:
        one.build()
    names = [set(one.layers.parameters) for one in bound]
    assert all(name.startswith("distill.0.") for name in names[0])
    assert all(name.startswith("distill.1.") for name in names[1])


def test_every_adapter_is_tested():
    assert set(ADAPTERS) == {"identity", "conv1x1", "conv1x1_bn", "linear"}
