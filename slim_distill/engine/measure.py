"""Choosing kernels by measurement, once for each machine and each shape of operator."""

import hashlib
import json
import logging
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import paddle

from slim_distill.common.errors import SlimDistillError
from slim_distill.common.files import atomic_write, cache_folder
from slim_distill.common.threads import cpu_model
from slim_distill.engine.profile import record
from slim_distill.engine.session import Session
from slim_distill.graph import ConvolutionLayer, NamedProgram, PlaceKernels, dtype_of, run_passes, shape_of

__all__ = ["MARGIN", "choose_onednn", "kernel_times", "machine"]

log = logging.getLogger(__name__)

MARGIN = 0.95
"""oneDNN is chosen only where its median is below this share of the stock kernel's."""

ROUNDS = 9
WARM_UP = 2

Times = tuple[float, float]
"""Milliseconds of a layer on stock kernels and on oneDNN, its conversions of layout included."""


def machine() -> dict[str, str]:
    """What times of kernels depend on beside the operator: processor, threads, Paddle's version."""
    threads = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"cpu": cpu_model(), **threads, "paddle": paddle.__version__}


def kernel_times(program: NamedProgram) -> Times:
    """Medians of interleaved runs of a small program as it is and with its convolutions on oneDNN."""
    placed = run_passes(program, [PlaceKernels(pointwise=True)]).program
    runs = [_runner(program), _runner(placed)]
    for run in runs * WARM_UP:
        run()
    records = record(runs * ROUNDS)
    times = [sum(ms for name, ms in kernels if name != "fetch") for kernels in records]
    return statistics.median(times[0::2]), statistics.median(times[1::2])


def _runner(program: NamedProgram) -> Callable[[], object]:
    session = Session("cpu")
    rng = np.random.RandomState(0)
    batch = {n: rng.uniform(-1, 1, shape_of(v)).astype(dtype_of(v)) for n, v in program.feeds.items()}
    # Every result is fetched, or the executor would leave out the operator behind it.
    fetch = [name for name in program.variables if name not in program.feeds]
    return lambda: session.run(program, batch, fetch)


def choose_onednn(
    layers: Sequence[ConvolutionLayer],
    *,
    measure: Callable[[NamedProgram], Times] = kernel_times,
    folder: Path | None = None,
) -> frozenset[str]:
    """Names of the layers that run faster on oneDNN, by more than noise.

    Times are kept in `FOLDER/kernels/`, one file for each kind of machine, and each key is measured once.

    Args:
        layers: the convolutions of one program and their gradients, with all shapes known.
        measure: takes the times of one layer.
        folder: the cache; None for the user's own (`SLIM_DISTILL_CACHE`).
    """
    where = machine()
    digest = hashlib.sha256(json.dumps(where, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder(folder) / "kernels" / f"{digest}.json"
    times = _read(path)
    missing = {layer.key: layer.program for layer in layers if layer.key not in times}
    if missing:
        log.info("measuring kernels for %d shapes of convolutions, once for this machine", len(missing))
        times |= {key: measure(program) for key, program in missing.items()}
        _write(path, where, times)
    return frozenset(layer.name for layer in layers if _wins(times[layer.key]))


def _wins(times: Times) -> bool:
    stock, onednn = times
    return onednn < MARGIN * stock


def _read(path: Path) -> dict[str, Times]:
    """The times in a cache file; one that cannot be used is as good as none, and a line in the log says so."""
    if not path.is_file():
        return {}
    try:
        kernels = json.loads(path.read_text(encoding="utf-8"))["kernels"]
        times = {str(key): (float(stock), float(onednn)) for key, (stock, onednn) in kernels.items()}
        if not all(0 < ms < float("inf") for pair in times.values() for ms in pair):
            raise ValueError("times must be above 0")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("the kernel times in %s cannot be used (%s); measuring anew", path, error)
        return {}
    return times


def _write(path: Path, where: Mapping[str, str], times: Mapping[str, Times]) -> None:
    """Write a cache file. Where that fails training goes on, and the next run measures again.

    Of two processes that measure at once the last one's times stay; what only the other one had is measured again.
    """
    try:
        with atomic_write(path, "w") as handle:
            json.dump({"machine": where, "kernels": times}, handle, indent=1)
    except SlimDistillError as error:
        log.warning("the measured kernel times are not kept: %s", error)
