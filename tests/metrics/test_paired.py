"""Means, deviations and paired intervals, against printed tables and by hand."""

import math

import pytest

from slim_distill.common.errors import DataError
from slim_distill.metrics import Difference, mean_and_deviation, paired_difference, t_quantile

# Degrees of freedom -> two-sided 95 % and 99 % points, as printed in tables of Student's distribution.
TABLE = {
    1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 5: (2.571, 4.032),
    9: (2.262, 3.250), 10: (2.228, 3.169), 29: (2.045, 2.756), 30: (2.042, 2.750), 120: (1.980, 2.617),
}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_are_those_of_the_printed_table(freedom):
    for level, expected in zip((0.95, 0.99), TABLE[freedom], strict=True):
        assert t_quantile(level, freedom) == pytest.approx(expected, abs=5.1e-4)


def test_quantiles_with_a_closed_form_are_exact():
    assert t_quantile(0.5, 1) == pytest.approx(1, rel=1e-12)  # the upper quartile of Cauchy's distribution
    assert t_quantile(0.95, 2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-12)


def test_interval_of_three_pairs_by_hand():
    # The differences 1, 2, 3 have mean 2 and deviation 1; the half width is 4.3027 / sqrt(3).
    found = paired_difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert (found.pairs, found.mean) == (3, 2)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.verdict == "not established"


def test_pairing_takes_out_what_the_seeds_have_in_common():
    # Seeds differ by 10, the method adds 1 on each: only a paired interval sees it.
    found = paired_difference([11.0, 21.1, 30.9], [10.0, 20.0, 30.0])
    assert found.low == pytest.approx(1 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-5)
    assert found.verdict == "better"
    assert paired_difference([10.0, 20.0, 30.0], [11.0, 21.1, 30.9]).verdict == "worse"


def test_one_pair_has_no_interval():
    assert paired_difference([3.0], [1.0]) == Difference(1, 2.0, None, None)
    assert paired_difference([3.0], [1.0]).verdict == "n/a"
    assert mean_and_deviation([3.0]) == (3.0, None)


def test_deviation_divides_by_one_less():
    assert mean_and_deviation([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(math.sqrt(5 / 3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1.0], []), "1 values for 0 of the control"),
        (lambda: paired_difference([], []), "needs at least one value"),
        (lambda: t_quantile(1.0, 3), "level 1.0 must lie between 0 and 1"),
        (lambda: t_quantile(0.95, 0), "degrees of freedom 0 be at least 1"),
    ],
)
def test_useless_input_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
