"""Checkpoints: folders of safetensors with a manifest, complete or absent."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import slim_distill
from slim_distill.common.errors import WeightsError
from slim_distill.common.files import atomic_folder

__all__ = ["Checkpoint", "latest_checkpoint", "load_checkpoint", "remove_old", "save_checkpoint"]

log = logging.getLogger(__name__)

MODEL, STATE, CONFIG, MANIFEST = "model.safetensors", "state.safetensors", "config.yml", "manifest.json"
FORMAT = 1


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
        files = {path.name: _fingerprint(path) for path in sorted(partial.iterdir())}
        manifest = {
            "format": FORMAT,
            "step": checkpoint.step,
            "slim_distill": slim_distill.__version__,
            "files": files,
            **checkpoint.facts,
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and check every file in it against the manifest.

    Raises:
        WeightsError: it is no checkpoint, or a file is missing or damaged; the message names it.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, step = dict(manifest["files"]), int(manifest["step"])
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is no checkpoint: it has no {MANIFEST}") from error
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise WeightsError(f"{folder / MANIFEST} cannot be read ({error}); use an earlier checkpoint") from error
    if manifest.get("format") != FORMAT:
        raise WeightsError(f"{folder} has format {manifest.get('format')!r}; this version reads format {FORMAT}")
    for name, expected in files.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise WeightsError(f"{folder}: {name} is missing; use an earlier checkpoint")
        if _fingerprint(path) != expected:
            raise WeightsError(f"{path} is damaged: its size or checksum is not the manifest's; use an earlier one")
    facts = {key: value for key, value in manifest.items() if key not in ("format", "files", "step")}
    state = _load(folder / STATE) if STATE in files else {}
    return Checkpoint(model=_load(folder / MODEL), state=state, step=step, facts=facts)


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


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The newest sound checkpoint of a run, or None; damaged ones are named in the log and passed over."""
    for folder in numbered(run_folder):
        try:
            load_checkpoint(folder)
        except WeightsError as error:
            log.warning("passing over a checkpoint: %s", error)
            continue
        return folder
    return None


def remove_old(run_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` numbered checkpoints of a run; call it only after a new one is complete."""
    for folder in numbered(run_folder)[max(keep, 1) :]:
        shutil.rmtree(folder)
