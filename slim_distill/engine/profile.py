"""Milliseconds of each operator, as the executor runs them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import paddle
from paddle.profiler import Profiler, ProfilerTarget

from slim_distill.common.errors import GraphError
from slim_distill.graph import runs_as

__all__ = ["Profile", "match_times", "profile", "record"]

_RUN = "StandaloneExecutor::run"
_OPERATOR = "Operator"
_PROGRAM_ORDER = "FLAGS_enable_pir_in_executor_trace_run"
# What the executor adds to a program by itself.
_ADDED = ("fetch", "onednn_to_paddle_layout")


@dataclass(frozen=True)
class Profile:
    """One run: the fastest of several, which other work on the machine disturbed least.

    Attributes:
        step_ms: the whole run by the clock: feeding, operators, fetching.
        kernels: (operator, ms) in the order of execution, with conversions that the executor adds by itself.
    """

    step_ms: float
    kernels: tuple[tuple[str, float], ...]


def profile(run: Callable[[], object], *, runs: int = 7, warm_up: int = 2) -> Profile:
    """Measure what `run`, one call of an executor, does.

    Paddle's own profiler records when the executor starts and ends each operator. The executor must run operators one
    after the other (`start_static_mode`), so that their times add up to the whole; here it also follows the order of
    the program, if this is its first run.

    Args:
        run: runs the program once.
        runs: how often it is measured.
        warm_up: runs before that.

    Raises:
        GraphError: the profiler recorded another number of runs, or no operators.
    """
    walls: list[float] = []

    def timed() -> None:
        start = time.perf_counter()
        run()
        walls.append(1e3 * (time.perf_counter() - start))

    with _program_order():
        for _ in range(warm_up):
            run()
        found = record([timed] * runs)
    fastest = walls.index(min(walls))
    return Profile(walls[fastest], tuple(found[fastest]))


def record(runs: Sequence[Callable[[], object]]) -> list[list[tuple[str, float]]]:
    """Call each of `runs`, a call of an executor, in turn: the (operator, ms) of each in the order of execution.

    Raises:
        GraphError: the profiler recorded another number of runs, or no operators.
    """
    recorder = Profiler(targets=[ProfilerTarget.CPU], on_trace_ready=_keep)
    recorder.start()
    for run in runs:
        run()
    recorder.stop()
    found = [list(_kernels(node)) for node in _nodes(recorder) if node.name == _RUN]
    if len(found) != len(runs) or not all(found):
        lengths = ", ".join(str(len(kernels)) for kernels in found) or "no"
        raise GraphError(f"Paddle's profiler recorded runs of {lengths} operators; {len(runs)} runs were made")
    return found


@contextmanager
def _program_order() -> Iterator[None]:
    """Let an executor that first runs here follow its program: without oneDNN operators it has an order of its own."""
    before = paddle.get_flags([_PROGRAM_ORDER])
    paddle.set_flags({_PROGRAM_ORDER: True})
    try:
        yield
    finally:
        paddle.set_flags(before)


def match_times(
    planned: Sequence[str], kernels: Sequence[tuple[str, float]]
) -> tuple[list[float | None], list[tuple[int, str, float]]]:
    """Find each operator of a program among the kernels that ran, which keep its order.

    Args:
        planned: operators of the program in order.
        kernels: (operator, ms) in the order of execution.

    Returns:
        Milliseconds of each planned operator, None for one that did not run; and what ran beside them: (index of the
        planned operator before it, operator, ms).
    """
    times: list[float | None] = [None] * len(planned)
    extra = []
    done = 0
    for name, ms in kernels:
        # Where the executor adds something, the next operator of the program is still to come.
        last = done + 1 if name in _ADDED else len(planned)
        at = next((i for i in range(done, min(last, len(planned))) if planned[i] == name), None)
        if at is None:
            extra.append((max(done - 1, 0), name, ms))
        else:
            times[at] = ms
            done = at + 1
    return times, extra


def _keep(recorder: Profiler) -> None:
    """Leave the record in memory; without this the profiler writes it to a file."""


def _nodes(recorder: Profiler) -> Iterator[Any]:
    stack = list(recorder.profiler_result.get_data().values())
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.children_node))


def _kernels(run: Any) -> Iterator[tuple[str, float]]:
    """The operators of one run; what a control-flow operator contains counts as part of it."""
    stack = list(reversed(run.children_node))
    while stack:
        node = stack.pop()
        if node.type.name != _OPERATOR:
            stack.extend(reversed(node.children_node))
            continue
        name = runs_as(node.name)
        if name is not None and not name.startswith("builtin_"):
            yield name, (node.end_ns - node.start_ns) / 1e6
