"""Costs of the operators of a program: owners, phases, parameters, bytes."""

import paddle
import pytest
from paddle import static
from paddle.utils import unique_name

from slim_distill.graph import BACKWARD, FORWARD, UPDATE, Freeze, merge, name_program, operator_costs, run_passes
from tests.graph.nets import conv, detector, traced

pytestmark = pytest.mark.usefixtures("static_mode")

BATCH, SIZE = 3, 16


def step(**sizes):
    """Student and frozen teacher of the same kind, l2 between their heads, momentum."""
    teacher = run_passes(traced(detector, **sizes), [Freeze()]).program
    program = merge(traced(detector, training=True, **sizes), teacher)
    with static.program_guard(program.main, program.startup), unique_name.guard():
        loss = ((program["head"] - program["teacher_head"]) ** 2).mean()
        paddle.optimizer.Momentum(0.01, 0.9).minimize(loss)
    named = name_program(program.main, program.startup)
    return type(named)(**{**vars(named), "guests": program.guests})


def total(costs, field, **wanted):
    chosen = [c for c in costs if all(getattr(c, key) == value for key, value in wanted.items())]
    return sum(getattr(c, field) for c in chosen)


def test_forward_and_backward_of_a_merged_step():
    costs = operator_costs(step(batch=BATCH, size=SIZE))
    pixels = BATCH * SIZE * SIZE
    stem, deep, wide, dark, neck, head = 8 * 36, 8 * 9, 8 * 8, 12 * 72 / 4, 10 * 180, 6 * 10
    products = pixels * (stem + deep + wide + dark + neck + head)
    convolutions = [c for c in costs if "conv2d" in c.kind]
    for owner in ("", "teacher_"):
        assert total(convolutions, "flops", phase=FORWARD, owner=owner) == 2 * products
    # Every convolution has two gradients but the first, whose image needs none.
    assert total(convolutions, "flops", phase=BACKWARD) == 2 * pixels * stem + 4 * (products - pixels * stem)
    assert {c.owner for c in costs if c.phase != FORWARD} == {""}
    assert {c.kind for c in costs if c.phase == UPDATE} == {"momentum"}


def test_parameters_count_once_and_bytes_follow_the_number_type():
    def build(x, *, training):
        first = conv(x, "first", 4)
        weight = first.get_defining_op().operand_source(1)
        return {"out": paddle.nn.functional.conv2d(first, weight, padding=1)}

    costs = operator_costs(traced(build, batch=BATCH, size=SIZE))
    assert [(c.kind, c.name, c.parameters, c.weight_bytes) for c in costs] == [
        ("conv2d", "first.tmp_0", 4 * 4 * 9, 4 * 4 * 4 * 9),
        ("conv2d", "out", 0, 0),
    ]
    assert {c.activation_bytes for c in costs} == {4 * BATCH * 4 * SIZE * SIZE}


def test_dynamic_sizes_are_unknown_not_zero():
    costs = operator_costs(step())
    assert {c.flops for c in costs if c.kind == "conv2d"} == {None}
    assert total(costs, "parameters", owner="") > 0


def test_the_window_of_a_pool_is_found():
    def build(x, *, training):
        return {"out": paddle.nn.functional.max_pool2d(x, 4, stride=4)}

    (cost,) = [c for c in operator_costs(traced(build, batch=BATCH, size=SIZE)) if c.kind == "pool2d"]
    assert cost.flops == BATCH * 4 * (SIZE // 4) ** 2 * 16
