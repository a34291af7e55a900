"""The line that says what passes did to a program, and why they left some of it alone."""

import dataclasses

import paddle
import pytest

from slim_distill.graph import FoldBatchNorm, Freeze, FuseInference, PlaceKernels, Slice, count_operators, run_passes
from tests.graph.nets import Runner, conv, detector, image, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

KEEP = ("head", "dark")


def frozen(build=detector):
    return with_random_values(run_passes(traced(build, batch=2, size=16), [Freeze()]).program)


def test_counts_are_those_of_the_programs():
    program = frozen()
    cut = run_passes(program, [Slice(("dark",))])
    assert cut.counts == {"operators cut": len(op_names(program)) - len(op_names(cut.program))}
    result = run_passes(program, [FoldBatchNorm(KEEP), FuseInference(KEEP)])
    placed = sum(name.startswith("onednn_op.") for name in op_names(result.program))
    assert result.counts == {"norms folded": 5, "convolutions fused": 6, "operators placed on oneDNN": placed}
    assert result.summary() == (
        f"5 norms folded, 6 convolutions fused, {placed} operators placed on oneDNN; "
        "1 stays: no oneDNN kernel is known for nearest_interp"
    )
    assert count_operators(result.program) < count_operators(program)


def test_reasons_are_counted():
    program = frozen()
    known = {name: value for name, value in program.values.items() if not name.endswith("bn.scale")}
    result = run_passes(
        dataclasses.replace(program, values=known | {"stem.bn.scale": 0}), [FoldBatchNorm(("stem.tmp_0",))]
    )
    assert not result.changed
    assert result.refusals["batch norm, the convolution's own result is needed elsewhere"] == 1
    assert sum(result.refusals.values()) == 5


def test_another_device_is_said_once_with_all_operators():
    program = frozen()
    result = run_passes(program, [PlaceKernels(device="gpu")])
    number = count_operators(program)
    assert result.summary() == f"nothing to change; {number} stay: only CPUs run these kernels, not gpu"


def test_operators_that_onednn_does_not_have_work_beside_those_it_has():
    def build(x, *, training):
        return {"out": paddle.cumsum(paddle.erf(conv(x, "a", 4)), axis=1)}

    program = frozen(build)
    result = run_passes(program, [FuseInference(("out",))])
    x = image(2, 16)
    assert relative(Runner(result.program)(x, "out")[0], Runner(program)(x, "out")[0]) < 1e-5
    assert result.summary() == (
        "1 operators placed on oneDNN; 1 stays: no oneDNN kernel is known for erf; "
        "1 stays: no oneDNN kernel is known for cumsum"
    )
