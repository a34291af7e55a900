"""Choosing, from a file's arrays, those that a network wants."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slim_distill.common.errors import WeightsError
from slim_distill.common.names import nearest

__all__ = ["MatchReport", "match_weights"]

SHOWN = 5


@dataclass(frozen=True)
class MatchReport:
    """How the arrays of a file fit the variables of a network.

    Attributes:
        loaded: names that fit, in the network's order.
        missing: wanted, not in the file.
        unexpected: in the file, not wanted.
        wrong_shape: name -> (shape in the file, wanted shape).
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        shapes = [f"{name} {list(found)} (wanted {list(want)})" for name, (found, want) in self.wrong_shape.items()]
        parts = [f"{len(self.loaded)} of {len(self.loaded) + len(self.missing) + len(shapes)} variables fit"]
        for count, what, items in (
            (len(self.missing), "missing", self.missing),
            (len(shapes), "of another shape", shapes),
            (len(self.unexpected), "not wanted", self.unexpected),
        ):
            if count:
                parts.append(f"{count} {what}: {_shorten(items)}")
        return "; ".join(parts)


def match_weights(
    arrays: Mapping[str, np.ndarray], wanted: Mapping[str, Sequence[int]], *, what: str, strict: bool = True
) -> tuple[dict[str, np.ndarray], MatchReport]:
    """Select the arrays that a network wants, by name and shape.

    Args:
        arrays: what the file holds.
        wanted: name -> shape of every variable of the network.
        what: start of messages: which file for which network.
        strict: every wanted variable must be there with its shape. If False, the rule of PaddleDetection's
            `pretrain_weights`: names that exist with the same shape are loaded, everything else is left alone and
            reported. Arrays that are not wanted are reported, never an error.

    Returns:
        The arrays that fit, by name, and the report.

    Raises:
        WeightsError: strict, and a variable is missing or of another shape; or nothing fits at all.
    """
    fitting: dict[str, np.ndarray] = {}
    wrong: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    missing: list[str] = []
    for name, shape in wanted.items():
        if name not in arrays:
            missing.append(name)
        elif tuple(arrays[name].shape) != tuple(shape):
            wrong[name] = (tuple(arrays[name].shape), tuple(shape))
        else:
            fitting[name] = arrays[name]
    unexpected = tuple(name for name in arrays if name not in wanted)
    report = MatchReport(tuple(fitting), tuple(missing), unexpected, wrong)
    if not fitting and (wanted or not strict):
        raise WeightsError(f"{what}: nothing fits, probably weights of another architecture. {report}{_hint(report)}")
    if strict and (missing or wrong):
        raise WeightsError(f"{what}: the weights do not fit. {report}{_hint(report)}")
    return fitting, report


def _shorten(items: Sequence[str]) -> str:
    more = f", ... {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _hint(report: MatchReport) -> str:
    """Say which unexpected name looks like the first missing one."""
    near = nearest(report.missing[0], report.unexpected[:2000], 1) if report.missing else []
    return f"; did the file mean {near[0]!r} by {report.missing[0]!r}?" if near else ""
