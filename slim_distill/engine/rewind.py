"""Going back to the state before a step that failed."""

from collections.abc import Callable, Iterable

import numpy as np

from slim_distill.engine.session import Session

__all__ = ["Rewind"]


class Rewind:
    """A recent state in memory, from which every later one can be computed again.

    An update has moved the parameters by the time that its loss is seen to be no number, and a copy of them at every
    step would cost a noticeable part of it. A step is a function of state, seed and number alone, so a copy now and
    then is enough: the steps since are done again.

    Args:
        session: where the state lives.
        names: all that training changes.
        every: distance of the copies in steps.
    """

    def __init__(self, session: Session, names: Iterable[str], every: int = 50) -> None:
        self.session, self.names, self.every = session, tuple(names), every
        self.step = 0
        self._kept: dict[str, np.ndarray] = {}

    def before(self, step: int) -> None:
        """Copy the state when due; one that holds something else than finite numbers is not taken."""
        if self._kept and step < self.step + self.every:
            return
        now = self.session.read(self.names)
        if not self._kept or _sound(now):
            self.step, self._kept = step, now

    def back_to(self, step: int, again: Callable[[int], object]) -> int:
        """Put the session into its state before `step`, or the newest one before that which holds finite numbers only.

        Args:
            step: zero-based number of the step that failed.
            again: does the step of the given number once more; called for `Rewind.step`, the one after it, ...

        Returns:
            The number of steps that the state has behind it.
        """
        done, sound = self.step, self._kept
        self.session.write(sound)
        for number in range(self.step, step):
            again(number)
            now = self.session.read(self.names)
            if not _sound(now):
                break
            done, sound = number + 1, now
        self.session.write(sound)
        return done


def _sound(arrays: dict[str, np.ndarray]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())
