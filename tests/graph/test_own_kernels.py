"""Norms, depthwise convolutions and updates on kernels of our own: numbers, names, what stays, refusals."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.nn import functional as F
from paddle.utils import unique_name

from slim_distill.graph import (
    FuseNorms,
    OwnKernels,
    PlaceKernels,
    SplitGradients,
    UpdateEarly,
    name_program,
    operator_costs,
    run_passes,
)
from slim_distill.graph.passes import fuse_norms, own_kernels
from tests.graph.nets import Runner, conv, detector, image, norm, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode", "own_kernels")

BOTH = [FuseNorms(), OwnKernels()]
STEPS = 5


def training(build, optimizer=None):
    """A program with its update: (program, name of the loss, {gradient's tag: its name})."""
    program = with_random_values(traced(build, training=True), seed=2)
    with static.program_guard(program.main, program.startup), unique_name.guard():
        names = [n for n in program.variables if n in ("head", "neck", "out")]
        loss = sum((program[n] ** 2).mean() for n in names)
        _, pairs = (optimizer or paddle.optimizer.Momentum(0.01, 0.9, weight_decay=1e-4)).minimize(loss)
    named = name_program(program.main, program.startup)

    def find(value):
        return next(n for n, v in named.variables.items() if v.is_same(value))

    gradients = {parameter.name: find(gradient) for parameter, gradient in pairs}
    return named.with_values(program.values), find(loss), gradients


def rewritten(program, passes=BOTH):
    return run_passes(program, passes)


def one_norm(activation):
    def build(x, *, training):
        return {"out": conv(activation(norm(conv(x, "a", 6), "bn", training=training)), "b", 4)}

    return build


@pytest.mark.parametrize("passes", [BOTH, [*BOTH, PlaceKernels(), UpdateEarly()]])
def test_losses_parameters_and_statistics_agree_over_several_steps(passes, monkeypatch):
    monkeypatch.setattr(own_kernels, "_UPDATE_FROM", 1)
    program, loss, _ = training(detector)
    result = rewritten(program, passes)
    stock, fast = Runner(program), Runner(result.program)
    start = stock.read()
    for step in range(STEPS):
        x = image(3, 16 if step % 2 else 24, seed=step)
        (a,), (b,) = fast(x, loss), stock(x, loss)
        assert relative(a, b) < 1e-5
    after, expected = fast.read(), stock.read()
    assert set(after) == set(expected)
    for name, value in expected.items():
        assert np.abs(value - start[name]).max() > 0
        assert np.abs(after[name] - value).max() <= 1e-4 * np.abs(value - start[name]).max() + 1e-7, name


def test_what_is_exchanged_and_what_stays(monkeypatch):
    monkeypatch.setattr(own_kernels, "_UPDATE_FROM", 8 * 9)
    program, _, _ = training(detector)
    before, names = op_names(program), op_names(rewritten(program).program)
    assert names.count("custom_op.slim_batch_norm_") == before.count("pd_op.batch_norm_") == 5
    assert names.count("custom_op.slim_batch_norm_backward") == 5
    assert not [n for n in names if "batch_norm" in n and n.startswith("pd_op.")]
    assert names.count("custom_op.slim_depthwise_conv2d") == before.count("pd_op.depthwise_conv2d") == 1
    assert names.count("custom_op.slim_depthwise_conv2d_backward") == 1
    # One relu stands behind a sum.
    assert [n.rstrip("_") for n in names if "relu" in n] == ["pd_op.relu", "pd_op.relu_grad"]
    large = sum(np.size(v) >= 72 for n, v in program.values.items() if n.endswith((".weights", ".bias")))
    assert names.count("custom_op.slim_momentum_") == large > 0
    assert names.count("pd_op.momentum_") == before.count("pd_op.momentum_") - large > 0
    assert op_names(program) == before


@pytest.mark.parametrize("activation", [F.relu, lambda v: F.leaky_relu(v, 0.1), F.sigmoid, lambda v: v])
def test_gradients_and_names_for_each_activation(activation):
    program, loss, gradients = training(one_norm(activation))
    result = rewritten(program)
    assert result.counts["norms fused"] == 1
    fused = "relu" not in " ".join(op_names(result.program)) and "sigmoid" not in " ".join(op_names(result.program))
    assert fused == (activation is not F.sigmoid)
    assert set(gradients) == {"a.weights", "b.weights", "bn.scale", "bn.offset"}
    fetch = [loss, "out", *gradients.values()]
    for a, b in zip(Runner(result.program)(image(), *fetch), Runner(program)(image(), *fetch), strict=True):
        assert relative(a, b) < 1e-5


def test_a_norm_that_something_else_reads_keeps_its_result():
    def build(x, *, training):
        y = norm(conv(x, "a", 6), "bn", training=training)
        return {"out": conv(F.relu(y), "b", 4), "neck": y}

    program, loss, _ = training(build)
    result = rewritten(program)
    names = [name.rstrip("_") for name in op_names(result.program)]
    assert "pd_op.relu" in names
    assert "pd_op.relu_grad" in names
    for a, b in zip(*(Runner(p)(image(), loss, "neck") for p in (result.program, program)), strict=True):
        assert relative(a, b) < 1e-5


def test_norms_in_test_mode_other_layouts_and_programs_without_gradients_stay():
    def frozen(x, *, training):
        del training
        return {"out": norm(conv(x, "a", 6), "bn", training=False)}

    program, _, _ = training(frozen)
    assert not rewritten(program, [FuseNorms()]).changed
    forward = with_random_values(traced(one_norm(F.relu), training=True))
    assert not rewritten(forward, [FuseNorms()]).changed


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(5, 1, 4), (3, 3, 4), (3, 1, 2)])
def test_other_convolutions_stay(kernel, stride, groups):
    def build(x, *, training):
        return {"out": conv(conv(x, "a", 4, kernel, stride=stride, groups=groups), "b", 4)}

    program, _, _ = training(build)
    assert not rewritten(program, [OwnKernels()]).changed


def wide(x, *, training):
    first = F.relu(norm(conv(x, "first", 16), "bn", training=training))
    second = conv(first, "second", 20)
    return {"out": conv(conv(second, "third", 24, stride=2), "last", 8, 1), "neck": second}


def test_convolutions_of_many_channels_go_by_winograd_with_their_gradients():
    program, loss, gradients = training(wide)
    program = run_passes(program, [SplitGradients()]).program
    result = rewritten(program, [OwnKernels()])
    names = op_names(result.program)
    assert result.notes == ("own_kernels: own kernels: 1 conv2d, 2 conv2d_grad",)
    assert names.count("custom_op.slim_winograd") == names.count("custom_op.slim_winograd_weights") == 2
    assert names.count("custom_op.slim_winograd_weights_backward") == 1
    fetch = [loss, "neck", *gradients.values()]
    assert set(gradients) >= {"first.weights", "second.weights", "third.weights", "last.weights"}
    for size in (16, 23):
        x = image(3, size)
        for a, b in zip(Runner(result.program)(x, *fetch), Runner(program)(x, *fetch), strict=True):
            assert relative(a, b) < 1e-5


def test_weights_that_are_many_are_not_transformed_at_every_step():
    program, _, _ = training(wide)
    names = op_names(rewritten(program, [SplitGradients(), OwnKernels(transform_below=16 * 20)]).program)
    assert "custom_op.slim_winograd" not in names
    assert "custom_op.slim_winograd_weights_backward" in names


def test_nesterov_and_other_optimizers(monkeypatch):
    monkeypatch.setattr(own_kernels, "_UPDATE_FROM", 1)
    nesterov, _, _ = training(one_norm(F.relu), paddle.optimizer.Momentum(0.1, 0.8, use_nesterov=True))
    result = rewritten(nesterov)
    stock, fast = Runner(nesterov), Runner(result.program)
    for step in range(STEPS):
        stock(image(seed=step), "out"), fast(image(seed=step), "out")
    assert "custom_op.slim_momentum_" in op_names(result.program)
    for name, value in stock.read().items():
        np.testing.assert_allclose(fast.read()[name], value, rtol=1e-4, atol=1e-6)
    adam, _, _ = training(one_norm(F.relu), paddle.optimizer.Adam(0.1))
    assert op_names(rewritten(adam).program).count("pd_op.adam_") == op_names(adam).count("pd_op.adam_")


def test_a_second_run_changes_nothing():
    program, _, _ = training(detector)
    once = rewritten(program).program
    again = rewritten(once)
    assert not again.changed
    assert op_names(again.program) == op_names(once)


def test_without_kernels_everything_stays_and_the_line_says_why(monkeypatch):
    for module in (fuse_norms, own_kernels):
        monkeypatch.setattr(module, "load_kernels", lambda: "there is no C++ compiler 'g++'; install one or set CXX")
    program, _, _ = training(detector)
    result = rewritten(program)
    assert not result.changed
    assert result.summary() == (
        "nothing to change; 7 stay: no kernels of our own: there is no C++ compiler 'g++'; install one or set CXX"
    )


def test_costs_are_those_of_paddles_operators():
    def costs(program):
        found = {}
        for cost in operator_costs(program):
            kind = cost.kind.removeprefix("own.")
            if kind in ("batch_norm", "batch_norm_grad", "depthwise_conv2d", "depthwise_conv2d_grad"):
                found.setdefault(kind, []).append((cost.phase, cost.flops, cost.parameters))
        return found

    program, _, _ = training(lambda x, training: detector(paddle.reshape(x, [2, 4, 16, 16]), training=training))
    assert costs(rewritten(program).program) == costs(program)
