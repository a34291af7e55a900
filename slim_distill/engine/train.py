"""One training job, with or without teachers, from configuration to final weights."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.errors import Preempted, TrainingError
from slim_distill.config import dump_config, to_dict
from slim_distill.config.schema import RunConfig
from slim_distill.data.batches import Split
from slim_distill.data.build import build_loader
from slim_distill.data.loader import Loader
from slim_distill.engine import build
from slim_distill.engine.checkpoint import Checkpoint, load_checkpoint, remove_old, save_checkpoint
from slim_distill.engine.compiling import place, show_precision, training_step, usual_step
from slim_distill.engine.distributed import SLOW, Ranks, connect
from slim_distill.engine.evaluate import Evaluation
from slim_distill.engine.hooks import EverySteps, Progress, Recorder, Scalars
from slim_distill.engine.loop import Hook, run_loop
from slim_distill.engine.parts import PREFIX as PARTS
from slim_distill.engine.parts import PartRunner, in_parts, start_together
from slim_distill.engine.resume import (
    best_metric,
    choose_checkpoint,
    compare_facts,
    load_state,
    make_way,
    open_run,
    run_facts,
)
from slim_distill.engine.rewind import Rewind
from slim_distill.engine.schedule import learning_rate
from slim_distill.engine.session import Session, check_finite, start_static_mode, user_flags
from slim_distill.engine.signals import StopOnSignal
from slim_distill.engine.status import StatusFile
from slim_distill.engine.teacher_outputs import TeacherOutputs, open_outputs
from slim_distill.engine.training import EMA_PREFIX, TrainingProgram
from slim_distill.graph import NamedProgram
from slim_distill.losses.build import terms_from_config
from slim_distill.losses.table import LOSSES

__all__ = ["BEST", "FINAL", "TrainResult", "train"]

log = logging.getLogger(__name__)

BEST, FINAL, RECORD = "best_model", "model_final", "log.jsonl"
OVERDUE = "evaluation_overdue"


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

    Files go to `output_dir/name`: numbered checkpoints, `best_model`, `model_final`, `config.yml`, `log.jsonl`,
    `status.json`.

    Args:
        cfg: the student's run.
        teachers: prefix -> teacher; its parameters are frozen or train along.
        resume: "" to start anew, a checkpoint's folder, or "auto" for the newest sound one of this run if any.
        losses: those that the recipe may name.

    Raises:
        Preempted: SIGTERM or SIGINT came; the state is saved.
        SlimDistillError: anything of configuration, data, weights or training that makes the run useless.
    """
    ranks = connect(cfg.parallel.timeout_s)
    try:
        result = _train(cfg, dict(teachers or {}), resume, losses, ranks)
    except Preempted:  # in all ranks, after the same step
        ranks.leave()
        raise
    except BaseException as error:
        ranks.leave(error)
        raise
    ranks.leave()
    return result


def _train(
    cfg: RunConfig,
    teachers: Mapping[str, build.Teacher],
    resume: str,
    losses: Mapping[str, Callable[..., Any]],
    ranks: Ranks,
) -> TrainResult:
    start_static_mode()
    for line in user_flags(os.environ):
        log.warning("%s", line)
    folder = build.run_folder(cfg)
    with open_run(folder) if ranks.first else nullcontext():
        return _train_in(cfg, teachers, folder, resume, losses, ranks)


def _train_in(
    cfg: RunConfig,
    teachers: Mapping[str, build.Teacher],
    folder: Path,
    resume: str,
    losses: Mapping[str, Callable[..., Any]],
    ranks: Ranks,
) -> TrainResult:
    session = Session(cfg.device)
    chosen = _choose(resume, folder, ranks)
    checkpoint = chosen[1] if chosen else None
    done = checkpoint.step if checkpoint else 0

    split = Split(ranks.rank, ranks.count, cfg.parallel.accumulate)
    loader = build_loader(cfg.data.train, seed=cfg.seed, train=True, path="data.train", split=split)
    eval_loader = build.build_eval_loader(cfg, ranks)
    try:
        build.check_classes(cfg, loader, "data.train")
        student = build.build_student(cfg)
        max_iters, epoch_steps = cfg.train.max_iters, len(loader)
        terms = terms_from_config(cfg.distill, losses, max_iters=max_iters, epoch_steps=epoch_steps) if teachers else ()
        outputs = open_outputs(cfg, teachers, terms, student.feeds, images=len(loader.dataset), on_cpu=session.on_cpu)
        training = training_step(
            student, teachers, terms, cfg, on_cpu=session.on_cpu, fed=outputs.prefixes, report=log.info
        )
        training = in_parts(training, terms, cfg.parallel, ranks.count, report=log.info)
        # After the terms are bound: evaluation may take long, and a mistake in the recipe shows at once.
        others = {} if done else {prefix: t for prefix, t in teachers.items() if t.ema is None}
        judged = {prefix: build.check_teacher(cfg, prefix, t, eval_loader, ranks) for prefix, t in others.items()}
        show_precision(cfg, teachers, terms, lambda: loader.batch(done), on_cpu=session.on_cpu)
        usual = partial(usual_step, cfg, teachers, terms, on_cpu=session.on_cpu)
        training = _started(cfg, session, training, usual)
        load_state(session, training, student, cfg, checkpoint)
        start_together(session, training, ranks, done)

        job = _Job(cfg, session, training, folder, loader, eval_loader, ranks, outputs)
        if ranks.first:
            for line in compare_facts(chosen, cfg, job.facts(done)) if chosen else ():
                log.warning("the result will not be that of the uninterrupted run: %s", line)
            make_way(folder, chosen)
        batches = job.batches(done)
        try:
            with job.status.reporting() if ranks.first else nullcontext():
                run_loop(job.step_function(batches), done, max_iters, job.hooks(chosen))
        finally:
            batches.close()
    finally:
        loader.close()
        eval_loader.close()
    return TrainResult(folder, job.last, job.best, judged)


def _started(
    cfg: RunConfig, session: Session, training: TrainingProgram, usual: Callable[[], NamedProgram | None]
) -> TrainingProgram:
    """The training program on its kernels, with first values in the session; it no longer holds them itself."""
    placed = place(
        training.program,
        cfg.compile.placement,
        on_cpu=session.on_cpu,
        fixed=usual,
        kernels=cfg.compile.kernels,
    )
    log.info("step: %s", placed.summary())
    session.start(placed.program, cfg.seed)
    return replace(training, program=replace(placed.program, values={}))


def _choose(resume: str, folder: Path, ranks: Ranks) -> tuple[Path, Checkpoint] | None:
    """The checkpoint to go on from, chosen and checked by rank 0 and read by all."""
    mine = choose_checkpoint(resume, folder) if ranks.first else None
    if ranks.count == 1:
        return mine
    path = ranks.same_path(lambda: mine[0] if mine else None)
    return mine if ranks.first or path is None else (path, load_checkpoint(path))


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
        ranks: Ranks,
        outputs: TeacherOutputs,
    ) -> None:
        self.cfg, self.session, self.training, self.outputs = cfg, session, training, outputs
        self.folder, self.loader, self.eval_loader, self.ranks = folder, loader, eval_loader, ranks
        self.parts = PartRunner(session, training, loader, ranks, cfg.seed)
        self.last: Evaluation | None = None
        self.best: float | None = None
        self.status = StatusFile(folder, cfg.name, ranks.count)
        # All ranks stop after the same step: when any of them was told to.
        agree = ranks.any if ranks.count > 1 else bool
        self.stop = StopOnSignal(lambda done: self.save(done, overdue=self.evaluation.due(done)), agree)
        self.recorder = Recorder(folder / RECORD, cfg.train.log_iter)
        self.scalars = Scalars(folder / "vdl", cfg.train.log_iter)
        self.rewind = Rewind(session, (*training.student, *training.state))

    def facts(self, done: int) -> dict[str, Any]:
        """What the manifest of a checkpoint says of the run."""
        return run_facts(self.cfg, done, self.loader, "cpu" if self.session.on_cpu else "gpu", self.ranks.count)

    def hooks(self, chosen: tuple[Path, Checkpoint] | None) -> list[Hook]:
        """Progress and records first, so that a failing save or evaluation has its step on record.

        Evaluation comes before the checkpoint: a run that is interrupted in between does both again. One that is
        stopped by a signal saves at once, and notes when that leaves an evaluation to the next start.
        """
        train = self.cfg.train
        overdue = chosen is not None and bool(chosen[1].facts.get(OVERDUE))
        self.evaluation = EverySteps(train.eval_iter or train.snapshot_iter, self.evaluate, overdue=overdue)
        together: list[Hook] = [
            self.outputs,
            self.stop,
            self.evaluation,
            EverySteps(train.snapshot_iter, self.save, overdue=overdue),
        ]
        if self.cfg.parallel.drift_every and self.ranks.count > 1:
            together.insert(0, EverySteps(self.cfg.parallel.drift_every, self.check_drift))
        if not self.ranks.first:
            return together
        self.best = best_metric(self.folder / BEST)
        self.status.report(best=self.best, last_checkpoint=str(chosen[0]) if chosen else None)
        train_batch = self.cfg.data.train.batch_size * self.loader.maker.parts
        (self.folder / "config.yml").write_text(dump_config(self.cfg), encoding="utf-8")
        return [
            Progress(self.cfg.name, train_batch, train.log_iter, self.status.report),
            self.recorder,
            self.scalars,
            *together,
        ]

    def batches(self, start: int) -> Generator[dict[str, np.ndarray], None, None]:
        """The training batches from step `start` on, with all that the program is fed."""
        return self.outputs.complete(self.loader.batches(start=start * self.cfg.parallel.accumulate))

    def step_function(self, batches: Generator[dict[str, np.ndarray], None, None]) -> Any:
        """The function that does one step; the first of a run, or of a scheduled term, also checks gradients."""
        fetch = list(self.training.losses.values())
        labels = list(self.training.losses)

        def one_step(step: int) -> dict[str, float]:
            self.rewind.before(step)
            rate = self._prepare(step)
            gradients = self.training.first_gradients(step)
            if gradients:
                out = self._checked_step(batches, fetch, step, gradients)
            else:
                out = self.parts.run(step, batches, fetch)
            values = {label: float(out[name]) for label, name in zip(labels, fetch, strict=True)}
            try:
                check_finite(values, step, rate)
            except TrainingError as error:
                batches.close()  # teachers may be at work on the next one
                raise TrainingError(f"{error}; {self._save_sound(step, fetch)}") from error
            return {**values, "lr": rate}

        return one_step

    def _prepare(self, step: int) -> float:
        """Set all that a step depends on beside state and batch; returns the learning rate."""
        rate = learning_rate(self.cfg.schedule, step, self.cfg.train.max_iters)
        self.session.write(self.training.scalars(rate, step))
        return rate

    def _save_sound(self, step: int, fetch: list[str]) -> str:
        """Save the state before the failed `step`, and say where."""
        batches = self.batches(self.rewind.step)

        def again(number: int) -> None:
            self._prepare(number)
            self.parts.run(number, batches, fetch)

        done = self.rewind.back_to(step, again)
        batches.close()
        self.save(done)
        return f"the state after {done} steps is saved in {self.folder / str(done)}"

    def _checked_step(
        self,
        batches: Iterator[Mapping[str, np.ndarray]],
        fetch: list[str],
        step: int,
        gradients: Mapping[str, str],
    ) -> dict[str, np.ndarray]:
        """A step after which the given gradients are looked at and no frozen parameter may have moved."""
        owned = {*self.training.student, *self.training.state}
        others = (name for name in self.training.program.parameters() if name not in owned)
        frozen = [name for name in others if not name.startswith(PARTS)]
        before = _digest(self.session, frozen)
        out = self.parts.run(step, batches, [*fetch, *gradients.values()])
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

    def save(self, done: int, overdue: bool = False) -> None:
        """Write a complete checkpoint, then drop the oldest; at the end before it the final model.

        Args:
            done: completed steps.
            overdue: the evaluation after this step is left to the next start, and with it the end of the run.
        """
        if self.ranks.first:
            with self.ranks.limited("writing a checkpoint", SLOW):
                self._save(done, overdue)
        self.ranks.wait()

    def check_drift(self, done: int) -> None:
        """Compare all that training changes over the ranks."""
        self.ranks.check_drift(self.session, (*self.training.student, *self.training.state), f"step {done}")

    def _save(self, done: int, overdue: bool) -> None:
        facts = {**self.facts(done), "config_sha256": _config_hash(self.cfg), OVERDUE: overdue}
        model, state = self.session.read(self.training.student), self.session.read(self.training.state)
        text = dump_config(self.cfg)
        if done == self.cfg.train.max_iters and not overdue:
            save_checkpoint(self.folder / FINAL, Checkpoint(self.model(), {}, done, facts), text)
        save_checkpoint(self.folder / str(done), Checkpoint(model, state, done, facts), text)
        self.status.report(step=done, last_checkpoint=str(self.folder / str(done)))
        remove_old(self.folder, self.cfg.train.keep)

    @cached_property
    def traced(self) -> NamedProgram:
        """The student in its form for detection."""
        return build.trace_detector(self.cfg)

    def evaluate(self, done: int) -> None:
        """Score the student, and keep its parameters when it is the best so far."""
        values = self.model()
        check = (lambda: self.stop.check(done)) if self.ranks.count == 1 else (lambda: None)
        self.last = build.evaluate(
            self.cfg, values, self.eval_loader, ranks=self.ranks, before_batch=check, traced=self.traced
        )
        if not self.ranks.first:
            return
        log.info("step %d: %s", done, self.last)
        for writer in (self.recorder, self.scalars):
            writer.write(done, {"metric": self.last.metric})
        if self.best is None or self.last.metric > self.best:
            self.best = self.last.metric
            facts = {"metric": self.last.metric, "metric_name": self.last.name, **self.facts(done)}
            with self.ranks.limited("writing the best model", SLOW):
                save_checkpoint(self.folder / BEST, Checkpoint(values, {}, done, facts), dump_config(self.cfg))
        self.status.report(step=done, metric=self.last.metric, best=self.best)


def _digest(session: Session, names: list[str]) -> str:
    digest = hashlib.sha256()
    for array in session.read(names).values():
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _config_hash(cfg: RunConfig) -> str:
    return hashlib.sha256(json.dumps(to_dict(cfg), sort_keys=True, default=str).encode()).hexdigest()
