"""Choosing kernels by measurement, once for each machine and each shape of operator."""

import hashlib
import json
import logging
import math
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
from slim_distill.graph import (
    ConvolutionLayer,
    NamedProgram,
    OwnKernels,
    PlaceKernels,
    dtype_of,
    load_kernels,
    run_passes,
    shape_of,
)

__all__ = ["KERNELS", "MARGIN", "choose_kernels", "kernel_times", "machine"]

log = logging.getLogger(__name__)

MARGIN = 0.95
"""Another kernel is chosen only where its median is below this share of the stock kernel's."""

KERNELS = ("stock", "onednn", "own")

ROUNDS = 9
WARM_UP = 2

Times = tuple[float, ...]
"""Milliseconds of a layer on each of `KERNELS`, its conversions of layout included; without the last where we have no
kernel of our own for it.
"""


def machine() -> dict[str, str]:
    """What times of kernels depend on beside the operator: processor, threads, Paddle's version."""
    threads = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"cpu": cpu_model(), **threads, "paddle": paddle.__version__}


def kernel_times(program: NamedProgram) -> Times:
    """Medians of interleaved runs of a small program as it is, with its convolutions on oneDNN, and on our kernels."""
    placed = run_passes(program, [PlaceKernels(pointwise=True)]).program
    own = run_passes(program, [OwnKernels(transform_below=math.inf)])
    runs = [_runner(p) for p in (program, placed, *([own.program] if own.changed else []))]
    for run in runs * WARM_UP:
        run()
    records = record(runs * ROUNDS)
    times = [sum(ms for name, ms in kernels if name != "fetch") for kernels in records]
    return tuple(statistics.median(times[i :: len(runs)]) for i in range(len(runs)))


def _runner(program: NamedProgram) -> Callable[[], object]:
    session = Session("cpu")
    rng = np.random.RandomState(0)
    batch = {n: rng.uniform(-1, 1, shape_of(v)).astype(dtype_of(v)) for n, v in program.feeds.items()}
    # Every result is fetched, or the executor would leave out the operator behind it.
    fetch = [name for name in program.variables if name not in program.feeds]
    return lambda: session.run(program, batch, fetch)


def choose_kernels(
    layers: Sequence[ConvolutionLayer],
    *,
    own: bool = True,
    measure: Callable[[NamedProgram], Times] = kernel_times,
    folder: Path | None = None,
) -> dict[str, str]:
    """The fastest of `KERNELS` for each layer, by its name; stock where another one does not win by more than noise.

    Times are kept in `FOLDER/kernels/`, one file for each kind of machine, and each key is measured once.

    Args:
        layers: the convolutions of one program and their gradients, with all shapes known.
        own: whether kernels of our own may be chosen.
        measure: takes the times of one layer.
        folder: the cache; None for the user's own (`SLIM_DISTILL_CACHE`).
    """
    where = machine() | {"kernels": ", ".join(KERNELS if not load_kernels() else KERNELS[:2])}
    digest = hashlib.sha256(json.dumps(where, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_folder(folder) / "kernels" / f"{digest}.json"
    times = _read(path)
    missing = {layer.key: layer.program for layer in layers if layer.key not in times}
    if missing:
        log.info("measuring kernels for %d shapes of convolutions, once for this machine", len(missing))
        times |= {key: measure(program) for key, program in missing.items()}
        _write(path, where, times)
    chosen = {layer.name: _fastest(times[layer.key][: None if own else 2]) for layer in layers}
    stock = sum(times[layer.key][0] for layer in layers)
    now = sum(times[layer.key][KERNELS.index(chosen[layer.name])] for layer in layers)
    log.info("expected: the measured operators take %.4g ms of a step, %.4g on Paddle's own kernels", now, stock)
    return chosen


def _fastest(times: Times) -> str:
    handicapped = (MARGIN * times[0], *times[1:])
    return KERNELS[handicapped.index(min(handicapped))]


def _read(path: Path) -> dict[str, Times]:
    """The times in a cache file; one that cannot be used is as good as none, and a line in the log says so."""
    if not path.is_file():
        return {}
    try:
        kernels = json.loads(path.read_text(encoding="utf-8"))["kernels"]
        times = {str(key): tuple(map(float, found)) for key, found in kernels.items()}
        if not all(2 <= len(found) <= len(KERNELS) for found in times.values()):
            raise ValueError(f"times must be of {', '.join(KERNELS)}")
        if not all(0 < ms < float("inf") for found in times.values() for ms in found):
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
