"""What happens beside the steps: progress, records, checkpoints, evaluation, checks."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from slim_distill.engine.loop import Hook

__all__ = ["EverySteps", "Progress", "Recorder", "Scalars"]

log = logging.getLogger(__name__)


class EverySteps(Hook):
    """Call a function with the number of completed steps, every `every` of them and after the last.

    Args:
        every: distance in steps.
        action: called with the number of completed steps.
        overdue: also before the first step, because an earlier process was stopped before it came to that.
    """

    def __init__(self, every: int, action: Callable[[int], None], *, overdue: bool = False) -> None:
        self.every, self.action, self.overdue, self.stop = every, action, overdue, 0

    def before_train(self, start: int, stop: int) -> None:
        """Note where the run ends, and act when overdue."""
        self.stop = stop
        if self.overdue:
            self.action(start)

    def due(self, done: int) -> bool:
        """Whether the function is called after `done` steps."""
        return done % self.every == 0 or done == self.stop

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Act when due."""
        if self.due(step + 1):
            self.action(step + 1)


class Progress(Hook):
    """A progress bar and, every `log_iter` steps, one log line and one report: all three say the same figures.

    Args:
        name: of the run.
        images: in a step, over all devices.
        log_iter: distance of the lines in steps.
        report: is given step, max_iters, images_per_s, remaining_s and losses.
    """

    def __init__(self, name: str, images: int, log_iter: int, report: Callable[..., None]) -> None:
        self.name, self.images, self.log_iter, self.report = name, images, log_iter, report
        self.bar: Any = None
        self.since, self.start = 0.0, 0

    def before_train(self, start: int, stop: int) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=stop, initial=start, desc=self.name, unit="step", dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )  # fmt: skip
        self.since, self.start = time.monotonic(), start
        self.report(step=start, max_iters=stop)

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Move on by one step; the figures follow every `log_iter` steps."""
        done, stop = step + 1, self.bar.total
        if done % self.log_iter == 0 or done == stop:
            rate = (done - self.start) / max(time.monotonic() - self.since, 1e-9)
            images_per_s, remaining_s = rate * self.images, (stop - done) / rate
            shown = {k: f"{v:.3g}" for k, v in values.items() if k in ("loss", "distill", "total", "lr")}
            pace = f"{images_per_s:.1f} images/s, {tqdm.format_interval(remaining_s)} left"
            self.bar.set_postfix_str(", ".join([pace, *(f"{k}={v}" for k, v in shown.items())]), refresh=False)
            log.info("step %d/%d: %s; %s", done, stop, ", ".join(f"{k} {v:.5g}" for k, v in values.items()), pace)
            self.report(
                step=done, max_iters=stop, images_per_s=images_per_s, remaining_s=remaining_s, losses=dict(values)
            )
            self.since, self.start = time.monotonic(), done
        self.bar.update(1)

    def after_train(self, step: int) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class Recorder(Hook):
    """Writes every `log_iter`-th step's losses as one JSON line; a resumed run continues the same file.

    Lines of steps that the resumed run will do again are dropped.
    """

    def __init__(self, path: Path, log_iter: int) -> None:
        self.path, self.log_iter, self.stop = path, log_iter, 0
        self.file: IO[str] | None = None

    def before_train(self, start: int, stop: int) -> None:
        """Open the file, cut back to `start`."""
        self.stop = stop
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Append a line when due."""
        done = step + 1
        if self.file is not None and (done % self.log_iter == 0 or done == self.stop or done == 1):
            self.write(done, values)

    def write(self, done: int, values: Mapping[str, Any]) -> None:
        """Append one line now (evaluation results use this too)."""
        if self.file is not None:
            self.file.write(json.dumps({"step": done, **values}) + "\n")
            self.file.flush()

    def after_train(self, step: int) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()
            self.file = None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file written by Recorder; a last line cut off by a crash is dropped."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Scalars(Hook):
    """Losses and metrics for VisualDL, in `folder`."""

    def __init__(self, folder: Path, log_iter: int) -> None:
        self.folder, self.log_iter = folder, log_iter
        self.writer: Any = None

    def before_train(self, start: int, stop: int) -> None:
        """Open the log."""
        try:
            from visualdl import LogWriter  # slow to import, and only training needs it
        except OSError as error:  # importing it writes settings to the user's home folder
            log.warning("no curves for VisualDL: %s; %s holds the same figures", error, "log.jsonl")
            return
        self.writer = LogWriter(logdir=str(self.folder))

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a point to every curve when due."""
        if (step + 1) % self.log_iter == 0:
            self.write(step + 1, values)

    def write(self, done: int, values: Mapping[str, Any]) -> None:
        """Add a point to the curves of `values` now."""
        if self.writer is None:
            return
        for name, value in values.items():
            self.writer.add_scalar(tag=name, value=float(value), step=done)

    def after_train(self, step: int) -> None:
        """Close the log."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
