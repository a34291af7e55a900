"""A thread for work that may wait: it computes where the rest of this process leaves a core idle. No Paddle here."""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from itertools import islice, pairwise
from typing import TypeVar

__all__ = ["TRIAL", "Ahead", "why_not_idle"]

T = TypeVar("T")
TRIAL = 60
"""So many items are handed on before `Ahead` knows the faster way."""

_BLOCK = 5  # of them in a row in one way
_GAIN = 0.98  # ahead of time must take less than this share, so that noise alone does not choose it

_LIBRARY = "libiomp5.so"  # the OpenMP of Paddle's wheels for Linux, which its GEMM library and oneDNN share
_USERS_CHOICE = "KMP_BLOCKTIME"


def why_not_idle() -> str:
    """Why `Ahead` would be of no use in this process; "" if it can be used. Ask after Paddle is loaded."""
    library = _openmp()
    if library is None:
        return f"{_LIBRARY}, the OpenMP library of Paddle for Linux, is not loaded"
    if library.omp_get_max_threads() < 2:
        return "there is one thread to compute with, which is never idle"
    if _USERS_CHOICE in os.environ:
        return f"{_USERS_CHOICE} is set, and kept as it is"
    return _refused()


@contextmanager
def _idle_worker() -> Iterator[Executor]:
    """An executor with one idle thread, beside which the pool of this thread sleeps where it has nothing to do."""
    library = _openmp()
    if library is None:
        raise RuntimeError(f"{_LIBRARY} is not loaded; ask why_not_idle first")
    threads, before = library.omp_get_max_threads(), library.kmp_get_blocktime()

    def begin() -> None:
        _lower()
        library.kmp_set_blocktime(0)
        library.omp_set_num_threads(threads)

    library.kmp_set_blocktime(0)
    try:
        with ThreadPoolExecutor(1, "idle", begin) as worker:
            yield worker
    finally:
        library.kmp_set_blocktime(before)


class Ahead:
    """Hands items on, each worked out while the one before it is used, where that is faster than one after the other.

    Ahead of time works a thread of the lowest priority the system has, which uses OpenMP as the calling one does: it
    gets what that one leaves of the cores. Between parallel loops the threads of an OpenMP pool wait actively, 200 ms
    by default, so that no core would be seen idle. Meanwhile those of both threads sleep at once, and waking them costs
    some microseconds in each loop. Which of both weighs more is found out by the clock: the first `TRIAL` items come in
    both ways in turns, and the lower quartiles decide, which other work on the machine disturbs less than medians.

    Only where `why_not_idle` is "".

    Args:
        report: is told the result, as "A ms a step ahead of time, B ms one after the other".
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.pays: bool | None = None

    def items(self, source: Iterator[T]) -> Generator[T, None, None]:
        """What `source` gives, none of it None. An error of the source comes when its item is due.

        Closing waits for the item at work; the next call goes on in the way that was found.
        """
        if self.pays is None:
            yield from self._trial(source)
        yield from _ahead(source) if self.pays else source

    def _trial(self, source: Iterator[T]) -> Iterator[T]:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for number in range(TRIAL // _BLOCK):
            early = number % 2 == 0
            block, times = islice(source, _BLOCK), []
            with closing(_ahead(block)) if early else nullcontext(block) as items:
                for item in items:
                    times.append(time.perf_counter())
                    yield item
            # From one item to the next: the use of the one, and what is left to do for the other.
            seconds[early] += [after - before for before, after in pairwise(times)]
        if not all(seconds.values()):
            return
        first, later = (sorted(seconds[early])[len(seconds[early]) // 4] for early in (True, False))
        self.pays = first < _GAIN * later
        self.report(f"{1e3 * first:.4g} ms a step ahead of time, {1e3 * later:.4g} ms one after the other")


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    with _idle_worker() as worker:
        due = worker.submit(next, items, None)
        while (item := due.result()) is not None:
            due = worker.submit(next, items, None)
            yield item


def _openmp() -> ctypes.CDLL | None:
    if not hasattr(os, "SCHED_IDLE"):
        return None
    try:
        return ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return None


def _lower() -> None:
    """Give the calling thread, and threads that it will start, a core only where nobody else wants it."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _refused() -> str:
    """Try it in a thread of its own, because there is no way back for a thread without privileges."""
    reasons = []

    def attempt() -> None:
        try:
            _lower()
        except OSError as error:
            reasons.append(f"the system refuses threads of idle priority: {error}")

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return "".join(reasons)
