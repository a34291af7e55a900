"""Gradients of convolutions in two operators: the same numbers, names, and which ones become one product."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.nn import functional as F
from paddle.utils import unique_name

from slim_distill.graph import PlaceKernels, SplitGradients, name_program, run_passes
from tests.graph.nets import Runner, detector, image, op_names, parameter, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

GRADIENT = "pd_op.conv2d_grad"


def training(build=detector, output="head", **kwargs):
    """Forward, backward and update: the program, its loss, {parameter: name of its gradient}."""
    program = with_random_values(traced(build, training=True, **kwargs))
    with static.program_guard(program.main, program.startup), unique_name.guard():
        loss = (program[output] ** 2).mean()
        _, pairs = paddle.optimizer.Momentum(0.01, 0.9).minimize(loss)
    named = name_program(program.main, program.startup)
    names = {p.name: next(n for n, v in named.variables.items() if v.is_same(g)) for p, g in pairs}
    total = next(n for n, v in named.variables.items() if v.is_same(loss))
    return named.with_values(program.values), total, names


def layer(**settings):
    """A 3x3 convolution of a 1x1 one, so that the input has a gradient too."""

    def build(x, *, training):
        first = F.conv2d(x, parameter("first", [6, 4, 1, 1]))
        shape = [8, 6 // settings.get("groups", 1), *settings.pop("kernel", (3, 3))]
        return {"head": F.conv2d(first, parameter("second", shape), **settings)}

    return build


def split(program, product_from=None):
    return run_passes(program, [SplitGradients() if product_from is None else SplitGradients(product_from)])


@pytest.mark.parametrize("sizes", [{}, {"size": 16, "batch": 3}])
def test_training_is_the_same_bit_for_bit(sizes):
    program, loss, _ = training(**sizes)
    result = split(program)
    assert result.counts == {"gradients split": 4}  # the image takes no gradient, and one convolution is depthwise
    plain, halves = Runner(program), Runner(result.program)
    for step in range(3):
        x = image(3, 16 if sizes or step % 2 else 24, seed=step)
        np.testing.assert_array_equal(halves(x, loss)[0], plain(x, loss)[0])
    after = halves.read()
    for name, value in plain.read().items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_each_half_has_one_result_and_the_weights_come_last():
    program, _, gradients = training()
    result = split(program).program
    ops = [op for op in result.main.global_block().ops if op.name() == GRADIENT]
    assert [[value.initialized() for value in op.results()] for op in ops] == [[True, False], [False, True]] * 4 + [
        [False, True]
    ]
    assert sum(name == GRADIENT for name in op_names(program)) == 5
    by_weight = [op.operand_source(1).id for op in ops]
    assert by_weight[0:8:2] == by_weight[1:8:2]
    weights = {n: v for n, v in result.parameters().items() if n.endswith(".weights") and n != "deep.weights"}
    for name, value in weights.items():
        half = next(op for op in ops if op.operand_source(1).is_same(value) and op.result(1).initialized())
        assert result[gradients[name]].is_same(half.result(1))


@pytest.mark.parametrize("product_from", [None, 1])
def test_every_name_still_resolves_to_its_number(product_from):
    program, loss, gradients = training()
    result = split(program, product_from).program
    assert set(program.variables) <= set(result.variables)
    fetch = [loss, "neck", "stem.tmp_0", *gradients.values()]
    for name, a, b in zip(fetch, Runner(result)(image(), *fetch), Runner(program)(image(), *fetch), strict=True):
        assert a.shape == b.shape
        assert relative(a, b) < 1e-5, name
    renamed = name_program(result.main, result.startup)
    for name in fetch:
        assert renamed[name].is_same(result[name])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": 1},
        {"padding": (2, 0)},
        {"stride": 2, "padding": 1},
        {"stride": (1, 3)},
        {"dilation": 2, "padding": 2},
        {"dilation": (1, 2)},
        {"kernel": (1, 5), "padding": (0, 2)},
        {"kernel": (4, 2), "stride": 2},
    ],
)
@pytest.mark.parametrize("sizes", [{}, {"size": 9, "batch": 3}])
def test_one_product_gives_the_gradient_of_the_weights(settings, sizes):
    program, _, gradients = training(layer(**settings), **sizes)
    result = split(program, product_from=8 * 6)
    assert "pd_op.matmul" in op_names(result.program)
    runs = [Runner(p) for p in (result.program, program)]
    for x in (image(3, 9), image(3 if sizes else 1, 9 if sizes else 14, seed=1)):
        for a, b in zip(*(run(x, *gradients.values()) for run in runs), strict=True):
            assert relative(a, b) < 1e-5


@pytest.mark.parametrize(
    ("settings", "product_from"),
    [
        ({}, 8 * 6 + 1),
        ({"groups": 2}, 1),
        ({"kernel": (1, 1)}, 1),
        ({"padding": "SAME"}, 1),
        ({"padding": [1, 0, 0, 1]}, 1),
    ],
)
def test_other_convolutions_are_only_split(settings, product_from):
    program, loss, _ = training(layer(**settings))
    result = split(program, product_from)
    assert "pd_op.matmul" not in op_names(result.program)
    assert result.counts == {"gradients split": 1}
    np.testing.assert_array_equal(Runner(result.program)(image(), loss)[0], Runner(program)(image(), loss)[0])


def test_a_product_where_the_input_takes_no_gradient():
    program, _, gradients = training()
    result = split(program, product_from=8 * 4)  # stem: 8 x 4; the others that are larger than 1x1 have more
    assert op_names(result.program).count("pd_op.matmul") == 3
    a, b = (Runner(p)(image(), gradients["stem.weights"])[0] for p in (result.program, program))
    assert relative(a, b) < 1e-5


def test_a_convolution_that_is_used_twice_keeps_its_two_gradients_apart():
    def build(x, *, training):
        weight = parameter("w", [4, 4, 3, 3])
        once = F.conv2d(x, weight, padding=1)
        return {"head": F.conv2d(once, weight, padding=2, dilation=2) + F.conv2d(once, weight, padding=1)}

    program, loss, _ = training(build)
    result = split(program)
    assert result.counts == {"gradients split": 2}
    plain, halves = Runner(program), Runner(result.program)
    for step in range(2):
        np.testing.assert_array_equal(halves(image(seed=step), loss)[0], plain(image(seed=step), loss)[0])
    np.testing.assert_array_equal(halves.read()["w"], plain.read()["w"])


@pytest.mark.parametrize("product_from", [None, 1])
def test_a_second_run_changes_nothing_and_the_input_is_untouched(product_from):
    program, _, _ = training()
    before = op_names(program), set(program.variables)
    once = split(program, product_from).program
    assert not split(once, product_from).changed
    assert (op_names(program), set(program.variables)) == before


def test_what_has_no_gradient_stays():
    assert not split(traced(detector)).changed


def test_halves_are_placed_one_by_one():
    program, loss, gradients = training()
    halves = split(program).program
    chosen = frozenset({"dark.weights@INPUT@GRAD", "neck.weights@GRAD"})
    result = run_passes(halves, [PlaceKernels(chosen=chosen)])
    placed = [op for op in result.program.main.global_block().ops if op.name() == "onednn_op.conv2d_grad"]
    assert [[v.initialized() for v in op.results()] for op in placed] == [[False, True], [True, False]]
    fetch = [loss, *(name for weight, name in gradients.items() if weight.endswith(".weights"))]
    for a, b in zip(Runner(result.program)(image(), *fetch), Runner(program)(image(), *fetch), strict=True):
        assert relative(a, b) < 1e-4
