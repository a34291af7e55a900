"""The training loop: steps with hooks around them, and nothing else."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["Hook", "run_loop"]


class Hook:
    """Something that happens beside the steps. The loop is:

    for each hook: before_train(start, stop)
    for step in start .. stop - 1:
        values = one training step
        for each hook: after_step(step, values)
    for each hook, last first: after_train(step reached), also when a step or hook raised (even a hook's before_train)
    """

    def before_train(self, start: int, stop: int) -> None:
        """Called once before the first step."""

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Called after each step with the step's zero-based number and its losses."""

    def after_train(self, step: int) -> None:
        """Called once at the end with the number of steps completed."""


def run_loop(one_step: Callable[[int], Mapping[str, Any]], start: int, stop: int, hooks: Sequence[Hook] = ()) -> int:
    """Run steps `start` to `stop` - 1; returns the number of steps completed, which is `stop` unless a hook raised.

    Args:
        one_step: does the training step of the given number and returns its losses.
        start: first step; the number of steps already done.
        stop: one past the last step.
        hooks: called in order after every step.
    """
    done = start
    try:
        for hook in hooks:
            hook.before_train(start, stop)
        for step in range(start, stop):
            values = one_step(step)
            done = step + 1
            for hook in hooks:
                hook.after_step(step, values)
    finally:
        for hook in reversed(hooks):
            hook.after_train(done)
    return done
