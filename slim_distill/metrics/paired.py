"""Repeated measurements: mean, spread, and the difference of two methods measured on the same seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from slim_distill.common.errors import DataError

__all__ = ["Difference", "mean_and_deviation", "paired_difference", "t_quantile"]

BISECTIONS = 100


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, and the interval around it; `low` and `high` are None with fewer than two pairs."""

    pairs: int
    mean: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """Whether the interval leaves 0 out: "better", "worse", "not established", or "n/a" without an interval."""
        if self.low is None or self.high is None:
            return "n/a"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not established"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation with divisor n - 1; the latter is None for a single value.

    Raises:
        DataError: no values.
    """
    if not values:
        raise DataError("a mean needs at least one value, found none")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def paired_difference(values: Sequence[float], control: Sequence[float], level: float = 0.95) -> Difference:
    """Return the mean of values[i] - control[i] and its confidence interval.

    Formula: d +- t s / sqrt(n), with d and s the mean and standard deviation of the n differences, and t the two-sided
    quantile of Student's distribution with n - 1 degrees of freedom.

    Args:
        values: one number for each seed.
        control: the control's numbers for the same seeds, in the same order.
        level: of confidence, between 0 and 1.

    Raises:
        DataError: no pairs, or lists of different length.
    """
    if len(values) != len(control):
        raise DataError(f"pairs: {len(values)} values for {len(control)} of the control")
    mean, deviation = mean_and_deviation([v - c for v, c in zip(values, control, strict=True)])
    if deviation is None:
        return Difference(len(values), mean, None, None)
    half = t_quantile(level, len(values) - 1) * deviation / math.sqrt(len(values))
    return Difference(len(values), mean, mean - half, mean + half)


def t_quantile(level: float, freedom: int) -> float:
    """Return t with P(|T| <= t) = level, for Student's T with a whole number of degrees of freedom.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4, finite sums in theta = atan(t / sqrt(freedom)), here bisected.

    Raises:
        DataError: level not between 0 and 1, or fewer than 1 degree of freedom.
    """
    if not 0 < level < 1 or freedom < 1:
        raise DataError(
            f"t quantile: level {level} must lie between 0 and 1, degrees of freedom {freedom} be at least 1"
        )
    low, high = 0.0, math.pi / 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _within(theta: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(theta))."""
    odd = freedom % 2
    cosine = math.cos(theta)
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    total *= math.sin(theta)
    return (theta + total) * 2 / math.pi if odd else total
