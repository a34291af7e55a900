"""Convolutions in 16 bits: close to float32, and only where they are wanted."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.utils import unique_name

from slim_distill.common.errors import GraphError
from slim_distill.graph import FoldBatchNorm, Freeze, FuseInference, dtype_of, run_passes
from slim_distill.graph.passes import ReducePrecision
from tests.graph.nets import (
    Runner,
    conv,
    detector,
    image,
    op_names,
    parameter,
    relative,
    runs_bfloat16,
    traced,
    with_random_values,
)

pytestmark = pytest.mark.usefixtures("static_mode")

KEEP = ("head", "neck", "small")
KINDS = ("conv2d", "depthwise_conv2d", "matmul")


@pytest.fixture
def fused():
    program = with_random_values(traced(detector))
    return run_passes(program, [Freeze(), FoldBatchNorm(KEEP), FuseInference(KEEP)]).program


@runs_bfloat16
def test_bfloat16_convolutions_are_close_and_what_is_kept_stays_float32(fused):
    result = run_passes(fused, [ReducePrecision(KEEP)])
    names = op_names(result.program)
    assert result.changed
    assert dict(result.counts) == {"convolutions in bfloat16": names.count("onednn_op.fused_conv2d")}
    assert {dtype_of(result.program[name]) for name in KEEP} == {"float32"}
    exact, reduced = Runner(fused)(image(), *KEEP), Runner(result.program)(image(), *KEEP)
    errors = [relative(a, b) for a, b in zip(reduced, exact, strict=True)]
    # Eight significant bits: a rounding error is 1/512 at most, and some of the seven layers' add up.
    assert 1e-4 < max(errors) < 3e-2
    runner = Runner(result.program)
    for a, b in zip(runner(image(), *KEEP), runner(image(), *KEEP), strict=True):
        np.testing.assert_array_equal(a, b)


def test_numbers_stay_in_bfloat16_from_convolution_to_convolution():
    def chain(x, *, training):
        for name in "abc":
            x = conv(x, name, 8, bias=True)
        return {"head": x}

    program = run_passes(with_random_values(traced(chain)), [Freeze(), FuseInference(("head",))]).program
    names = op_names(run_passes(program, [ReducePrecision(("head",))]).program)
    assert names.count("onednn_op.quantize") == 1
    assert names.count("onednn_op.dequantize") == 1


def test_a_second_run_changes_nothing_and_the_given_program_is_untouched(fused):
    before = str(fused.main)
    once = run_passes(fused, [ReducePrecision(KEEP)]).program
    assert str(fused.main) == before
    assert not run_passes(once, [ReducePrecision(KEEP)]).changed


def test_without_fused_convolutions_nothing_changes():
    program = run_passes(traced(detector), [Freeze()]).program
    assert not run_passes(program, [ReducePrecision(KEEP)]).changed


def test_elsewhere_each_convolution_is_cast_and_cast_back():
    """No other device is here, and Paddle has no 16-bit convolution for CPUs: 64 bits show that the wiring is right."""
    program = run_passes(with_random_values(traced(detector)), [Freeze()]).program
    result = run_passes(program, [ReducePrecision(KEEP, "float64", "gpu")])
    names = op_names(result.program)
    convolutions = [n for n in names if n.endswith("conv2d")]
    assert len(convolutions) == result.counts["convolutions in float64"] == 6
    assert names.count("pd_op.cast") == 3 * 6
    got, expected = Runner(result.program)(image(), *KEEP), Runner(program)(image(), *KEEP)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float32
        assert relative(a, b) < 1e-5
    half = run_passes(program, [ReducePrecision(KEEP, "bfloat16", "gpu")]).program
    kinds = [op.operand_source(1).dtype for op in half.main.global_block().ops if op.name().endswith("conv2d")]
    assert len(kinds) == 6
    assert {str(kind).rsplit(".", 1)[-1].lower() for kind in kinds} == {"bfloat16"}
    assert not run_passes(result.program, [ReducePrecision(KEEP, "float64", "gpu")]).changed


def mixed(x, *, training):
    """Convolutions of both kinds, a product with a parameter, and one without, which may belong to a loss."""
    y = conv(conv(x, "full", 8), "depthwise", 8, groups=8)
    logits = paddle.matmul(paddle.mean(y, [2, 3]), parameter("table", [5, 8]), transpose_y=True)
    return {"head": paddle.matmul(logits, logits, transpose_y=True)}


def trained(*passes):
    """(the number types of the gradient operators of a training step, the parameters after one)."""
    program = with_random_values(traced(mixed, training=True))
    program = run_passes(program, passes).program if passes else program
    with static.program_guard(program.main, program.startup), unique_name.guard():
        paddle.optimizer.SGD(5.0).minimize((program["head"] ** 2).mean())
    runner = Runner(program)
    runner(image(), "head")
    kinds = [f"pd_op.{kind}_grad" for kind in KINDS]
    types = [dtype_of(op.operand_source(0)) for op in program.main.global_block().ops if op.name() in kinds]
    return types, runner.read()


def test_what_trains_computes_its_gradients_in_the_other_type_and_keeps_its_parameters():
    """On 64 bits, as above: the numbers are those of float32, and the backward pass is in the other type too."""
    types, after = trained(ReducePrecision((), "float64", "gpu"))
    plain, expected = trained()
    assert types == ["float32", *["float64"] * 3]
    assert plain == ["float32"] * 4
    before = with_random_values(traced(mixed, training=True)).values
    assert set(after) == {"full.weights", "depthwise.weights", "table"}
    for name, array in after.items():
        assert array.dtype == np.float32
        assert relative(array, before[name]) > 1e-3
        assert relative(array, expected[name]) < 1e-6
    result = run_passes(traced(mixed, training=True), [ReducePrecision((), "bfloat16", "gpu")])
    assert dict(result.counts) == {"convolutions in bfloat16": 2, "matrix products in bfloat16": 1}


def test_refusals_say_why():
    program = traced(detector)
    with pytest.raises(GraphError, match="not frozen, so its precision may not be reduced"):
        run_passes(program, [ReducePrecision(KEEP)])
    with pytest.raises(GraphError, match="float16: on a CPU convolutions can be reduced to bfloat16 only"):
        run_passes(program, [Freeze(), ReducePrecision(KEEP, "float16")])
