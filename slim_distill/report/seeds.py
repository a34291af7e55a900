"""A control and recipes over seeds as tables: means, deviations, and paired differences with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slim_distill.common.errors import DataError
from slim_distill.metrics import Difference, mean_and_deviation, paired_difference
from slim_distill.report.tables import markdown_table

__all__ = ["Scores", "Summary", "as_plain", "seed_tables", "summarise"]

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""run -> seed -> {figure: value in 0..1}; the first run is the control, the first figure the one that models are
chosen by."""

NONE = "n/a"


@dataclass(frozen=True)
class Summary:
    """One figure of one run: its values by seed, and what they come to; `difference` is None for the control."""

    values: Mapping[int, float]
    mean: float
    deviation: float | None
    difference: Difference | None


def summarise(scores: Scores, level: float = 0.95) -> dict[str, dict[str, Summary]]:
    """Return {run: {figure: summary}}; runs and figures without any value are left out.

    A difference is taken seed by seed, over the seeds that both the run and the control have.

    Raises:
        DataError: no run has a value.
    """
    if not any(scores.values()):
        raise DataError(f"no run of {', '.join(scores) or 'none'} has been scored")
    control = next(iter(scores))
    summaries: dict[str, dict[str, Summary]] = {}
    for run, seeds in scores.items():
        for figure in dict.fromkeys(figure for figures in seeds.values() for figure in figures):
            values, against = (_of(scores[name], figure) for name in (run, control))
            shared = [seed for seed in values if seed in against]
            difference = None
            if run != control and shared:
                difference = paired_difference([values[s] for s in shared], [against[s] for s in shared], level)
            summary = Summary(values, *mean_and_deviation(list(values.values())), difference)
            summaries.setdefault(run, {})[figure] = summary
    return summaries


def seed_tables(summaries: Mapping[str, Mapping[str, Summary]], control: str, level: float = 0.95) -> str:
    """Return Markdown: a table of the first figure, then means and differences of all figures; values in per cent."""
    figures = list(dict.fromkeys(figure for run in summaries.values() for figure in run))
    parts = [f"## {figures[0]}", _main_table(summaries, figures[0], level)]
    if len(figures) > 1:
        runs = list(summaries)
        parts += [
            "## Every figure: mean ± standard deviation",
            _grid(summaries, figures, runs, _spread),
            f"## Every figure: difference to the control and its {100 * level:g} % interval",
            _grid(summaries, figures, [run for run in runs if run != control], _gain),
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def as_plain(summaries: Mapping[str, Mapping[str, Summary]]) -> dict[str, Any]:
    """Return the summaries as plain data, seeds as text, for JSON."""
    plain = {run: {figure: asdict(summary) for figure, summary in row.items()} for run, row in summaries.items()}
    for row in plain.values():
        for summary in row.values():
            summary["values"] = {str(seed): value for seed, value in summary["values"].items()}
    return plain


def _of(seeds: Mapping[int, Mapping[str, float]], figure: str) -> dict[int, float]:
    return {seed: figures[figure] for seed, figures in seeds.items() if figure in figures}


def _main_table(summaries: Mapping[str, Mapping[str, Summary]], figure: str, level: float) -> str:
    rows = []
    for run, row in summaries.items():
        if figure not in row:
            continue
        summary, gain = row[figure], row[figure].difference
        deviation = NONE if summary.deviation is None else f"{100 * summary.deviation:.1f}"
        seeds = ", ".join(map(str, summary.values))
        change = ["", "", ""] if gain is None else [_signed(gain.mean), _interval(gain), gain.verdict]
        rows.append([run, seeds, f"{100 * summary.mean:.1f}", deviation, *change])
    headers = ["run", "seeds", "mean", "standard deviation", "difference to control", f"{100 * level:g} % interval"]
    return markdown_table([*headers, "verdict"], rows)


def _grid(
    summaries: Mapping[str, Mapping[str, Summary]], figures: Sequence[str], runs: Sequence[str], cell: Any
) -> str:
    """One row a figure, one column a run."""
    return markdown_table(["figure", *runs], [[f, *(cell(summaries[run].get(f)) for run in runs)] for f in figures])


def _spread(summary: Summary | None) -> str:
    if summary is None:
        return NONE
    deviation = NONE if summary.deviation is None else f"{100 * summary.deviation:.1f}"
    return f"{100 * summary.mean:.1f} ± {deviation}"


def _gain(summary: Summary | None) -> str:
    gain = None if summary is None else summary.difference
    return NONE if gain is None else f"{_signed(gain.mean)} {_interval(gain)}"


def _interval(gain: Difference) -> str:
    return NONE if gain.low is None or gain.high is None else f"[{_signed(gain.low)}, {_signed(gain.high)}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"
