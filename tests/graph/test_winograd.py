"""A frozen program's 3x3 convolutions by Winograd's algorithm: numbers, names, what stays, refusals."""

import numpy as np
import pytest
from paddle.nn import functional as F

from slim_distill.common.errors import GraphError
from slim_distill.graph import FoldBatchNorm, Freeze, FuseInference, Slice, merge, run_passes
from slim_distill.graph.passes import Winograd, winograd
from tests.graph.nets import Runner, conv, image, norm, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode", "own_kernels")

KEEP = ("inner", "out")


def network(x, *, training):
    """A residual block, leaky ReLU, a 1x1 convolution, stride 2, few channels: all that a detector has."""
    first = F.relu(norm(conv(x, "stem", 16), "stem.bn", training=training))
    a = F.relu(norm(conv(first, "a", 16), "a.bn", training=training))
    b = F.relu(norm(conv(a, "b", 16), "b.bn", training=training) + first)
    point = F.leaky_relu(norm(conv(b, "point", 24, 1), "point.bn", training=training), 0.1)
    inner = F.leaky_relu(norm(conv(point, "inner", 32), "inner.bn", training=training), 0.1)
    half = F.relu(norm(conv(inner, "half", 16, stride=2), "half.bn", training=training))
    return {"inner": inner, "out": conv(half, "out", 20, bias=True)}


@pytest.fixture
def fused():
    program = with_random_values(traced(network, training=False), seed=1)
    return run_passes(program, [Freeze(), Slice(KEEP), FoldBatchNorm(KEEP), FuseInference(KEEP)]).program


def test_what_is_computed_stays_the_same_for_any_size(fused):
    result = run_passes(fused, [Winograd()])
    assert result.summary() == "4 convolutions by Winograd"
    names = op_names(result.program)
    assert names.count("custom_op.slim_winograd") == 3
    assert names.count("custom_op.slim_winograd_sum") == 1
    assert names.count("onednn_op.fused_conv2d") == 3  # few channels, 1x1, stride 2
    before, after = Runner(fused), Runner(result.program)
    for batch, size in ((3, 16), (1, 23), (3, 16), (2, 40)):
        x = image(batch, size, seed=size)
        for a, b in zip(after(x, *KEEP), before(x, *KEEP), strict=True):
            assert relative(a, b) < 1e-5


def test_the_weights_are_transformed_once_and_replace_the_old_ones(fused):
    program = run_passes(fused, [Winograd()]).program
    made = {name for name in program.parameters() if name.endswith(".winograd")}
    assert len(made) == 4
    assert made <= set(program.values)
    assert not {name.removesuffix(".winograd") for name in made} & set(program.parameters())
    assert "custom_op.slim_winograd_weights" not in op_names(program)


def test_a_second_run_changes_nothing_and_the_given_program_is_left_alone(fused):
    before = op_names(fused)
    once = run_passes(fused, [Winograd()]).program
    assert op_names(fused) == before
    again = run_passes(once, [Winograd()])
    assert not again.changed
    assert op_names(again.program) == op_names(once)


def test_it_can_be_merged_and_read_under_its_prefix(fused):
    teacher = run_passes(fused, [Winograd()]).program
    student = with_random_values(traced(network, training=True), seed=2)
    merged = merge(student, teacher)
    for name in KEEP:
        (found,), (expected,) = Runner(merged)(image(), f"teacher_{name}"), Runner(fused)(image(), name)
        assert relative(found, expected) < 1e-5


def test_a_program_that_trains_is_refused():
    with pytest.raises(GraphError, match="pass winograd: the program is not frozen"):
        run_passes(traced(network, training=True), [Winograd()])


def test_without_kernels_it_stays_and_the_line_says_why(fused, monkeypatch):
    monkeypatch.setattr(winograd, "load_kernels", lambda: "this build of Paddle has no libphi.so")
    result = run_passes(fused, [Winograd()])
    assert not result.changed
    assert result.summary() == "nothing to change; 4 stay: no kernels of our own: this build of Paddle has no libphi.so"
    assert np.isfinite(Runner(result.program)(image(), "out")[0]).all()
