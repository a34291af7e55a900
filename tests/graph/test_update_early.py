"""Moving updates up: the same numbers bit for bit, in every order that a program may ask for."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.nn import functional as F
from paddle.utils import unique_name

from slim_distill.graph import PlaceKernels, UpdateEarly, name_program, run_passes
from tests.graph.nets import Runner, detector, image, op_names, parameter, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

OPTIMIZERS = {
    "momentum": lambda **k: paddle.optimizer.Momentum(0.05, 0.9, weight_decay=1e-3, **k),
    "sgd": lambda **k: paddle.optimizer.SGD(0.05, **k),
    "adamw": lambda **k: paddle.optimizer.AdamW(0.01, **k),
}


def training(optimizer="momentum", build=detector, extra=None, **kwargs):
    """A training program of `build` and the name of its loss; `extra(program)` is built after the update."""
    program = with_random_values(traced(build, training=True))
    with static.program_guard(program.main, program.startup), unique_name.guard():
        loss = sum((program[name] ** 2).mean() for name in ("head", "neck") if name in program)
        OPTIMIZERS[optimizer](**kwargs).minimize(loss)
        if extra is not None:
            extra(program)
    named = name_program(program.main, program.startup)
    total = next(n for n, v in named.variables.items() if v.is_same(loss))
    return named.with_values(program.values), total


def assert_same_training(program, moved, loss, steps=4):
    plain, early = Runner(program), Runner(moved)
    for step in range(steps):
        np.testing.assert_array_equal(early(image(seed=step), loss)[0], plain(image(seed=step), loss)[0])
    after, expected = early.read(), plain.read()
    for name, value in expected.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_the_same_bit_for_bit(optimizer):
    program, loss = training(optimizer)
    result = run_passes(program, [UpdateEarly()])
    assert result.changed
    assert_same_training(program, result.program, loss)


def test_each_update_follows_its_gradient():
    program, _ = training("sgd")
    names = op_names(run_passes(program, [UpdateEarly()]).program)
    first, last_gradient = names.index("pd_op.sgd_"), max(i for i, n in enumerate(names) if n.endswith("_grad"))
    assert first < last_gradient
    assert names.index("pd_op.sgd_") > names.index("pd_op.conv2d_grad")


def test_a_parameter_that_is_read_again_in_the_backward_pass_is_not_overtaken():
    def build(x, *, training):
        w = parameter("w", [4, 4, 1, 1])
        y = F.conv2d(F.tanh(F.conv2d(x, w)), w)  # one weight in two layers
        return {"head": F.conv2d(y, paddle.reshape(parameter("v", [16]), [4, 4, 1, 1]))}

    program, loss = training("momentum", build)
    assert_same_training(program, run_passes(program, [UpdateEarly()]).program, loss)


def test_operators_behind_the_updates_still_see_new_values():
    def average(program):
        weight = program["stem.weights"]
        mean = parameter("average", weight.shape, trainable=False)
        paddle.assign(mean * 0.5 + weight * 0.5, mean)

    program, loss = training("momentum", extra=average)
    result = run_passes(program, [UpdateEarly()])
    assert result.changed
    assert_same_training(program, result.program, loss)


def test_clipping_by_global_norm_holds_the_updates_back():
    program, loss = training("momentum", grad_clip=paddle.nn.ClipGradByGlobalNorm(0.1))
    result = run_passes(program, [UpdateEarly()])
    assert_same_training(program, result.program, loss)
    names = op_names(result.program)
    assert names.index("pd_op.momentum_") > max(i for i, n in enumerate(names) if n.endswith("conv2d_grad"))


def test_a_second_run_changes_nothing_and_names_stay():
    program, _ = training()
    before = op_names(program)
    once = run_passes(program, [PlaceKernels(), UpdateEarly()]).program
    again = run_passes(once, [UpdateEarly()])
    assert not again.changed
    assert again.notes == ()
    assert op_names(program) == before
    assert set(program.variables) <= set(once.variables)
