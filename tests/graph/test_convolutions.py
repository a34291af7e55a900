"""Convolutions taken out of a training program: which ones, their keys, and the numbers they give alone."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.utils import unique_name

from slim_distill.graph import Freeze, PlaceKernels, convolution_layers, merge, name_program, run_passes
from tests.graph.nets import Runner, conv, detector, image, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

BATCH, SIZE = 3, 16


def training(build=detector, output="head"):
    program = with_random_values(traced(build, batch=BATCH, size=SIZE, training=True))
    teacher = run_passes(traced(build, batch=BATCH, size=SIZE), [Freeze()]).program
    program = merge(program, with_random_values(teacher))
    with static.program_guard(program.main, program.startup), unique_name.guard():
        loss = ((program[output] - program[f"teacher_{output}"]) ** 2).mean()
        paddle.optimizer.SGD(0.1).minimize(loss)
    return name_program(program.main, program.startup).with_values(program.values)


def feeds(program, seed=0):
    rng = np.random.RandomState(seed)
    return {name: rng.randn(*value.shape).astype("float32") for name, value in program.feeds.items()}


def run(program, batch):
    names = [name for name in program.variables if name not in program.feeds]
    values = [program[name] for name in names]
    with static.scope_guard(static.Scope()):
        return static.Executor(paddle.CPUPlace()).run(program.main, feed=dict(batch), fetch_list=values)


def test_what_trains_comes_with_its_gradient():
    program = training()
    before = op_names(program)
    layers = {layer.name: layer for layer in convolution_layers(program)}
    student = ["stem.weights", "deep.weights", "wide.weights", "dark.weights", "neck.weights", "head.weights"]
    forward = [*student, *(f"teacher_{name}" for name in student)]
    assert list(layers) == [*forward, *(f"{name}@GRAD" for name in reversed(student))]
    kinds = {name: [n for n in op_names(layer.program) if n != "pd_op.data"] for name, layer in layers.items()}
    assert kinds["stem.weights"] == ["pd_op.conv2d"]
    assert kinds["stem.weights@GRAD"] == ["pd_op.conv2d_grad"]
    assert kinds["deep.weights@GRAD"] == ["pd_op.depthwise_conv2d_grad"]
    assert kinds["teacher_stem.weights"] == ["pd_op.conv2d"]
    assert op_names(program) == before


def test_layers_of_equal_shape_share_a_key_and_others_do_not():
    def build(x, *, training):
        return {"out": conv(conv(conv(conv(x, "a", 4), "b", 4), "c", 4, stride=2), "d", 4)}

    keys = {layer.name: layer.key for layer in convolution_layers(training(build, "out"))}
    # The third layer has a stride; the fourth sees smaller images; the first one's image takes no gradient.
    assert len({keys[f"{name}.weights"] for name in "acd"}) == 3
    assert keys["teacher_a.weights"] == keys["teacher_b.weights"] == keys["b.weights"] == keys["a.weights"]
    assert len({keys[f"{name}.weights@GRAD"] for name in "abcd"}) == 4


def test_a_layer_alone_computes_what_it_computes_in_its_program():
    program = training()
    layer = next(layer for layer in convolution_layers(program) if layer.name == "teacher_stem.weights")
    x = image(BATCH, SIZE)
    (alone,) = run(layer.program, {"operand_0": x, "operand_1": program.values["teacher_stem.weights"]})
    (inside,) = Runner(program)(x, "teacher_stem.tmp_0")
    np.testing.assert_array_equal(alone, inside)


def test_both_kernels_of_every_layer_give_the_same_numbers():
    for layer in convolution_layers(training()):
        placed = run_passes(layer.program, [PlaceKernels(pointwise=True)])
        assert placed.changed
        batch = feeds(layer.program)
        for stock, fast in zip(run(layer.program, batch), run(placed.program, batch), strict=True):
            assert relative(fast, stock) < 1e-5
