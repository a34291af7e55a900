"""One training job, with or without teachers, from configuration to final weights."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.errors import ConfigError, TrainingError, WeightsError
from slim_distill.common.files import make_writable
from slim_distill.config import dump_config, to_dict
from slim_distill.config.schema import RunConfig
from slim_distill.data.build import build_loader
from slim_distill.data.loader import Loader
from slim_distill.engine import build
from slim_distill.engine.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    remove_old,
    save_checkpoint,
)
from slim_distill.engine.compiling import place, training_step, usual_step
from slim_distill.engine.evaluate import Evaluation
from slim_distill.engine.hooks import EverySteps, Progress, Recorder, Scalars
from slim_distill.engine.loop import Hook, run_loop
from slim_distill.engine.rewind import Rewind
from slim_distill.engine.schedule import learning_rate
from slim_distill.engine.session import Session, check_finite, seed_step, start_static_mode, user_flags
from slim_distill.engine.training import EMA_PREFIX, TrainingProgram
from slim_distill.losses.build import terms_from_config
from slim_distill.losses.table import LOSSES

__all__ = ["BEST", "FINAL", "TrainResult", "train"]

log = logging.getLogger(__name__)

BEST, FINAL, RECORD = "best_model", "model_final", "log.jsonl"


@dataclass(frozen=True)
class TrainResult:
    """Where a job's files are, and its last and best evaluation (best is None when it never evaluated)."""

    folder: Path
    last: Evaluation | None
    best: float | None
    teachers: Mapping[str, Evaluation]


def train(
    cfg: RunConfig,
    teachers: Mapping[str, build.Teacher] | None = None,
    *,
    resume: str = "",
    losses: Mapping[str, Callable[..., Any]] = LOSSES,
) -> TrainResult:
    """Train a student, alone or with teachers in one program.

    Files go to `output_dir/name`: numbered checkpoints, `best_model`, `model_final`, `config.yml`, `log.jsonl`.

    Args:
        cfg: the student's run.
        teachers: prefix -> teacher; its parameters are frozen or train along.
        resume: "" to start anew, a checkpoint's folder, or "auto" for the newest sound one of this run if any.
        losses: those that the recipe may name.

    Raises:
        SlimDistillError: anything of configuration, data, weights or training that makes the run useless.
    """
    start_static_mode()
    for line in user_flags(os.environ):
        log.warning("%s", line)
    teachers = dict(teachers or {})
    folder = build.run_folder(cfg)
    make_writable(folder, "output_dir", error=ConfigError)
    session = Session(cfg.device)
    checkpoint = _checkpoint(resume, folder)
    done = checkpoint.step if checkpoint else 0

    loader = build_loader(cfg.data.train, seed=cfg.seed, train=True, path="data.train")
    eval_loader = build.build_eval_loader(cfg)
    try:
        build.check_classes(cfg, loader, "data.train")
        student = build.build_student(cfg)
        max_iters, epoch_steps = cfg.train.max_iters, len(loader)
        terms = terms_from_config(cfg.distill, losses, max_iters=max_iters, epoch_steps=epoch_steps) if teachers else ()
        training = training_step(student, teachers, terms, cfg, on_cpu=session.on_cpu, report=log.info)
        # After the terms are bound: looking at all evaluation data may take long, a mistake in the recipe shows at once.
        others = {} if done else {prefix: t for prefix, t in teachers.items() if t.ema is None}
        judged = {prefix: build.check_teacher(cfg, prefix, t, eval_loader) for prefix, t in others.items()}
        placed = place(
            training.program,
            cfg.compile.placement,
            on_cpu=session.on_cpu,
            fixed=lambda: usual_step(cfg, teachers, terms, on_cpu=session.on_cpu),
        )
        log.info("step: %s", placed.summary())
        training = replace(training, program=placed.program)
        session.start(training.program, cfg.seed)
        _load(session, training, student, cfg, checkpoint)

        if checkpoint is None:
            _set_aside(folder)
        job = _Job(cfg, session, training, folder, loader, eval_loader)
        batches = loader.batches(start=done)
        hooks = job.hooks()
        try:
            run_loop(job.step_function(batches), done, cfg.train.max_iters, hooks)
        finally:
            batches.close()
    finally:
        loader.close()
        eval_loader.close()
    return TrainResult(folder, job.last, job.best, judged)


def _set_aside(folder: Path) -> None:
    """Rename an earlier run's folder: its checkpoints are kept, and never taken for those of the new run."""
    if not any((folder / name / "manifest.json").is_file() for name in _children(folder)):
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old{number}")).exists():
        number += 1
    folder.rename(aside)
    folder.mkdir()
    log.info("an earlier run's files moved from %s to %s; use -r auto to go on with a run", folder, aside)


def _children(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _checkpoint(resume: str, folder: Path) -> Checkpoint | None:
    if not resume:
        return None
    if resume != "auto":
        return load_checkpoint(Path(resume))
    newest = latest_checkpoint(folder)
    if newest is None:
        log.info("no checkpoint in %s: starting anew", folder)
        return None
    log.info("resuming from %s", newest)
    return load_checkpoint(newest)


def _load(
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
        session.write(saved)
        return
    session.write(build.pretrained(cfg, student))
    session.write({guest: session.read([own])[own] for guest, own in training.copies.items()})
    if cfg.optimizer.ema:
        averaged = [name for name in training.state if name.startswith(EMA_PREFIX)]
        first = session.read(name.removeprefix(EMA_PREFIX) for name in averaged)
        session.write({EMA_PREFIX + name: array for name, array in first.items()})


class _Job:
    """A training run in progress: its steps, and what is done between them."""

    def __init__(
        self,
        cfg: RunConfig,
        session: Session,
        training: TrainingProgram,
        folder: Path,
        loader: Loader,
        eval_loader: Loader,
    ) -> None:
        self.cfg, self.session, self.training = cfg, session, training
        self.folder, self.loader, self.eval_loader = folder, loader, eval_loader
        self.last: Evaluation | None = None
        self.best = _best_so_far(folder)
        self.recorder = Recorder(folder / RECORD, cfg.train.log_iter)
        self.scalars = Scalars(folder / "vdl", cfg.train.log_iter)
        self.rewind = Rewind(session, (*training.student, *training.state))

    def hooks(self) -> list[Hook]:
        """Progress and records first, so that a failing save or evaluation has its step on record.

        Evaluation comes before the checkpoint: a run that is interrupted in between does both again.
        """
        train = self.cfg.train
        (self.folder / "config.yml").write_text(dump_config(self.cfg), encoding="utf-8")
        return [
            Progress(self.cfg.name, self.cfg.data.train.batch_size, train.log_iter),
            self.recorder,
            self.scalars,
            EverySteps(train.eval_iter or train.snapshot_iter, self.evaluate),
            EverySteps(train.snapshot_iter, self.save),
        ]

    def step_function(self, batches: Iterator[Mapping[str, np.ndarray]]) -> Any:
        """The function that does one step; the first of a run, or of a scheduled term, also checks gradients."""
        fetch = list(self.training.losses.values())
        labels = list(self.training.losses)

        def one_step(step: int) -> dict[str, float]:
            self.rewind.before(step)
            rate = self._prepare(step)
            batch = next(batches)
            gradients = self.training.first_gradients(step)
            if gradients:
                out = self._checked_step(batch, fetch, step, gradients)
            else:
                out = self.session.run(self.training.program, batch, fetch)
            values = {label: float(out[name]) for label, name in zip(labels, fetch, strict=True)}
            try:
                check_finite(values, step, rate)
            except TrainingError as error:
                raise TrainingError(f"{error}; {self._save_sound(step, fetch)}") from error
            return {**values, "lr": rate}

        return one_step

    def _prepare(self, step: int) -> float:
        """Set all that a step depends on beside state and batch; returns the learning rate."""
        rate = learning_rate(self.cfg.schedule, step, self.cfg.train.max_iters)
        self.session.write(self.training.scalars(rate, step))
        seed_step(self.cfg.seed, step)
        return rate

    def _save_sound(self, step: int, fetch: list[str]) -> str:
        """Save the state before the failed `step`, and say where."""
        batches = self.loader.batches(start=self.rewind.step)

        def again(number: int) -> None:
            self._prepare(number)
            self.session.run(self.training.program, next(batches), fetch)

        done = self.rewind.back_to(step, again)
        batches.close()
        self.save(done)
        return f"the state after {done} steps is saved in {self.folder / str(done)}"

    def _checked_step(
        self, batch: Mapping[str, np.ndarray], fetch: list[str], step: int, gradients: Mapping[str, str]
    ) -> dict[str, np.ndarray]:
        """A step after which the given gradients are looked at and no frozen parameter may have moved."""
        owned = {*self.training.student, *self.training.state}
        frozen = [name for name in self.training.program.parameters() if name not in owned]
        before = _digest(self.session, frozen)
        out = self.session.run(self.training.program, batch, [*fetch, *gradients.values()])
        dead = [name for name, gradient in gradients.items() if not np.any(out[gradient])]
        if dead:
            raise TrainingError(
                f"step {step}: {len(dead)} trainable parameters have no gradient: {', '.join(dead[:5])}. "
                "No loss reaches them; check the recipe"
            )
        if _digest(self.session, frozen) != before:
            raise TrainingError(f"step {step} changed parameters of a frozen teacher; this is a fault of the rewrite")
        unmoved = f", {len(frozen)} teacher parameters unmoved" if frozen else ""
        log.info("step %d: %d gradients present%s", step, len(gradients), unmoved)
        return out

    def model(self) -> dict[str, np.ndarray]:
        """The student's parameters: the averaged ones where averages are kept."""
        names = self.training.student
        if not self.cfg.optimizer.ema:
            return self.session.read(names)
        averaged = self.session.read(EMA_PREFIX + name for name in names)
        return {name.removeprefix(EMA_PREFIX): array for name, array in averaged.items()}

    def save(self, done: int) -> None:
        """Write a complete checkpoint, then drop the oldest; at the end before it the final model."""
        facts = {"seed": self.cfg.seed, "max_iters": self.cfg.train.max_iters, "config_sha256": _config_hash(self.cfg)}
        model, state = self.session.read(self.training.student), self.session.read(self.training.state)
        text = dump_config(self.cfg)
        if done == self.cfg.train.max_iters:
            save_checkpoint(self.folder / FINAL, Checkpoint(self.model(), {}, done, facts), text)
        save_checkpoint(self.folder / str(done), Checkpoint(model, state, done, facts), text)
        remove_old(self.folder, self.cfg.train.keep)

    def evaluate(self, done: int) -> None:
        """Score the student, and keep its parameters when it is the best so far."""
        values = self.model()
        self.last = build.evaluate(self.cfg, values, self.eval_loader)
        log.info("step %d: %s", done, self.last)
        for writer in (self.recorder, self.scalars):
            writer.write(done, {"metric": self.last.metric})
        if self.best is None or self.last.metric > self.best:
            self.best = self.last.metric
            facts = {"metric": self.last.metric, "metric_name": self.last.name, "seed": self.cfg.seed}
            save_checkpoint(self.folder / BEST, Checkpoint(values, {}, done, facts), dump_config(self.cfg))


def _best_so_far(folder: Path) -> float | None:
    manifest = folder / BEST / "manifest.json"
    if not manifest.is_file():
        return None
    return float(json.loads(manifest.read_text(encoding="utf-8"))["metric"])


def _digest(session: Session, names: list[str]) -> str:
    digest = hashlib.sha256()
    for array in session.read(names).values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _config_hash(cfg: RunConfig) -> str:
    return hashlib.sha256(json.dumps(to_dict(cfg), sort_keys=True, default=str).encode()).hexdigest()
