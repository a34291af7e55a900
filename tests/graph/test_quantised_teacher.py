"""A teacher with fake quantisation: cut and compiled as far as its operators allow, with its numbers kept."""

import paddle
import pytest
from paddle.nn import functional as F

from slim_distill.graph import FoldBatchNorm, Freeze, FuseInference, merge, run_passes
from tests.graph.nets import Runner, conv, image, norm, op_names, parameter, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

KEEP = ("head",)


def quantised(x, *, training):
    """A plain layer, and one whose input and weight are rounded to 8 bits."""
    x = F.relu(norm(conv(x, "stem", 8), "stem.bn", training=training))
    x = paddle._C_ops.fake_quantize_dequantize_abs_max(x, 8, 0)[0]
    weight = paddle._C_ops.fake_channel_wise_quantize_dequantize_abs_max(
        parameter("deep.weights", [8, 8, 3, 3]), 8, 0, 0
    )
    x = F.relu(norm(F.conv2d(x, weight[0], padding=1), "deep.bn", training=training))
    return {"head": conv(x, "head", 4, 1, bias=True)}


def test_what_is_quantised_stays_and_is_named_and_the_rest_is_compiled():
    program = run_passes(with_random_values(traced(quantised)), [Freeze()]).program
    result = run_passes(program, [FoldBatchNorm(KEEP), FuseInference(KEEP)])
    assert dict(result.counts)["norms folded"] == 1
    assert result.refusals["batch norm, the convolution's weight is computed or shared"] == 1
    for kind in ("fake_quantize_dequantize_abs_max", "fake_channel_wise_quantize_dequantize_abs_max"):
        assert result.refusals[f"no oneDNN kernel is known for {kind}"] == 1
        assert f"pd_op.{kind}" in op_names(result.program)
    (expected,) = Runner(program)(image(), *KEEP)
    runner = Runner(merge(with_random_values(traced(quantised)), result.program))
    for _ in range(3):
        # A value that lies on the border between two of the 255 steps may fall to either side.
        assert relative(runner(image(), "teacher_head")[0], expected) < 0.01
