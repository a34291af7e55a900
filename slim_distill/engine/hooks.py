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
    """

    def __init__(self, every: int, action: Callable[[int], None]) -> None:
        self.every, self.action, self.stop = every, action, 0

    def before_train(self, start: int, stop: int) -> None:
        """Note where the run ends."""
        self.stop = stop

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Act when due."""
        done = step + 1
        if done % self.every == 0 or done == self.stop:
            self.action(done)


class Progress(Hook):
    """A progress bar with rate, remaining time and losses, and one log line every `log_iter` steps."""

    def __init__(self, name: str, batch_size: int, log_iter: int) -> None:
        self.name, self.batch_size, self.log_iter = name, batch_size, log_iter
        self.bar: Any = None
        self.since, self.start = 0.0, 0

    def before_train(self, start: int, stop: int) -> None:
        """Open the bar."""
        self.bar = tqdm(total=stop, initial=start, desc=self.name, unit="step", dynamic_ncols=True, smoothing=0.05)
        self.since, self.start = time.monotonic(), start

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Move on by one step; the terms are shown every `log_iter` steps."""
        self.bar.update(1)
        done = step + 1
        if done % self.log_iter and done != self.bar.total:
            return
        shown = {k: f"{v:.3g}" for k, v in values.items() if k in ("loss", "distill", "total", "lr")}
        self.bar.set_postfix(shown, refresh=False)
        rate = (done - self.start) / max(time.monotonic() - self.since, 1e-9)
        terms = ", ".join(f"{k} {v:.5g}" for k, v in values.items())
        remaining_s = (self.bar.total - done) / rate
        log.info(
            "step %d/%d: %s; %.1f images/s, %s left",
            done, self.bar.total, terms, rate * self.batch_size, tqdm.format_interval(remaining_s),
        )  # fmt: skip
        self.since, self.start = time.monotonic(), done

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
