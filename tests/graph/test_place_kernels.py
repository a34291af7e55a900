"""Placing single operators of a training program: losses over steps, names, state, refusals."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.utils import unique_name

from slim_distill.graph import (
    FoldBatchNorm,
    Freeze,
    FuseInference,
    PlaceKernels,
    Slice,
    SplitGradients,
    merge,
    name_program,
    run_passes,
)
from slim_distill.graph.convolutions import convolution_name
from tests.graph.nets import Runner, conv, detector, image, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

STEPS = 6
SAME = 1e-4


def merged_training(*, fast_teacher=False, **kwargs):
    """A student and a frozen teacher of the same kind, an l2 term, and Momentum: forward, backward, update."""
    keep = ("head", "neck")
    teacher = with_random_values(run_passes(traced(detector, **kwargs), [Freeze(), Slice(keep)]).program, seed=1)
    if fast_teacher:
        teacher = run_passes(teacher, [FoldBatchNorm(keep), FuseInference(keep)]).program
    program = merge(with_random_values(traced(detector, training=True, **kwargs), seed=2), teacher)
    with static.program_guard(program.main, program.startup), unique_name.guard():
        loss = sum(((program[n] - program[f"teacher_{n}"]) ** 2).mean() for n in keep)
        _, pairs = paddle.optimizer.Momentum(0.01, 0.9, weight_decay=1e-4).minimize(loss)
    named = name_program(program.main, program.startup)
    tags = {f"{parameter.name}@GRAD": gradient for parameter, gradient in pairs}
    names = {name: next(n for n, v in named.variables.items() if v.is_same(value)) for name, value in tags.items()}
    total = next(n for n, v in named.variables.items() if v.is_same(loss))
    return named.with_values(program.values), total, names


def placed(program, **kwargs):
    return run_passes(program, [PlaceKernels(**kwargs)])


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, {}),
        ({"pointwise": True}, {}),
        ({"chosen": frozenset({"deep.weights", "deep.weights@GRAD", "head.weights@GRAD"})}, {}),
        ({}, {"size": 16, "batch": 3}),
    ],
)
def test_losses_and_parameters_agree_over_several_steps(options, sizes):
    program, loss, _ = merged_training(**sizes)
    result = placed(program, **options)
    assert result.changed
    stock, fast = Runner(program), Runner(result.program)
    start = stock.read()
    for step in range(STEPS):
        # A dynamic axis may change at every step, as it does when images of random sizes are trained.
        x = image(3, 16 if sizes or step % 2 else 24, seed=step)
        (a,), (b,) = fast(x, loss), stock(x, loss)
        assert relative(a, b) < SAME
    after, expected = fast.read(), stock.read()
    for name, value in expected.items():
        if name.startswith("teacher_"):
            np.testing.assert_array_equal(after[name], start[name])
        else:
            assert np.abs(after[name] - value).max() <= 1e-3 * np.abs(value - start[name]).max() + 1e-7, name


def test_the_whole_way_agrees_with_the_program_that_was_not_compiled():
    program, loss, _ = merged_training()
    compiled, fast_loss, _ = merged_training(fast_teacher=True)
    stock, fast = Runner(program), Runner(placed(compiled).program)
    losses = [(float(fast(image(seed=i), fast_loss)[0]), float(stock(image(seed=i), loss)[0])) for i in range(STEPS)]
    for a, b in losses:
        assert abs(a - b) < SAME * abs(b)
    assert losses[-1][1] < losses[0][1]


def test_what_moves_by_the_rules():
    program, _, _ = merged_training()
    result = placed(program)
    assert result.notes == (
        "place_kernels: on oneDNN: 6 conv2d, 3 conv2d_grad, 2 depthwise_conv2d, 1 depthwise_conv2d_grad, "
        "2 leaky_relu_grad, 3 relu_grad",
    )
    names = op_names(result.program)
    assert names.count("pd_op.conv2d") == 4  # the 1x1 ones of student and teacher
    assert names.count("pd_op.conv2d_grad") == 2
    everything = op_names(placed(program, pointwise=True).program)
    assert not {"pd_op.conv2d", "pd_op.conv2d_grad", "pd_op.depthwise_conv2d"} & set(everything)


def test_gradients_of_many_weights_move_alone():
    def build(x, *, training):
        many = conv(conv(x, "few", 512, 1), "many", 256, 1)
        return {"out": conv(many, "last", 4, 1)}

    program = with_random_values(traced(build, training=True))
    with static.program_guard(program.main, program.startup), unique_name.guard():
        pairs = static.append_backward((program["out"] ** 2).mean())
    program = name_program(program.main, program.startup).with_values(program.values)
    result = placed(program)
    assert result.notes == ("place_kernels: on oneDNN: 1 conv2d_grad",)
    names = {p.name: next(n for n, v in program.variables.items() if v.is_same(g)) for p, g in pairs}
    assert set(names) == {"few.weights", "many.weights", "last.weights"}
    for a, b in zip(*(Runner(p)(image(), *names.values()) for p in (result.program, program)), strict=True):
        assert relative(a, b) < 1e-5


@pytest.mark.parametrize(
    ("avx512", "expected"),
    [
        (True, "small a@INPUT a b@INPUT b c@INPUT c d@INPUT d"),
        (False, "small a@INPUT b@INPUT c@INPUT c"),
    ],
)
def test_halves_of_gradients_go_by_the_vectors_of_the_cpu(avx512, expected):
    def build(x, *, training):
        x = conv(conv(x, "small", 128), "a", 256)  # 128 x 256 = 2^15 weights at each of nine positions
        return {"out": conv(conv(conv(x, "d", 512, 1), "b", 1024, 1), "c", 1024, 1)}  # 2^17, 2^19, 2^20 weights

    program = with_random_values(traced(build, training=True))
    with static.program_guard(program.main, program.startup), unique_name.guard():
        static.append_backward((program["out"] ** 2).mean())
    halves = run_passes(name_program(program.main, program.startup), [SplitGradients()]).program
    result = placed(halves, avx512=avx512)
    gradients = [op for op in result.program.main.global_block().ops if op.name() == "onednn_op.conv2d_grad"]
    found = {convolution_name(op).replace(".weights", "") for op in gradients}
    assert found == {f"{name}@GRAD" for name in expected.split()}


def test_chosen_names_decide_alone():
    program, _, _ = merged_training()
    chosen = {"deep.weights", "deep.weights@GRAD", "teacher_head.weights"}
    result = placed(program, chosen=frozenset(chosen))
    assert result.notes == (
        "place_kernels: on oneDNN: 1 conv2d, 1 depthwise_conv2d, 1 depthwise_conv2d_grad, "
        "2 leaky_relu_grad, 3 relu_grad",
    )
    assert "conv2d" not in placed(program, chosen=frozenset()).notes[0]


def test_every_name_still_resolves_to_its_number():
    program, loss, gradients = merged_training()
    result = placed(program, pointwise=True).program
    assert set(program.variables) <= set(result.variables)
    assert result.feeds.keys() == program.feeds.keys()
    fetch = [loss, "neck", "stem.tmp_0", "deep.tmp_0", "teacher_head", *gradients.values()]
    for a, b in zip(Runner(result)(image(), *fetch), Runner(program)(image(), *fetch), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e-3 * np.abs(b).max() + 1e-6
    renamed = name_program(result.main, result.startup)
    for name in fetch:
        assert renamed[name].is_same(result[name])


def test_optimizer_state_and_start_values_are_left():
    program, _, _ = merged_training()
    result = placed(program).program
    assert set(result.states()) == set(program.states())
    assert len(result.startup.global_block().ops) == len(program.startup.global_block().ops)


def test_a_second_run_changes_nothing_and_the_input_is_untouched():
    program, _, _ = merged_training()
    before = op_names(program), set(program.variables)
    once = placed(program).program
    assert not placed(once).changed
    assert (op_names(program), set(program.variables)) == before


def test_other_devices_get_a_note_and_no_change():
    program, _, _ = merged_training()
    result = placed(program, device="gpu")
    assert not result.changed
    assert result.notes == ("place_kernels: left alone: only CPUs run these kernels, not gpu",)


def test_other_number_types_stay():
    def build(x, *, training):
        double = paddle.cast(x, "float64")
        weight = static.create_parameter([4, 4, 3, 3], "float64", name="w")
        return {"out": paddle.nn.functional.conv2d(double, weight)}

    result = placed(traced(build))
    assert not result.changed
    assert "pd_op.conv2d" in op_names(result.program)
