"""The factor of a term's weight as a pure function of the step."""

import math
from dataclasses import dataclass

__all__ = ["SHAPES", "Schedule"]

SHAPES = ("constant", "linear", "cosine", "step")


@dataclass(frozen=True)
class Schedule:
    """Factor of a term's weight at a zero-based step: `Schedule(...)(step)`. Nothing is remembered between steps.

    Formula: f(step) = 0 outside [begin, stop), inside shape(step) * min(1, (step - begin + 1) / warmup).
        constant: start. With p = (step - first) / (last - first), kept within 0 and 1:
        linear: start + (end - start) p; cosine: end + (start - end) (1 + cos(pi p)) / 2.
        step: start * gamma ** (number of milestones at or before the step).

    Attributes:
        shape: one of `SHAPES`.
        start: factor before anything lowers or raises it; end: where linear and cosine arrive.
        first: step at which linear and cosine leave `start`; last: step at which they arrive.
        milestones: steps at which the factor is multiplied by `gamma`.
        warmup: length of the linear warm-up in steps; its first step has factor 1 / warmup, not 0.
        begin: first step of the term; stop: the step from which on it is off, None for never.
    """

    shape: str = "constant"
    start: float = 1.0
    end: float = 1.0
    first: int = 0
    last: int = 1
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup: int = 0
    begin: int = 0
    stop: int | None = None

    def __call__(self, step: int) -> float:
        """Return the factor at `step`."""
        if step < self.begin or (self.stop is not None and step >= self.stop):
            return 0.0
        warm = min(1.0, (step - self.begin + 1) / self.warmup) if self.warmup else 1.0
        return warm * self._shaped(step)

    def _shaped(self, step: int) -> float:
        if self.shape == "step":
            return self.start * self.gamma ** sum(step >= milestone for milestone in self.milestones)
        done = min(max((step - self.first) / (self.last - self.first), 0.0), 1.0)
        if self.shape == "linear":
            return self.start + (self.end - self.start) * done
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * 0.5 * (1.0 + math.cos(math.pi * done))
        return self.start

    def __str__(self) -> str:
        """Describe the schedule in a few words, for tables."""
        parts = {
            "constant": f"constant {self.start:g}",
            "step": f"step x{self.gamma:g} at {', '.join(map(str, self.milestones))}",
        }
        ramp = f"{self.shape} {self.start:g} to {self.end:g}, steps {self.first} to {self.last}"
        text = [parts.get(self.shape, ramp)]
        text += [f"warm-up {self.warmup}"] * (self.warmup > 0)
        text += [f"from step {self.begin}"] * (self.begin > 0)
        text += [f"until step {self.stop}"] * (self.stop is not None)
        return "; ".join(text)
