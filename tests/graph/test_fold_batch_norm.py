"""Folding batch norms: numbers, names, what must stay."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from slim_distill.common.errors import GraphError, VariableNotFoundError
from slim_distill.graph import FoldBatchNorm, Freeze, merge, name_program, run_passes
from tests.graph.nets import (
    Runner,
    conv,
    detector,
    image,
    norm,
    op_names,
    parameter,
    relative,
    traced,
    with_random_values,
)

pytestmark = pytest.mark.usefixtures("static_mode")

OUTPUTS = ("head", "neck", "small", "dark")
SAME = 1e-5  # largest difference allowed, relative to the largest entry


def frozen(build=detector, **kwargs):
    return with_random_values(run_passes(traced(build, **kwargs), [Freeze()]).program)


def folded(program, *keep):
    return run_passes(program, [FoldBatchNorm(keep)])


@pytest.mark.parametrize("size", [None, 16])
def test_numbers_stay_and_every_norm_is_gone(size):
    program = frozen(size=size)
    result = folded(program)
    assert result.changed
    assert result.notes == ("fold_batch_norm: 5 batch norms folded into their convolutions",)
    assert "pd_op.batch_norm_" not in op_names(result.program)
    before, after = Runner(program), Runner(result.program)
    for batch in (1, 3):
        for a, b in zip(after(image(batch), *OUTPUTS), before(image(batch), *OUTPUTS), strict=True):
            assert relative(a, b) < SAME


def test_the_new_weight_and_bias_are_the_formula_in_double_precision():
    program = frozen()
    values = program.values
    new = folded(program).program.values
    k = values["wide.bn.scale"].astype("float64") / np.sqrt(values["wide.bn.var"].astype("float64") + 1e-5)
    weight = values["wide.weights"] * k.reshape(-1, 1, 1, 1)
    bias = values["wide.bn.offset"] + k * (values["wide.bias"] - values["wide.bn.mean"])
    np.testing.assert_allclose(new["wide.weights.folded"], weight, rtol=1e-6)
    np.testing.assert_allclose(new["wide.bn.tmp_0.bias.folded"].reshape(-1), bias, rtol=1e-6)


def test_names_follow_the_norm_and_old_parameters_are_gone():
    program = frozen()
    result = folded(program).program
    value = result["stem.bn.tmp_0"]
    assert value.get_defining_op().name() == "pd_op.add"
    assert value.get_defining_op().operand_source(0).is_same(result["stem.bn.tmp_0.folded"])
    for gone in ("stem.weights", "stem.bn.mean", "wide.bias", "stem.tmp_0"):
        assert gone in program
        assert gone not in result
        assert gone not in result.values
    assert set(result.values) == set(result.parameters())
    renamed = name_program(result.main, result.startup)
    assert {n: v.id for n, v in renamed.variables.items()} == {n: v.id for n, v in result.variables.items()}


def test_startup_sets_only_the_parameters_that_are_left_but_for_the_new_ones_whose_values_are_known():
    result = folded(frozen()).program
    names = [
        op.str_attr("parameter_name")
        for op in result.startup.global_block().ops
        if op.name() == "builtin.set_parameter"
    ]
    new = {name for name in result.parameters() if name.endswith(".folded")}
    assert len(new) == 2 * 5
    assert sorted(names) == sorted(set(result.parameters()) - new)
    assert new <= set(result.values)


def test_a_second_run_changes_nothing_and_the_input_is_untouched():
    program = frozen()
    before = op_names(program), set(program.variables)
    once = folded(program).program
    again = folded(once)
    assert not again.changed
    assert again.notes == ()
    assert (op_names(program), set(program.variables)) == before


def test_folded_guest_gives_its_numbers_inside_a_host():
    guest = folded(frozen()).program
    host = traced(detector, training=True)
    merged = merge(host, guest)
    inside = Runner(merged)(image(), "teacher_head")[0]
    assert relative(inside, Runner(guest)(image(), "head")[0]) < SAME


def test_a_result_that_is_kept_is_not_folded_away():
    program = frozen()
    result = folded(program, "stem.tmp_0")
    assert op_names(result.program).count("pd_op.batch_norm_") == 1
    assert "fold_batch_norm: stem.bn.tmp_0 stays: the convolution's own result is needed elsewhere" in result.notes
    (a,), (b,) = Runner(result.program)(image(), "stem.tmp_0"), Runner(program)(image(), "stem.tmp_0")
    assert relative(a, b) < SAME


def shared_result(x, *, training):
    y = conv(x, "a", 4)
    return {"out": norm(y, "a.bn", training=training) + y}


def after_pool(x, *, training):
    return {"out": norm(F.avg_pool2d(conv(x, "a", 4), 2), "a.bn", training=training)}


def residual(x, *, training):
    return {"out": norm(conv(x, "a", 4) + x, "a.bn", training=training)}


def computed_weight(x, *, training):
    weight = paddle.tanh(parameter("a.weights", [4, 4, 1, 1]))
    return {"out": norm(F.conv2d(x, weight), "a.bn", training=training)}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (shared_result, "the convolution's own result is needed elsewhere"),
        (after_pool, "it follows pd_op.pool2d, not a convolution"),
        (residual, "what is added before it is no bias parameter"),
        (computed_weight, "the convolution's weight is computed or shared"),
    ],
)
def test_says_why_a_norm_stays(build, reason):
    result = folded(frozen(build))
    assert not result.changed
    (note,) = result.notes
    assert note.endswith(f" stays: {reason}")


def test_an_unknown_value_is_named():
    program = run_passes(traced(detector), [Freeze()]).program
    known = {n: v for n, v in with_random_values(program).values.items() if n != "dark.bn.var"}
    result = folded(program.with_values(known))
    assert "fold_batch_norm: dark.bn.tmp_0 stays: the value of dark.bn.var is not known" in result.notes
    assert op_names(result.program).count("pd_op.batch_norm_") == 1


def test_refuses_a_program_that_is_not_frozen():
    with pytest.raises(GraphError, match=r"pass fold_batch_norm: the program is not frozen.*apply Freeze first"):
        folded(traced(detector))


def test_refuses_to_keep_what_is_not_there():
    with pytest.raises(VariableNotFoundError, match="no variable 'hed'.*did you mean 'head'"):
        folded(frozen(), "hed")
