"""`Session`: the only owner of executor, scope and device."""

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import static

from slim_distill.common.errors import ConfigError, GraphError, TrainingError
from slim_distill.common.names import nearest
from slim_distill.graph import NamedProgram, parameters

__all__ = ["Session", "runs_in_order", "start_static_mode", "user_flags"]

log = logging.getLogger(__name__)

_SERIAL = "FLAGS_new_executor_serial_run"
# Results that nobody reads any more go back to the system by a thread of the executor's own, which is woken for them
# after each operator and takes a core from those that compute. So they are handed to it 20 MB at a time.
_FLAGS = {_SERIAL: True, "FLAGS_eager_delete_tensor_gb": 0.02}
_KEPT = 8  # programs that a session keeps ready to run, as many as Paddle's executor does

Feed = dict[str, np.ndarray]


def start_static_mode() -> None:
    """Switch this process to static mode with an executor that runs operators in program order.

    Order matters where operators draw random numbers: one generator serves all of them, so only a fixed order
    makes a run repeatable. Flags of Paddle that the user's environment sets stay as they are.
    """
    paddle.enable_static()
    paddle.set_flags({name: value for name, value in _FLAGS.items() if name not in os.environ})


def runs_in_order() -> bool:
    """Whether the executor runs operators one after the other, in program order."""
    return bool(paddle.get_flags([_SERIAL])[_SERIAL])


def user_flags(environ: Mapping[str, str]) -> list[str]:
    """What follows from flags of Paddle that the user has set: a line for each that changes how training runs."""
    lines = []
    if environ.get(_SERIAL, "1").lower() not in ("1", "true"):  # what Paddle cannot read it takes for false
        lines.append(
            f"{_SERIAL}={environ[_SERIAL]} is kept as set: operators run in any order, so a run with random operators "
            "(dropout) does not repeat"
        )
    for name in ("FLAGS_use_mkldnn", "FLAGS_use_onednn"):
        if environ.get(name, "0").lower() in ("1", "true"):
            lines.append(
                f"{name}={environ[name]} is kept as set: Paddle then puts every operator on oneDNN, which may end the "
                "training process; unset it and leave the choice to compile.placement"
            )
    return lines


def _place(device: str) -> "paddle.CPUPlace | paddle.CUDAPlace":
    kind, _, number = device.partition(":")
    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if kind == "cpu" or (kind == "auto" and not has_gpu):
        return paddle.CPUPlace()
    if not has_gpu:
        raise ConfigError(f"device: {device!r} was asked for, but this Paddle finds no CUDA device; use cpu or auto")
    index = int(number) if number else int(os.environ.get("FLAGS_selected_gpus", "0").split(",")[0])  # noqa: SIM112
    return paddle.CUDAPlace(index)


class Session:
    """Runs named programs on one device; the values of all parameters live here, under their names.

    Several programs may share a session: a training program and the evaluation program of the same student read
    the same parameters.

    Args:
        device: auto (a CUDA device when there is one) | cpu | gpu | gpu:N.
    """

    def __init__(self, device: str = "auto") -> None:
        self.place = _place(device)
        self.on_cpu = isinstance(self.place, paddle.CPUPlace)
        self._executor = static.Executor(self.place)
        self._scope = static.Scope()
        self._ready: dict[tuple[Any, ...], tuple[Any, Callable[[Feed], list[np.ndarray]]]] = {}
        # Paddle keeps every scope to the end of the process, with all that is in it.
        weakref.finalize(self, _empty, self._scope)

    @contextmanager
    def _active(self) -> Iterator[None]:
        with static.scope_guard(self._scope):
            yield

    def start(self, program: NamedProgram, seed: int) -> None:
        """Give every parameter of `program` its first value: from its startup program, then from its known values."""
        paddle.seed(seed)
        with self._active():
            self._executor.run(program.startup)
        self.write(program.values)

    def run(
        self, program: NamedProgram, batch: Mapping[str, np.ndarray], fetch: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """One run of a program: {name: array} of the fetched variables.

        Args:
            program: what to run.
            batch: an array for every feed; further keys are ignored.
            fetch: variable names. Keep one list for one program: each new list costs a compilation.

        Raises:
            GraphError: a feed has no array, or one of no images; or Paddle cannot run the program on these arrays.
        """
        feed: Feed = {}
        for name in program.feeds:
            if name not in batch:
                raise GraphError(f"the program needs a feed {name!r}, the batch has {', '.join(sorted(batch))}")
            if np.shape(batch[name])[:1] == (0,):
                raise GraphError(f"feed {name!r} is {list(np.shape(batch[name]))}: a batch needs at least one image")
            feed[name] = batch[name]
        try:
            values = self._runner(program, feed, fetch)(feed)
        except (ValueError, RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{name} {list(np.shape(array))}" for name, array in feed.items())
            raise GraphError(f"the program cannot run on this batch ({shapes}): {_reason(error)}") from error
        if len(values) != len(fetch):
            raise GraphError(f"{len(fetch)} variables were asked for, {len(values)} came back: {', '.join(fetch)}")
        return dict(zip(fetch, values, strict=True))

    def _runner(self, program: NamedProgram, feed: Feed, fetch: Sequence[str]) -> Callable[[Feed], list[np.ndarray]]:
        """What runs a program; made in the first run and kept. A program may not change afterwards."""
        wanted = [program[name] for name in fetch]
        key = (id(program.main), *feed, *(value.id for value in wanted))
        if key not in self._ready:
            if len(self._ready) == _KEPT:
                del self._ready[next(iter(self._ready))]
            # The program is kept too, because its address is part of the key.
            self._ready[key] = program.main, _prepare(self._executor, program.main, feed, wanted, self._scope)
        return self._ready[key][1]

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """{name: copy of the array} of parameters and other persistent variables.

        Raises:
            GraphError: a name has no value in this session.
        """
        arrays = {}
        for name in names:
            variable = self._scope.find_var(name)
            if variable is None or not variable.get_tensor()._is_initialized():
                near = ", ".join(nearest(name, self._scope.local_var_names())) or "none"
                raise GraphError(f"no value for {name!r} in the session; nearest: {near}")
            arrays[name] = np.array(variable.get_tensor())
        return arrays

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Set parameters and other persistent variables, creating those that are not there."""
        for name, array in arrays.items():
            self._scope.var(name).get_tensor().set(np.asarray(array, order="C"), self.place)

    def save_inference(self, program: NamedProgram, fetch: Sequence[str], prefix: Path) -> None:
        """Write a program and its parameters as an inference model: `PREFIX.json` and `PREFIX.pdiparams`."""
        with self._active():
            static.save_inference_model(
                str(prefix),
                list(program.feeds.values()),
                [program[name] for name in fetch],
                self._executor,
                program=program.main,
            )

    def run_inference(self, prefix: Path, batch: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], set[str]]:
        """Load an inference model and run it once: (its outputs in order, names of its parameters)."""
        with self._active():
            program, feeds, _ = static.load_inference_model(str(prefix), self._executor)
            # The file's own fetch operators give the outputs; nothing else may be fetched beside them.
            outputs = self._executor.run(program, feed={name: batch[name] for name in feeds})
        return outputs, set(parameters(program))


def _prepare(
    executor: static.Executor, main: Any, feed: Feed, fetch: Sequence[Any], scope: Any
) -> Callable[[Feed], list[np.ndarray]]:
    """What runs `main` with arrays for the same feeds.

    `Executor.run` looks a program up by its text, which it writes anew in every run: 11 ms for 1,600 operators, on one
    core, with the others and the device idle. So it is looked up once, where this version of Paddle lets us.
    """
    # The scope is named because Paddle's current one is that of all threads.
    cache: Any = getattr(executor, "_executor_cache", None)
    if not hasattr(cache, "get_pir_program_and_executor") or not hasattr(executor, "_pir_feed_data"):
        return lambda arrays: executor.run(main, feed=arrays, fetch_list=fetch, scope=scope)
    clone, engine, inputs = cache.get_pir_program_and_executor(
        main, feed, fetch, "feed", "fetch", executor.place, scope, executor.plan
    )

    def run(arrays: Feed) -> list[np.ndarray]:
        executor._pir_feed_data(clone, arrays, scope, inputs)
        return engine.run(list(arrays))

    return run


def _empty(scope: Any) -> None:
    """Give the memory of a scope's variables back."""
    scope.drop_kids()
    scope.erase(scope.local_var_names())


def _reason(error: Exception) -> str:
    """What Paddle says of an error, without the Python and C++ frames around it."""
    return " ".join(str(error).rpartition("Error: ")[2].partition("[Hint:")[0].split())


def seed_step(seed: int, step: int, part: int = 0) -> None:
    """Make every random draw of a training step a function of the run's seed, the step and its part alone."""
    paddle.seed((seed * 1_000_003 + part * 15_485_863 + step + 1) % (2**31))


def check_finite(values: Mapping[str, float], step: int, learning_rate: float) -> None:
    """Raise TrainingError when a loss is NaN or infinite, with the step, every term and the learning rate."""
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
        raise TrainingError(
            f"step {step}: {', '.join(bad)} is not finite ({shown}; learning rate {learning_rate:g}). "
            "Lower schedule.base_lr or the term's weight, or lengthen the warm-up"
        )
