"""A run's folder: opened by one process, cleaned after a crash, gone on with from its newest sound checkpoint."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle

from slim_distill.common.errors import ConfigError, SlimDistillError, TrainingError, WeightsError
from slim_distill.common.files import clean_folder, file_lock, make_writable
from slim_distill.common.manifest import MANIFEST
from slim_distill.common.names import first_few
from slim_distill.common.threads import THREAD_VARIABLES
from slim_distill.config import changes_numbers, differences, load_config, show_differences
from slim_distill.config.schema import RunConfig
from slim_distill.data.loader import Loader
from slim_distill.engine import build
from slim_distill.engine.checkpoint import CONFIG, Checkpoint, load_checkpoint, newest_sound, numbered
from slim_distill.engine.compiling import wants_own_kernels
from slim_distill.engine.session import Session
from slim_distill.engine.status import lock_path
from slim_distill.engine.training import EMA_PREFIX, TrainingProgram
from slim_distill.graph import load_kernels

__all__ = ["best_metric", "choose_checkpoint", "compare_facts", "load_state", "make_way", "open_run", "run_facts"]

log = logging.getLogger(__name__)

AUTO = "auto"
RANDOM = "drawn anew in every step from seed and step number, so there is no generator state"


@contextmanager
def open_run(folder: Path) -> Iterator[None]:
    """Make a run's folder and keep it to this process; leftovers of an earlier one that was killed are cleared.

    Raises:
        ConfigError: the folder cannot be written.
        TrainingError: another process trains in it.
    """
    make_writable(folder, "output_dir", error=ConfigError)
    busy = (
        f"another process is training in {folder}; `slim-distill status {folder}` shows it. "
        "End it, or choose another name with -o name=NAME"
    )
    with file_lock(lock_path(folder), error=TrainingError, busy=busy):
        clean_folder(folder)
        yield


def choose_checkpoint(resume: str, folder: Path) -> tuple[Path, Checkpoint] | None:
    """The checkpoint to go on from: none for "", the newest sound one of `folder` for "auto", else that of the path.

    Raises:
        WeightsError: the one that was asked for is none, or damaged.
    """
    if not resume:
        return None
    if resume != AUTO:
        return Path(resume), load_checkpoint(Path(resume))
    found = newest_sound(folder)
    log.info(
        "no checkpoint in %s: starting anew" if found is None else "resuming from %s", found[0] if found else folder
    )
    return found


def make_way(folder: Path, chosen: tuple[Path, Checkpoint] | None) -> None:
    """Move aside what would be taken for this run's later: an earlier run, or checkpoints beyond the one gone on from.

    The latter are damaged, or belong to a future that is given up.
    """
    if chosen is None or chosen[0].resolve().parent != folder.resolve():
        _set_aside(folder)
    else:
        _set_aside_later(folder, chosen[1].step)


def _set_aside(folder: Path) -> None:
    """Rename an earlier run's folder: its checkpoints are kept, and never taken for those of the new run."""
    if not any((path / MANIFEST).is_file() for path in folder.iterdir()):
        return
    aside = _free(folder)
    folder.rename(aside)
    folder.mkdir()
    log.info("an earlier run's files moved from %s to %s; use -r auto to go on with a run", folder, aside)


def _set_aside_later(folder: Path, step: int) -> None:
    """Move the numbered checkpoints beyond `step` out of a run's folder."""
    later = [path for path in numbered(folder) if int(path.name) > step]
    if not later:
        return
    aside = _free(folder)
    aside.mkdir()
    for path in later:
        path.rename(aside / path.name)
    names = ", ".join(path.name for path in later)
    log.warning("going on from step %d of %s; its later checkpoints (%s) moved to %s", step, folder, names, aside)


def _free(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    return aside


def run_facts(cfg: RunConfig, done: int, loader: Loader, device: str, devices: int = 1) -> dict[str, Any]:
    """What a checkpoint's manifest says of the run, beside files and versions of its own.

    Args:
        cfg: the run.
        done: completed steps.
        loader: of the training data.
        device: "cpu" or "gpu".
        devices: how many train together.
    """
    epoch, batch = divmod(done, len(loader))
    own = device == "cpu" and wants_own_kernels(cfg.compile)
    return {
        "paddle": paddle.__version__,
        "seed": cfg.seed,
        "random": RANDOM,
        "max_iters": cfg.train.max_iters,
        "epoch": epoch,
        "position": {"batch": batch, "sample": batch * cfg.data.train.batch_size * cfg.parallel.accumulate * devices},
        "samples": len(loader.dataset),
        "device": device,
        "devices": devices,
        "kernels": "own" if own and not load_kernels() else "Paddle's",
        "threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
    }


def compare_facts(chosen: tuple[Path, Checkpoint], cfg: RunConfig, now: Mapping[str, Any]) -> list[str]:
    """What will keep a resumed run from equalling the uninterrupted one, a line each.

    Args:
        chosen: the checkpoint gone on from.
        cfg: the run that goes on.
        now: `run_facts` of it.
    """
    folder, checkpoint = chosen
    lines = []
    try:
        found = differences(load_config(folder / CONFIG), cfg)
    except SlimDistillError as error:
        lines.append(f"{folder / CONFIG} cannot be compared with the configuration: {error}")
        found = {}
    harmful = [(key, values) for key, values in found.items() if changes_numbers(key, cfg)]
    if harmful:
        lines.append(f"the configuration has changed since: {show_differences(harmful, 8)}")
    for key in ("samples", "device", "devices", "kernels", "threads", "paddle"):
        before = checkpoint.facts.get(key, now[key])
        if before != now[key]:
            lines.append(f"{key} was {before}, now {now[key]}")
    return lines


def load_state(
    session: Session, training: TrainingProgram, student: Any, cfg: RunConfig, checkpoint: Checkpoint | None
) -> None:
    """Put the first values in place: those of the checkpoint, or else pre-trained ones where given."""
    if checkpoint is not None:
        saved = {**checkpoint.model, **checkpoint.state}
        wanted = {*training.student, *training.state}
        missing, extra = sorted(wanted - set(saved)), sorted(set(saved) - wanted)
        if missing or extra:
            raise WeightsError(
                "the checkpoint is of another run: "
                f"it lacks {len(missing)} variables ({', '.join(missing[:3])}) "
                f"and has {len(extra)} that this run does not ({', '.join(extra[:3])})"
            )
        first = session.read(wanted)
        other = [
            f"{n} {list(saved[n].shape)}, here {list(first[n].shape)}"
            for n in wanted
            if saved[n].shape != first[n].shape
        ]
        if other:
            raise WeightsError(f"the checkpoint is of another run: shapes differ, {first_few(other)}")
        session.write(saved)
        return
    session.write(build.pretrained(cfg, student))
    session.write({guest: session.read([own])[own] for guest, own in training.copies.items()})
    if cfg.optimizer.ema:
        averaged = [name for name in training.state if name.startswith(EMA_PREFIX)]
        first = session.read(name.removeprefix(EMA_PREFIX) for name in averaged)
        session.write({EMA_PREFIX + name: array for name, array in first.items()})


def best_metric(folder: Path) -> float | None:
    """The metric of a run's best model so far; None when there is none, or none that is whole."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return float(load_checkpoint(folder).facts["metric"])
    except (WeightsError, KeyError, TypeError, ValueError) as error:
        log.warning("%s is no best model any more: %s; the next evaluation replaces it", folder, error)
        return None
