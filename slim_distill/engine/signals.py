"""Stopping a run on request: SIGTERM and SIGINT end it after the step, with everything saved."""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from slim_distill.common.errors import INTERRUPTED_EXIT, Preempted
from slim_distill.engine.loop import Hook

__all__ = ["StopOnSignal"]

_MESSAGE = b"\nstopping after this step and saving; once more to end at once\n"


class StopOnSignal(Hook):
    """Ends the loop after the step in which SIGTERM or SIGINT came, and a second SIGINT ends the process at once.

    The first only takes a note, so nothing is left half done. The second must work in a step that hangs, where Python
    runs no handlers: the interpreter writes the number of every signal into a pipe, which a thread reads. Without the
    main thread (Python allows handlers there alone) signals keep their usual effect.

    Args:
        save: writes the state after so many completed steps.
        agree: whether to stop, from whether a signal came to this process; processes that train together must agree.
    """

    def __init__(self, save: Callable[[int], None], agree: Callable[[bool], bool] = bool) -> None:
        self.save, self.agree = save, agree
        self.came: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._wakeup = -1
        self._pipe: tuple[int, int] | None = None

    def before_train(self, start: int, stop: int) -> None:
        """Take over both signals."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        threading.Thread(target=_end_at_second, args=(self._pipe[0],), daemon=True).start()
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """End here when a signal came."""
        self.check(step + 1)

    def check(self, done: int) -> None:
        """When a signal came, save the state after `done` steps and leave the loop.

        Raises:
            Preempted: one came.
        """
        if not self.agree(self.came is not None):
            return
        self.save(done)
        signal_name = "a signal to another rank" if self.came is None else self.came.name
        raise Preempted(
            f"stopped by {signal_name} after {done} steps, which are saved; the same command with -r auto goes on"
        )

    def after_train(self, step: int) -> None:
        """Give both signals back."""
        if self._pipe is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._pipe[1])  # the thread sees the end and closes its side
        self._pipe = None

    def _note(self, number: int, _: FrameType | None) -> None:
        self.came = signal.Signals(number)


def _end_at_second(descriptor: int) -> None:
    """Read signal numbers until the other side closes; the second SIGINT ends the process."""
    interrupts = 0
    while numbers := os.read(descriptor, 64):
        interrupts += numbers.count(int(signal.SIGINT))
        if interrupts == 1:
            os.write(2, _MESSAGE)
        if interrupts > 1:
            os._exit(INTERRUPTED_EXIT)
    os.close(descriptor)
