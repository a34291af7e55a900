"""Relative errors, and a record of them all: the table of docs/parity.md."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Record", "error", "summary", "summary_error"]


def error(got, want) -> float:
    """Largest difference of any element over the largest wanted magnitude; for a number, its relative error."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.isfinite(got).all()
    difference, size = np.abs(got - want).max(), np.abs(want).max()
    return float(difference / size) if size else float(difference)


def summary(array: np.ndarray) -> dict:
    """What the golden files keep of an array."""
    a = np.asarray(array, np.float64)
    found = {"mean": a.mean(), "first": a.flat[0], "last": a.flat[-1]}
    return {**found, "shape": list(a.shape), "std": a.std(), "l2": np.linalg.norm(a), "abs_sum": np.abs(a).sum()}


def summary_error(got: dict, want: dict) -> float:
    """Largest relative error of a summary; the mean and single elements count against the root mean square."""
    assert got["shape"] == want["shape"]
    rms = want["l2"] / math.sqrt(math.prod(want["shape"]))
    errors = [abs(got[key] - want[key]) / rms for key in ("mean", "first", "last")]
    errors += [abs(got[key] - want[key]) / want[key] for key in ("std", "l2", "abs_sum")]
    assert np.isfinite(errors).all()
    return float(max(errors))


@dataclass
class Record:
    """Everything that was compared: {what: [worst error, limit]}."""

    rows: dict[str, list[float]] = field(default_factory=dict)

    def check(self, what: str, got, want, limit: float) -> None:
        """Assert that the error is within its limit, and note it: for one `what` the worst counts."""
        self.note(what, error(got, want), limit)

    def note(self, what: str, found: float, limit: float) -> None:
        """Note an error that was found by other means."""
        row = self.rows.setdefault(what, [0.0, limit])
        row[0] = max(row[0], float(found))
        assert found <= limit, f"{what}: relative error {found:.3g}, allowed {limit:g}"

    def statistics(self, what: str, got: np.ndarray, want: dict, limit: float) -> None:
        """Compare an array with the summary of the wanted one."""
        self.note(what, summary_error(summary(got), want), limit)

    def write(self, path: Path) -> None:
        """Save all rows as a Markdown table."""
        lines = ["| compared with | worst relative error | allowed |", "|---|---|---|"]
        for what, (found, limit) in sorted(self.rows.items()):
            lines.append(f"| {what} | {found:.1e} | {limit:.0e} |" if found else f"| {what} | 0 | {limit:.0e} |")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
