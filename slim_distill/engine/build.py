"""The composition root: from configurations to models, programs and data, in plain sight."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slim_distill.common.errors import ConfigError, TrainingError
from slim_distill.common.weights import match_weights, read_weights
from slim_distill.config.schema import RunConfig, TeacherConfig
from slim_distill.data.build import build_loader
from slim_distill.data.labels import read_labels
from slim_distill.data.loader import Loader
from slim_distill.engine.evaluate import Evaluation, detect, score
from slim_distill.engine.session import Session
from slim_distill.graph import (
    Freeze,
    NamedProgram,
    Pass,
    PassResult,
    Slice,
    count_operators,
    dtype_of,
    merge,
    run_passes,
    shape_of,
    trace,
)
from slim_distill.graph.passes import FoldBatchNorm, FuseInference
from slim_distill.losses.terms import Term, bind_all
from slim_distill.models.build import build_model

__all__ = [
    "Detector",
    "Report",
    "Teacher",
    "build_detector",
    "build_eval_loader",
    "build_merged",
    "build_student",
    "build_teacher",
    "check_classes",
    "check_teacher",
    "class_names",
    "cut_to_losses",
    "evaluate",
    "load_model",
    "load_teacher",
    "load_weights",
    "run_folder",
]

log = logging.getLogger(__name__)

Report = Callable[[str], None]
"""Takes one line about what was done to a program."""


@dataclass(frozen=True)
class Teacher:
    """One teacher: its run configuration, its parameters, and whether it stays frozen."""

    cfg: RunConfig
    values: Mapping[str, np.ndarray]
    frozen: bool = True


@dataclass(frozen=True)
class Detector:
    """An inference program with its parameters in a session of its own."""

    session: Session
    program: NamedProgram


def build_student(cfg: RunConfig, size_px: int | None = None, batch: int | None = None) -> NamedProgram:
    """The student's training program, not yet merged with anything; sizes that are None are dynamic."""
    return trace(build_model(cfg.model, "train", size_px, batch))


def build_teacher(
    cfg: RunConfig, student: RunConfig, size_px: int | None = None, batch: int | None = None
) -> NamedProgram:
    """A teacher's training program, with the student's form of the loss so that it exposes the same variables."""
    loss = replace(cfg.model.loss, fine_grained=student.model.loss.fine_grained)
    return trace(build_model(replace(cfg.model, loss=loss), "train", size_px, batch))


def load_weights(source: str, program: NamedProgram, *, strict: bool) -> dict[str, np.ndarray]:
    """Read a weights file or URL and keep what fits the program's parameters.

    Args:
        source: path or URL.
        program: whose parameters are wanted.
        strict: every parameter must be there with its shape; otherwise what fits is taken, as for a backbone.

    Raises:
        WeightsError: the file cannot be read, or does not fit; the message lists what does not.
    """
    parameters = program.parameters()
    wanted = {name: shape_of(value) for name, value in parameters.items()}
    arrays, report = match_weights(read_weights(source), wanted, what=source, strict=strict)
    log.info("%s: %s", source, report)
    # Files may hold half precision to be small; the program computes in its own.
    stored = Counter(str(a.dtype) for name, a in arrays.items() if str(a.dtype) != dtype_of(parameters[name]))
    for dtype, number in stored.items():
        log.info("%s: %d parameters stored as %s are converted to the program's number type", source, number, dtype)
    return {name: array.astype(dtype_of(parameters[name]), copy=False) for name, array in arrays.items()}


def load_teacher(teacher: TeacherConfig, cfg: RunConfig) -> Teacher:
    """Read a teacher's weights and check them against its configuration."""
    source = teacher.weights or cfg.weights
    if not source:
        raise ConfigError(
            f"distill.teachers: the teacher {cfg.name} has no weights; give --teacher_pretrained URL_OR_PATH"
        )
    program = trace(build_model(cfg.model, "eval"))
    return Teacher(cfg, load_weights(source, program, strict=True), teacher.frozen)


def build_merged(
    student: NamedProgram,
    teachers: Mapping[str, Teacher],
    terms: Sequence[Term],
    cfg: RunConfig,
    *,
    on_cpu: bool,
    keep: Sequence[str] = (),
    size_px: int | None = None,
    batch: int | None = None,
    report: Report = log.debug,
) -> NamedProgram:
    """Student and teachers in one program; of a frozen teacher only what the terms need, compiled for inference.

    Args:
        student: the student's training program.
        teachers: prefix -> teacher.
        terms: the recipe.
        cfg: the student's run.
        on_cpu: whether the program will run on a CPU.
        keep: further variables of every teacher, without prefix: "loss" is its own detection loss.
        size_px, batch: of the student's program, where it was built for one size.
        report: is told what was done to each frozen teacher.
    """
    merged = student
    for prefix, teacher in teachers.items():
        guest = build_teacher(teacher.cfg, cfg, size_px, batch).with_values(teacher.values)
        wanted = (n.removeprefix(prefix) for t in terms for n in t.teacher if n.startswith(prefix))
        needed = tuple(dict.fromkeys((*wanted, *keep)))
        if teacher.frozen:
            before = count_operators(guest)
            result = _compiled(guest, needed, cfg.compile.teacher == "auto" and on_cpu)
            guest = result.program
            report(f"{prefix}: {result.summary()}; {before} -> {count_operators(guest)} operators in a step")
        merged = merge(merged, guest, prefix)
    return merged


def cut_to_losses(
    merged: NamedProgram, terms: Sequence[Term], *, task_loss: str = "loss", report: Report = log.debug
) -> NamedProgram:
    """A merged program without what no loss reads, such as parts of the student's loss that are only for looking at.

    Raises:
        LossError: a term does not bind.
        TrainingError: a trainable parameter would go too, that is, no loss reads it.
    """
    bind_all(terms, merged.__getitem__)  # first, because its errors say which term is wrong
    wanted = [name for term in terms for name in (*term.student, *term.teacher)]
    result = run_passes(merged, [Slice(tuple(dict.fromkeys([task_loss, *wanted])))])
    left = result.program.trainable()
    lost = [name for name in merged.trainable() if name not in left]
    if lost:
        shown = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
        raise TrainingError(
            f"{len(lost)} trainable parameters are read by no loss: {shown}. "
            "Add a term that reaches them, or freeze them"
        )
    report(f"what no loss reads: {result.summary()}")
    return result.program


def _compiled(program: NamedProgram, keep: Sequence[str], fuse: bool) -> PassResult:
    passes: list[Pass] = [Freeze(), Slice(tuple(keep))]
    if fuse:
        passes += [FoldBatchNorm(tuple(keep)), FuseInference(tuple(keep))]
    result = run_passes(program, passes)
    for note in result.notes:
        log.debug("%s", note)
    return result


def build_detector(cfg: RunConfig, values: Mapping[str, np.ndarray]) -> Detector:
    """A model ready to detect: frozen, cut to its detections, compiled, with the given parameters."""
    session = Session(cfg.device)
    program = trace(build_model(cfg.model, "eval")).with_values(values)
    program = _compiled(program, ("dets", "dets_num"), cfg.compile.teacher == "auto" and session.on_cpu).program
    session.start(program, seed=0)
    return Detector(session, program)


def build_eval_loader(cfg: RunConfig) -> Loader:
    """The evaluation data of a run, checked against its class count."""
    loader = build_loader(cfg.data.eval, seed=cfg.seed, train=False, path="data.eval")
    check_classes(cfg, loader, "data.eval")
    return loader


def evaluate(cfg: RunConfig, values: Mapping[str, np.ndarray], loader: Loader) -> Evaluation:
    """Score a model with the given parameters on a data set."""
    detector = build_detector(cfg, values)
    found = detect(detector.session, detector.program, loader.batches())
    return score(found, loader.dataset.records, loader.dataset.classes, cfg.eval)


def check_classes(cfg: RunConfig, loader: Loader, where: str) -> None:
    """Raise ConfigError when the data set has another number of classes than the model."""
    classes = loader.dataset.classes
    if len(classes) != cfg.model.num_classes:
        raise ConfigError(
            f"model.num_classes is {cfg.model.num_classes}, but the data set of {where} has {len(classes)} classes "
            f"({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}); make them agree"
        )


def check_teacher(cfg: RunConfig, prefix: str, teacher: Teacher, loader: Loader) -> Evaluation:
    """Evaluate a teacher on the student's data and refuse one that has nothing to teach.

    Raises:
        ConfigError: its class count is not the student's.
        TrainingError: its metric is below `distill.min_teacher_metric` and `distill.force` is off.
    """
    mine, its = cfg.model.num_classes, teacher.cfg.model.num_classes
    if mine != its:
        raise ConfigError(f"the teacher {prefix!r} has {its} classes, the student {mine}; both must have the same")
    # The teacher judges the student's data, by the student's metric.
    result = evaluate(replace(teacher.cfg, eval=cfg.eval, device=cfg.device), teacher.values, loader)
    log.info("teacher %s on the evaluation data: %s", prefix, result)
    if result.metric < cfg.distill.min_teacher_metric and not cfg.distill.force:
        raise TrainingError(
            f"the teacher {prefix!r} reaches {result.name} {result.metric:.4f} on the evaluation data, below "
            f"distill.min_teacher_metric {cfg.distill.min_teacher_metric}: it has nothing to teach. Check its weights "
            "and classes, or go on with -o distill.force=true"
        )
    return result


def run_folder(cfg: RunConfig) -> Path:
    """Where a run's files go."""
    return Path(cfg.output_dir) / cfg.name


def load_model(cfg: RunConfig) -> dict[str, np.ndarray]:
    """The parameters behind `cfg.weights`, all of them."""
    program = trace(build_model(cfg.model, "eval"))
    return load_weights(cfg.weights, program, strict=True)


def class_names(cfg: RunConfig) -> tuple[str, ...]:
    """Names of the model's classes as the run's data sets have them, or their numbers where none names them."""
    for reader in (cfg.data.eval, cfg.data.train):
        dataset = reader.dataset
        if dataset.labels or dataset.classes:
            return read_labels(dataset.labels, dataset.classes, Path(dataset.root))
    return tuple(str(k) for k in range(cfg.model.num_classes))
