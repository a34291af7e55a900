"""Frozen programs on inference kernels: numbers over several runs and sizes, names, refusals."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from slim_distill.common.errors import GraphError, VariableNotFoundError
from slim_distill.graph import FoldBatchNorm, Freeze, FuseInference, Slice, merge, run_passes
from tests.graph.nets import Runner, conv, detector, image, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

OUTPUTS = ("head", "neck", "small", "dark")
SAME = 1e-5


def frozen(build=detector, keep=OUTPUTS, **kwargs):
    return with_random_values(run_passes(traced(build, **kwargs), [Freeze(), Slice(keep)]).program)


def fused(program, keep=OUTPUTS, **kwargs):
    return run_passes(program, [FoldBatchNorm(keep), FuseInference(keep, **kwargs)])


def test_every_convolution_is_fused_with_its_neighbours():
    result = fused(frozen())
    names = op_names(result.program)
    assert names.count("onednn_op.fused_conv2d") == 6
    assert not {"pd_op.conv2d", "pd_op.depthwise_conv2d", "pd_op.relu", "pd_op.leaky_relu"} & set(names)
    assert result.notes[-1].startswith("fuse_inference: 8 operators on oneDNN, 6 of them fused convolutions; native: ")


def test_numbers_stay_run_after_run_and_at_changing_sizes():
    program = frozen()
    before, after = Runner(program), Runner(fused(program).program)
    for batch, size in ((3, 16), (3, 16), (1, 24), (3, 16), (2, 8), (1, 24)):
        x = image(batch, size, seed=size)
        for a, b in zip(after(x, *OUTPUTS), before(x, *OUTPUTS), strict=True):
            assert relative(a, b) < SAME


def test_numbers_stay_without_folding_too():
    program = frozen()
    result = run_passes(program, [FuseInference(OUTPUTS)]).program
    before, after = Runner(program), Runner(result)
    for _ in range(2):
        assert relative(after(image(), "head")[0], before(image(), "head")[0]) < SAME


def test_kept_names_are_readable_by_native_operators_in_a_host():
    program = frozen()
    expected = Runner(program)(image(), *OUTPUTS)
    merged = merge(traced(detector, training=True), fused(program).program)
    with paddle.static.program_guard(merged.main, merged.startup):
        merged["head"].stop_gradient = False
        tripled = [merged[f"teacher_{name}"] * 3.0 for name in OUTPUTS]
    runner = Runner(merged)
    for _ in range(2):
        with paddle.static.scope_guard(runner.scope):
            got = runner.executor.run(merged.main, feed={"image": image()}, fetch_list=tripled)
        for a, b in zip(got, expected, strict=True):
            assert relative(a, 3.0 * b) < SAME


def test_nothing_takes_gradient_and_the_program_stays_frozen():
    result = fused(frozen()).program
    assert result.frozen
    assert result.trainable() == {}
    for op in result.main.global_block().ops:
        assert all(v.stop_gradient for v in op.results() if v.initialized())


def test_names_that_are_left_are_kept_feeds_parameters_and_readable_values():
    result = fused(frozen()).program
    for name, value in result.variables.items():
        assert not value.get_defining_op().name().startswith("onednn_op."), name
    assert set(result.values) == set(result.parameters())
    assert set(result.feeds) == {"image"}


def test_a_second_run_changes_nothing_and_the_input_is_untouched():
    program = frozen()
    before = op_names(program), set(program.variables)
    once = fused(program).program
    assert not fused(once).changed
    assert (op_names(program), set(program.variables)) == before


def test_other_devices_get_a_note_and_no_change():
    program = frozen()
    result = run_passes(program, [FuseInference(OUTPUTS, device="gpu:0")])
    assert not result.changed
    assert result.notes == ("fuse_inference: left alone: only CPUs run these kernels, not gpu:0",)
    assert op_names(result.program) == op_names(program)


def test_an_alias_and_a_feed_may_be_kept():
    def build(x, *, training):
        y = F.relu(conv(x, "a", 4))
        return {"out": y, "conv2d_0.tmp_1": y}

    program = frozen(build, keep=("out",))
    result = run_passes(program, [FuseInference(("conv2d_0.tmp_1", "image"))]).program
    assert result.canonical("conv2d_0.tmp_1") == "out"
    assert relative(Runner(result)(image(), "out")[0], Runner(program)(image(), "out")[0]) < SAME


def test_leaky_relu_that_cannot_be_fused_stays_right():
    def build(x, *, training):
        y = conv(x, "a", 4)
        return {"out": F.leaky_relu(y, 0.3) + y, "plain": F.leaky_relu(x, 0.3)}

    program = frozen(build, keep=("out", "plain"))
    result = run_passes(program, [FuseInference(("out", "plain"))]).program
    for a, b in zip(Runner(result)(image(), "out", "plain"), Runner(program)(image(), "out", "plain"), strict=True):
        assert relative(a, b) < SAME


def test_hard_sigmoid_of_offset_0_beside_leaky_relu_is_not_fused():
    def build(x, *, training):
        return {"out": F.hardsigmoid(conv(F.leaky_relu(conv(x, "a", 4), 0.3), "b", 4), slope=0.2, offset=0.0)}

    program = frozen(build, keep=("out",))
    result = run_passes(program, [FuseInference(("out",))])
    assert any("activations are not fused" in note for note in result.notes)
    for _ in range(2):
        assert relative(Runner(result.program)(image(), "out")[0], Runner(program)(image(), "out")[0]) < SAME


def test_hard_sigmoid_alone_is_fused_and_right():
    def build(x, *, training):
        return {"out": F.hardsigmoid(conv(x, "a", 4))}

    program = frozen(build, keep=("out",))
    result = run_passes(program, [FuseInference(("out",))]).program
    assert relative(Runner(result)(image(), "out")[0], Runner(program)(image(), "out")[0]) < SAME


def test_weights_of_another_program_of_the_same_names_are_not_mixed_up():
    program = frozen()
    other = with_random_values(program, seed=5)
    first, second = Runner(fused(program).program), Runner(fused(other).program)
    plain = Runner(program), Runner(other)
    for _ in range(2):
        assert relative(first(image(), "head")[0], plain[0](image(), "head")[0]) < SAME
        assert relative(second(image(), "head")[0], plain[1](image(), "head")[0]) < SAME
    assert not np.allclose(*(runner(image(), "head")[0] for runner in plain))


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        ((), GraphError, "pass fuse_inference: nothing to keep"),
        (("hed",), VariableNotFoundError, "pass fuse_inference: no variable 'hed'.*did you mean 'head'"),
    ],
)
def test_refusals(keep, error, message):
    with pytest.raises(error, match=message):
        run_passes(frozen(), [FuseInference(keep)])


def test_refuses_a_program_that_is_not_frozen():
    with pytest.raises(GraphError, match=r"the program is not frozen.*apply Freeze first"):
        run_passes(traced(detector), [FuseInference(OUTPUTS)])
