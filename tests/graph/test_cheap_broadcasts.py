"""Broadcasts rewritten before the backward pass: same numbers, same names, only where it pays."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.graph import cheap_broadcasts

pytestmark = pytest.mark.usefixtures("static_mode")

FULL = (2, 3, 4, 5)
OPERATORS = {
    "add": paddle.add,
    "subtract": paddle.subtract,
    "multiply": paddle.multiply,
    "divide": paddle.divide,
    "maximum": paddle.maximum,
    "minimum": paddle.minimum,
}


def array(shape, seed):
    return np.random.RandomState(seed).uniform(0.5, 2, shape).astype("float32")


def program(operator, first, second, dynamic):
    """(program, result, gradients of both operands) of weight * operator(first, second), not yet rewritten."""
    main, shapes = static.Program(), (first, second)
    with static.program_guard(main):
        # Axis 0 is the batch: where the operand has it, its size is left open.
        x, y = (
            static.data(f"x{i}", [None if dynamic and k == 0 and n == FULL[0] else n for k, n in enumerate(shape)])
            for i, shape in enumerate(shapes)
        )
        x.stop_gradient = y.stop_gradient = False
        result = operator(x, y)
        total = (result * result).sum()
    return main, (x, y), result, total


def run(main, operands, result, total, feed):
    with static.program_guard(main):
        grads = static.gradients([total], list(operands))
    return static.Executor(paddle.CPUPlace()).run(main, feed=feed, fetch_list=[result, *grads])


def kinds(main):
    return [op.name() for op in main.global_block().ops]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(
    ("first", "second", "added"),
    [
        (FULL, (1, 3, 1, 1), "pd_op.reshape"),
        (FULL, (1, 1, 4, 5), "pd_op.reshape"),
        ((1, 3, 1, 1), FULL, "pd_op.reshape"),
        (FULL, (2, 1, 4, 5), "pd_op.expand_as"),
        (FULL, (1, 3, 1, 5), "pd_op.expand_as"),
        ((2, 3, 1, 1), FULL, "pd_op.expand_as"),
    ],
)
def test_slow_broadcasts_become_plain_ones_with_the_same_numbers(name, first, second, added, dynamic):
    feed = {"x0": array(first, 0), "x1": array(second, 1)}
    plain = run(*program(OPERATORS[name], first, second, dynamic), feed)
    main, operands, result, total = program(OPERATORS[name], first, second, dynamic)
    assert cheap_broadcasts(main) == 1
    assert added in kinds(main)
    value, *gradients = run(main, operands, result, total, feed)
    np.testing.assert_array_equal(value, plain[0])
    for got, expected in zip(gradients, plain[1:], strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert cheap_broadcasts(main) == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FULL, FULL),
        (FULL, (2, 3, 1, 1)),  # a plain loop already
        (FULL, (1, 1, 1, 1)),
        ((2, 1, 4, 1), (1, 3, 1, 5)),  # both repeated
    ],
)
def test_what_is_plain_already_or_needs_both_repeated_stays(first, second):
    main = program(paddle.add, first, second, dynamic=True)[0]
    before = kinds(main)
    assert cheap_broadcasts(main) == 0
    assert kinds(main) == before


def test_other_number_types_stay():
    main = static.Program()
    with static.program_guard(main):
        static.data("x", [2, 3], "int64") + static.data("y", [1, 3], "int64")
    assert cheap_broadcasts(main) == 0
