"""Checkpoints: folders of safetensors with a manifest, complete or absent."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import slim_distill
from slim_distill.common.errors import WeightsError
from slim_distill.common.files import atomic_folder, remove_folder
from slim_distill.common.manifest import MANIFEST, check_listed, manifest_text, read_manifest

__all__ = [
    "Checkpoint",
    "latest_checkpoint",
    "load_checkpoint",
    "newest_sound",
    "numbered",
    "remove_old",
    "save_checkpoint",
]

log = logging.getLogger(__name__)

MODEL, STATE, CONFIG = "model.safetensors", "state.safetensors", "config.yml"
FORMAT, OLDEST_FORMAT = 2, 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint folder holds.

    Attributes:
        model: parameters and running statistics of the student.
        state: everything else that training changes: momentum, averages, trainable guests. Empty in a best model.
        step: number of completed steps.
        facts: the manifest's further entries: seed, metric, position in the data, versions.
    """

    model: Mapping[str, np.ndarray]
    state: Mapping[str, np.ndarray]
    step: int
    facts: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, config_text: str) -> None:
    """Write a checkpoint so that a crash at any instant leaves either the old folder or the new one, complete.

    Raises:
        WeightsError: the folder cannot be written (path and cause named); what was there before is intact.
    """
    with atomic_folder(folder, error=WeightsError) as partial:
        _save(partial / MODEL, checkpoint.model)
        if checkpoint.state:
            _save(partial / STATE, checkpoint.state)
        (partial / CONFIG).write_text(config_text, encoding="utf-8")
        entries = {"format": FORMAT, "step": checkpoint.step, "slim_distill": slim_distill.__version__}
        text = manifest_text({**entries, **checkpoint.facts}, sorted(partial.iterdir()))
        (partial / MANIFEST).write_text(text, encoding="utf-8")


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and check every file in it against the manifest.

    Raises:
        WeightsError: it is no checkpoint, or a file is missing or damaged; the message names it.
    """
    try:
        manifest = read_manifest(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise WeightsError(f"{folder} is no checkpoint: it has no {MANIFEST}") from error
    found, files, step = manifest.pop("format", None), manifest.pop("files"), manifest.pop("step", None)
    if not isinstance(found, int) or not OLDEST_FORMAT <= found <= FORMAT:
        raise WeightsError(f"{folder} has format {found!r}; this version reads formats {OLDEST_FORMAT} to {FORMAT}")
    if not isinstance(step, int) or MODEL not in files:
        raise WeightsError(
            f"{folder / MANIFEST} cannot be read (it has no step or no model); use an earlier checkpoint"
        )
    check_listed(folder, files, files)
    state = _load(folder / STATE) if STATE in files else {}
    return Checkpoint(model=_load(folder / MODEL), state=state, step=step, facts=manifest)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def numbered(run_folder: Path) -> list[Path]:
    """Checkpoint folders of a run (named by their step), the newest first."""
    if not run_folder.is_dir():
        return []
    folders = [p for p in run_folder.iterdir() if p.is_dir() and p.name.isdigit() and (p / MANIFEST).is_file()]
    return sorted(folders, key=lambda p: int(p.name), reverse=True)


def newest_sound(run_folder: Path) -> tuple[Path, Checkpoint] | None:
    """The newest sound checkpoint of a run, or None; damaged ones are named in the log and passed over."""
    for folder in numbered(run_folder):
        try:
            return folder, load_checkpoint(folder)
        except WeightsError as error:
            log.warning("passing over a checkpoint: %s", error)
    return None


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The folder of the newest sound checkpoint of a run, or None."""
    found = newest_sound(run_folder)
    return None if found is None else found[0]


def remove_old(run_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` numbered checkpoints of a run; call it only after a new one is complete.

    Raises:
        WeightsError: one cannot be removed; it is then whole, or gone under its name.
    """
    for folder in numbered(run_folder)[max(keep, 1) :]:
        remove_folder(folder, error=WeightsError)
