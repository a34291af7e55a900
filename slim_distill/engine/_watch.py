"""A thread that ends this process when another one of the same training dies, hangs or gives up."""

import json
import os
import selectors
import sys
import threading
import time
from collections.abc import Mapping

from slim_distill.engine._links import Link

__all__ = ["LOST_RANK_EXIT", "Watch"]

LOST_RANK_EXIT = 4
"""Exit code of a process that stopped because another one of its training did."""

_GRACE_S = 3.0  # for a process to end by its own error, when another one says that it gave up
_PULSE_S = 1.0


class Watch(threading.Thread):
    """Exchanges pulses with the other ranks: every rank with rank 0, which passes on what it hears.

    1. A connection that ends without a farewell, or is silent for `timeout_s`: that rank died, hangs as a whole, or
       cannot be reached.
    2. A rank whose work takes longer than it may (see `limit`) says so and stops; so does one that gives up.

    In each case every process writes the reason to its standard error and ends with LOST_RANK_EXIT: a main thread that
    waits in an exchange with a dead rank cannot be woken in any other way.

    Args:
        rank: of this process.
        links: rank -> connection: all others for rank 0, else rank 0 alone.
        timeout_s: longest silence.
    """

    def __init__(self, rank: int, links: Mapping[int, Link], timeout_s: float) -> None:
        super().__init__(name="ranks", daemon=True)
        self.rank, self.links, self.timeout_s = rank, dict(links), timeout_s
        self.pulse_s = min(_PULSE_S, timeout_s / 5)
        self.leaving = threading.Event()
        self._work: tuple[float, float, str] | None = None  # since when, how long at most, what
        self._lock = threading.Lock()  # two threads write lines
        self._heard: dict[int, float] = {}
        self._text: dict[int, bytes] = dict.fromkeys(self.links, b"")
        for link in self.links.values():
            link.socket.setblocking(False)

    def limit(self, what: str | None, times: float = 1.0) -> None:
        """From now on `what` must be done within `times * timeout_s`; None: there is no limit."""
        self._work = None if what is None else (time.monotonic(), times * self.timeout_s, what)

    def leave(self, reason: str = "") -> None:
        """Say farewell; with a reason, the other ranks will stop too."""
        self.leaving.set()
        self._say({"bye": self.rank, "reason": reason})

    def run(self) -> None:
        """Watch until everybody has said farewell."""
        with selectors.DefaultSelector() as selector:
            for rank, link in self.links.items():
                selector.register(link.socket, selectors.EVENT_READ, rank)
                self._heard[rank] = time.monotonic()
            last = due = time.monotonic()
            while self.links:
                if last >= due:  # not whenever one is heard: two ranks would answer each other without end
                    self._say(None)
                    due = last + self.pulse_s
                for key, _ in selector.select(max(0.0, due - last)):
                    if not self._listen(key.data):
                        selector.unregister(key.fileobj)
                        self.links.pop(key.data).close()
                now = time.monotonic()
                if now - last > 3 * self.pulse_s + 1.0:
                    # This process itself was stopped for a while, and so could not hear anything.
                    self._heard = dict.fromkeys(self._heard, now)
                    self._work = None if self._work is None else (now, *self._work[1:])
                last = now
                self._check(now)

    def _check(self, now: float) -> None:
        work = self._work
        if work is not None and now - work[0] > work[1] and not self.leaving.is_set():
            self._end(f"rank {self.rank} hangs: {work[2]} has taken more than {work[1]:g} s")
        for rank in self.links:
            if now - self._heard[rank] > self.timeout_s:
                self._end(f"rank {rank} has been silent for {self.timeout_s:g} s: it hangs, or cannot be reached")

    def _listen(self, rank: int) -> bool:
        """Read what there is; False when this rank has said farewell."""
        try:
            data = self.links[rank].socket.recv(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            if self.leaving.is_set():
                return False
            self._end(
                f"rank {rank} is gone: its process was killed, crashed, or ran out of memory; its own log (workerlog."
                f"{rank}) may say more"
            )
        self._heard[rank] = time.monotonic()
        *lines, self._text[rank] = (self._text[rank] + data).split(b"\n")
        for message in (json.loads(line) for line in lines if line):
            if "stop" in message:
                self._end(message["stop"], message["grace_s"])
            if message["reason"]:
                # It may well be an error that all ranks meet at once: let this one end in its own way.
                self._end(f"rank {message['bye']} gave up: {message['reason']}", _GRACE_S)
            return False
        return True

    def _say(self, message: Mapping[str, object] | None) -> None:
        line = (json.dumps(message) if message else "").encode() + b"\n"
        with self._lock:
            for link in list(self.links.values()):
                try:
                    link.socket.send(line)
                except OSError:
                    continue  # its end will be heard, or its silence

    def _end(self, reason: str, grace_s: float = 0.0) -> None:
        self._say({"stop": reason, "grace_s": grace_s})
        if self.leaving.wait(grace_s):
            raise SystemExit  # of this thread alone: the main thread is ending the process with an error of its own
        sys.stderr.write(
            f"\nslim-distill: error: {reason}. This process (rank {self.rank}) stops too; start again with -r auto, "
            "which goes on from the newest checkpoint, also with another number of ranks\n"
        )
        sys.stderr.flush()
        os._exit(LOST_RANK_EXIT)
