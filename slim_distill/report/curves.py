"""Curves and bars, drawn with matplotlib's object interface: no global figure, no window."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from slim_distill.common.errors import DataError
from slim_distill.common.files import atomic_write
from slim_distill.report.seeds import Summary

__all__ = ["ap_bars", "ap_curves", "difference_plot", "loss_curves", "moving_average"]

Series = tuple[Sequence[float], Sequence[float]]

COLOURS = ("#0b6fb8", "#d1495b", "#2b8a4b", "#e08a1e", "#7b4fb3", "#13838c", "#9c5a3c", "#555b66")


def loss_curves(
    runs: Mapping[str, Mapping[str, Series]],
    path: str | Path,
    *,
    title: str = "",
    window: int | None = None,
    log: bool | None = None,
    shares: Collection[str] = (),
) -> Path:
    """Draw one panel for each name of a series, with a line for each run that has it; return the file's path.

    The line is the mean over a window; the values themselves are faint behind it. Values that are not finite leave
    gaps.

    Args:
        runs: run -> {series: (steps, values)}.
        path: the file; its ending says the format (.png, .svg, .pdf).
        title: above all panels.
        window: points averaged; None for a fortieth of the run, 1 for none.
        log: logarithmic axis; None for one where all values are positive and span more than a factor of 30.
        shares: series that are shares of one, whose axis is linear and starts at 0.

    Raises:
        DataError: nothing to draw, steps and values of different length, or the file cannot be written.
    """
    names = list(dict.fromkeys(name for series in runs.values() for name in series))
    if not names:
        raise DataError(f"{path}: no series to draw in {len(runs)} runs")
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = _figure(5.2 * columns if columns > 1 else 7.5, 3.4 * lines + 0.5, title)
    for k, name in enumerate(names):
        axes = figure.add_subplot(lines, columns, k + 1)
        drawn = []
        for number, (run, series) in enumerate(runs.items()):
            if name in series:
                steps, values = _points(f"{run}: {name}", series[name])
                _smoothed_line(axes, steps, values, window, COLOURS[number % len(COLOURS)])
                drawn.append(values)
        if name in shares:
            axes.set_ylim(bottom=0)
        elif _wants_log(drawn) if log is None else log:
            _make_log(axes)
        _label(axes, name, "step", "")
    _add_legend(figure, list(runs))
    return _save(figure, path)


def ap_curves(runs: Mapping[str, Series], path: str | Path, *, title: str = "", ylabel: str = "AP") -> Path:
    """Draw one line with dots for each run: (steps, values at the evaluations); return the file's path.

    Raises:
        DataError: nothing to draw, steps and values of different length, or the file cannot be written.
    """
    if not runs:
        raise DataError(f"{path}: no runs to draw")
    figure = _figure(7.5, 4.2, title)
    axes = figure.add_subplot(1, 1, 1)
    for number, (run, series) in enumerate(runs.items()):
        steps, values = _points(run, series)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, values, "o-", color=colour, markersize=4, linewidth=1.8)
    _label(axes, "", "step", ylabel)
    _add_legend(figure, list(runs))
    return _save(figure, path)


def ap_bars(runs: Mapping[str, Sequence[float]], path: str | Path, *, title: str = "", ylabel: str = "AP") -> Path:
    """Draw a bar for each run at the mean of its values, with a dot for each value (a seed); return the file's path.

    Raises:
        DataError: nothing to draw, a run without values, or the file cannot be written.
    """
    empty = [run for run, values in runs.items() if len(values) == 0]
    if not runs or empty:
        raise DataError(f"{path}: {'no values of ' + ', '.join(empty) if empty else 'no runs to draw'}")
    figure = _figure(max(4.5, 1.6 * len(runs) + 1.2), 4.2, title)
    axes = figure.add_subplot(1, 1, 1)
    for number, values in enumerate(runs.values()):
        mean = float(np.mean(values))
        axes.bar(number, mean, width=0.62, color=COLOURS[number % len(COLOURS)], alpha=0.85)
        if len(values) > 1:
            spread = np.linspace(-0.15, 0.15, len(values)) + number
            axes.plot(spread, values, "o", color="white", markeredgecolor="#222226", markersize=5)
        above = max(mean, float(np.max(values)) if len(values) > 1 else mean)
        axes.annotate(f"{mean:.3g}", (number, above), xytext=(0, 7), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(runs)), list(runs))
    axes.margins(y=0.12)
    _label(axes, "", "", ylabel)
    axes.grid(visible=False, axis="x")
    return _save(figure, path)


def difference_plot(
    summaries: Mapping[str, Summary], path: str | Path, *, title: str = "", label: str = "AP", level: float = 0.95
) -> Path:
    """Draw a line for each run: its value for each seed, and its differences to the control; return the file's path.

    Left the values, right the differences seed by seed with their mean and interval around a line at zero; dots are
    seeds, diamonds means, all in per cent. An interval far wider than the dots leaves the picture; its ends are
    written beside it.

    Args:
        summaries: run -> its summary; the control is the one without differences.
        path: the file; its ending says the format (.png, .svg, .pdf).
        title: above both panels.
        label: the figure's name.
        level: of confidence, for the label.

    Raises:
        DataError: nothing to draw, or the file cannot be written.
    """
    if not summaries:
        raise DataError(f"{path}: no runs to draw")
    control = next((s.values for s in summaries.values() if s.difference is None), {})
    figure = _figure(10.5, 0.62 * len(summaries) + 1.5, title)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.15))
    reach = [0.0]
    for row, summary in enumerate(summaries.values()):
        colour = COLOURS[row % len(COLOURS)]
        _dots(left, row, [100 * v for v in summary.values.values()], 100 * summary.mean, colour)
        gain = summary.difference
        if gain is None:
            continue
        changes = [100 * (v - control[seed]) for seed, v in summary.values.items() if seed in control]
        text = f"{100 * gain.mean:+.1f}  (interval n/a)"
        if gain.low is not None and gain.high is not None:
            low, high = 100 * gain.low, 100 * gain.high
            right.plot([low, high], [row, row], color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
            text = f"{100 * gain.mean:+.1f}  [{low:+.1f}, {high:+.1f}]"
            # As far as the dots reach, three times: an interval of two seeds would hide everything else.
            widest = 3 * max(map(abs, changes))
            reach += [max(low, -widest), min(high, widest)]
        reach += changes
        _dots(right, row, changes, 100 * gain.mean, colour)
        right.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    _finish_rows(left, right, list(summaries), reach)
    _label(left, "", f"{label}, per cent", "")
    _label(right, "", f"difference to the control, points, with its {100 * level:g} % interval", "")
    return _save(figure, path)


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Return [n] means over `window` points around each of the values [n], fewer at the ends.

    Values that are not finite are left out; a point without any finite one near it is NaN.
    """
    valid = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(valid, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(valid)])
    low = np.maximum(np.arange(len(values)) - (window - 1) // 2, 0)
    high = np.minimum(np.arange(len(values)) + window // 2 + 1, len(values))
    near = count[high] - count[low]
    return np.divide(total[high] - total[low], near, out=np.full(len(values), np.nan), where=near > 0)


def _points(where: str, series: Series) -> tuple[np.ndarray, np.ndarray]:
    steps, values = (np.asarray(part, np.float64).reshape(-1) for part in series)
    if len(steps) != len(values):
        raise DataError(f"{where}: {len(steps)} steps for {len(values)} values")
    return steps, values


def _smoothed_line(axes: Axes, steps: np.ndarray, values: np.ndarray, window: int | None, colour: str) -> None:
    points = max(1, len(values) // 40) if window is None else window
    if points > 1:
        axes.plot(steps, np.where(np.isfinite(values), values, np.nan), color=colour, alpha=0.22, linewidth=0.8)
    axes.plot(steps, moving_average(values, points), color=colour, linewidth=1.8)


def _dots(axes: Axes, row: int, values: Sequence[float], mean: float, colour: str) -> None:
    """The mean as a diamond, and above it the seeds as dots, each a little higher so that equal ones stay apart."""
    heights = row - 0.2 - 0.06 * np.arange(len(values)) % 0.24
    axes.plot(values, heights, "o", color=colour, alpha=0.75, markersize=5, markeredgewidth=0)
    axes.plot([mean], [row], "D", color="white", markeredgecolor=colour, markeredgewidth=1.8, markersize=7)


def _finish_rows(left: Axes, right: Axes, runs: Sequence[str], reach: Sequence[float]) -> None:
    margin = 0.06 * (max(reach) - min(reach)) or 1.0
    right.set_xlim(min(reach) - margin, max(reach) + margin)
    right.axvline(0.0, color="#222226", linewidth=1.2)
    left.set_yticks(range(len(runs)), list(runs))
    left.set_ylim(len(runs) - 0.5, -0.5)  # the first run on top
    right.tick_params(axis="y", length=0)


def _wants_log(drawn: Sequence[np.ndarray]) -> bool:
    values = np.concatenate([v[np.isfinite(v)] for v in drawn]) if drawn else np.zeros(0)
    return bool(values.size) and values.min() > 0 and values.max() > 30 * values.min()


def _figure(width_in: float, height_in: float, title: str) -> Figure:
    figure = Figure(figsize=(width_in, height_in), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontweight="bold")
    return figure


def _make_log(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _add_legend(figure: Figure, runs: Sequence[str]) -> None:
    """Name the runs once for all panels, below them; run k has colour k everywhere."""
    if len(runs) > 1:
        lines = [Line2D([], [], color=COLOURS[k % len(COLOURS)], linewidth=2.5) for k in range(len(runs))]
        figure.legend(lines, runs, loc="outside lower center", ncols=min(len(runs), 5), frameon=False)


def _label(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.grid(visible=True, color="#d8d8de", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Figure, path: str | Path) -> Path:
    kind = Path(path).suffix.lstrip(".").lower()
    known: Mapping[str, Any] = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise DataError(f"{path}: no picture format {kind!r}; known: {', '.join(sorted(known))}")
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    with atomic_write(path, error=DataError) as handle:
        handle.write(content.getvalue())
    return Path(path)
