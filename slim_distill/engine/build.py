"""The composition root: from configurations to models, programs and data, in plain sight."""

import gc
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slim_distill.common.errors import ConfigError, TrainingError, VariableNotFoundError
from slim_distill.common.names import first_few
from slim_distill.common.weights import match_weights, read_weights
from slim_distill.config.schema import RunConfig, TeacherConfig
from slim_distill.data.batches import Split
from slim_distill.data.build import build_loader
from slim_distill.data.loader import Loader
from slim_distill.engine.classes import check_classes, class_index, class_names
from slim_distill.engine.distributed import ALONE, Ranks
from slim_distill.engine.evaluate import Evaluation, detect, renumber, score, score_together
from slim_distill.engine.precision import reduced_precision, trained_in
from slim_distill.engine.session import Session
from slim_distill.graph import (
    Feed,
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
from slim_distill.graph.passes import FoldBatchNorm, FuseInference, ReducePrecision, Winograd
from slim_distill.losses.terms import Term, bind_all
from slim_distill.models.build import build_model
from slim_distill.models.classes import select_classes

__all__ = [
    "Detector",
    "Report",
    "Teacher",
    "build_detector",
    "build_eval_loader",
    "build_frozen",
    "build_merged",
    "build_student",
    "build_teacher",
    "check_classes",
    "check_teacher",
    "class_index",
    "class_names",
    "cut_to_losses",
    "evaluate",
    "load_model",
    "load_teacher",
    "load_weights",
    "pretrained",
    "run_folder",
    "trace_detector",
]

log = logging.getLogger(__name__)

Report = Callable[[str], None]
"""Takes one line about what was done to a program."""


@dataclass(frozen=True)
class Teacher:
    """One teacher: its run configuration, its parameters, whether it stays frozen, and whose classes it has.

    `classes` is "same", or "by_name": its class outputs are then brought into the order of the student's classes.
    With `ema` it is the student's own moving average: `cfg` is then the student's, and `values` are empty.
    """

    cfg: RunConfig
    values: Mapping[str, np.ndarray]
    frozen: bool = True
    classes: str = "same"
    ema: float | None = None


@dataclass(frozen=True)
class Detector:
    """An inference program with its parameters in a session of its own."""

    session: Session
    program: NamedProgram


def build_student(cfg: RunConfig, size_px: int | None = None, batch: int | None = None) -> NamedProgram:
    """The student's training program, not yet merged with anything; sizes that are None are dynamic."""
    return trace(build_model(cfg.model, "train", size_px, batch))


def build_teacher(
    cfg: RunConfig,
    student: RunConfig,
    index: Sequence[int] | None = None,
    *,
    size_px: int | None = None,
    batch: int | None = None,
) -> NamedProgram:
    """A teacher's training program, with the student's form of the loss so that it exposes the same variables.

    `index` holds the number of each of the student's classes among the teacher's, where they differ. Sizes that are
    None are dynamic.
    """
    loss = replace(cfg.model.loss, fine_grained=student.model.loss.fine_grained)
    spec = build_model(replace(cfg.model, loss=loss), "train", size_px, batch)
    return trace(spec if index is None else select_classes(spec, index))


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


def pretrained(cfg: RunConfig, student: NamedProgram) -> dict[str, np.ndarray]:
    """What the student starts with: the arrays of `train.pretrain_weights` that fit it and are not excluded."""
    if not cfg.train.pretrain_weights:
        return {}
    excluded = [re.compile(expression) for expression in cfg.train.pretrain_exclude]
    arrays = load_weights(cfg.train.pretrain_weights, student, strict=False)
    return {n: a for n, a in arrays.items() if not any(e.match(n) for e in excluded)}


def load_teacher(teacher: TeacherConfig, cfg: RunConfig) -> Teacher:
    """Read a teacher's weights and check them against its configuration; one with `ema` has none.

    Raises:
        ConfigError: there are no weights, or some beside `ema`.
        WeightsError: they cannot be read, or do not fit.
    """
    if teacher.ema is not None and (teacher.config or teacher.weights or not teacher.frozen):
        raise ConfigError("distill.teachers: a teacher with ema is the student itself; leave out config and weights")
    if teacher.ema is not None:
        return Teacher(cfg, {}, ema=teacher.ema)
    source = teacher.weights or cfg.weights
    if not source:
        raise ConfigError(
            f"distill.teachers: the teacher {cfg.name} has no weights; give --teacher_pretrained URL_OR_PATH"
        )
    return Teacher(cfg, load_weights(source, trace_detector(cfg), strict=True), teacher.frozen, teacher.classes)


def build_merged(
    student: NamedProgram,
    teachers: Mapping[str, Teacher],
    terms: Sequence[Term],
    cfg: RunConfig,
    *,
    on_cpu: bool,
    keep: Sequence[str] = (),
    fed: Collection[str] = (),
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
        fed: prefixes of frozen teachers that are left out: what the terms need of them becomes feeds of the program.
        size_px, batch: of the student's program, where it was built for one size.
        report: is told what was done to each frozen teacher.
    """
    merged = trained_in(cfg.compile.student_precision, student, on_cpu=on_cpu, report=report)
    for prefix, teacher in teachers.items():
        if teacher.frozen:
            guest, _ = build_frozen(
                prefix, teacher, terms, cfg, on_cpu=on_cpu, keep=keep, fed=prefix in fed, size_px=size_px, batch=batch,
                report=report,
            )  # fmt: skip
        else:
            guest = _build_guest(prefix, teacher, cfg, size_px, batch)
            guest = trained_in(cfg.compile.student_precision, guest, on_cpu=on_cpu)
        merged = merge(merged, guest, prefix)
    return merged


def build_frozen(
    prefix: str,
    teacher: Teacher,
    terms: Sequence[Term],
    cfg: RunConfig,
    *,
    on_cpu: bool,
    keep: Sequence[str] = (),
    fed: bool = False,
    size_px: int | None = None,
    batch: int | None = None,
    report: Report = log.debug,
) -> tuple[NamedProgram, tuple[str, ...]]:
    """A frozen teacher's program, cut to what the terms need and compiled, and the names of that without prefix.

    With `fed` nothing is computed: the program only has a feed for each of these names. Other arguments are those of
    `build_merged`.
    """
    guest = _build_guest(prefix, teacher, cfg, size_px, batch)
    needed = tuple(dict.fromkeys((*_read_by(terms, prefix, guest), *keep)))
    if fed:
        return run_passes(guest, [Freeze(), Feed(needed), Slice(needed)]).program, needed
    before = count_operators(guest)
    # The parameters of a moving average change, so nothing of it may be folded together.
    fuse = teacher.ema is None and cfg.compile.teacher == "auto" and on_cpu
    reduce, why = reduced_precision(cfg.compile.teacher_precision, fused=fuse, on_cpu=on_cpu)
    if why:
        report(f"{prefix}: compile.teacher_precision: {why}; it stays in float32")
    passes: list[Pass] = [Winograd()] if fuse and cfg.compile.kernels == "auto" and not reduce else []
    passes += [ReducePrecision(needed, reduce, "cpu" if on_cpu else "gpu")] if reduce else []
    result = _compiled(guest, needed, fuse, passes)
    report(f"{prefix}: {result.summary()}; {before} -> {count_operators(result.program)} operators in a step")
    return result.program, needed


def _build_guest(prefix: str, teacher: Teacher, cfg: RunConfig, size_px: int | None, batch: int | None) -> NamedProgram:
    index = class_index(cfg, prefix, teacher)
    return build_teacher(teacher.cfg, cfg, index, size_px=size_px, batch=batch).with_values(teacher.values)


def _read_by(terms: Sequence[Term], prefix: str, guest: NamedProgram) -> list[str]:
    """Names of a teacher's variables, without its prefix, that the terms read."""
    names = []
    for term in terms:
        for name in (name.removeprefix(prefix) for name in term.teacher if name.startswith(prefix)):
            try:
                guest.canonical(name)
            except VariableNotFoundError as error:
                raise VariableNotFoundError(f"{term.path}.teacher: {error}") from error
            names.append(name)
    return names


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
        raise TrainingError(
            f"{len(lost)} trainable parameters are read by no loss: {first_few(lost)}. "
            "Add a term that reaches them, or freeze them"
        )
    report(f"what no loss reads: {result.summary()}")
    return result.program


def _compiled(program: NamedProgram, keep: Sequence[str], fuse: bool, further: Sequence[Pass] = ()) -> PassResult:
    passes: list[Pass] = [Freeze(), Slice(tuple(keep))]
    if fuse:
        passes += [FoldBatchNorm(tuple(keep)), FuseInference(tuple(keep))]
    result = run_passes(program, [*passes, *further])
    for note in result.notes:
        log.debug("%s", note)
    return result


def trace_detector(cfg: RunConfig) -> NamedProgram:
    """A run's model in its form for detection, as it is. Keep it where it is needed again: Paddle never gives all of
    the memory back that tracing takes (1.3 MB for YOLOv3-MobileNetV1).
    """
    return trace(build_model(cfg.model, "eval"))


def build_detector(cfg: RunConfig, values: Mapping[str, np.ndarray], traced: NamedProgram | None = None) -> Detector:
    """A model ready to detect: frozen, cut to its detections, compiled, with the given parameters.

    Args:
        cfg: the model's run.
        values: its parameters.
        traced: what `trace_detector` made of the same run, if that is at hand.
    """
    session = Session(cfg.device)
    program = (trace_detector(cfg) if traced is None else traced).with_values(values)
    program = _compiled(program, ("dets", "dets_num"), cfg.compile.teacher == "auto" and session.on_cpu).program
    session.start(program, seed=0)
    return Detector(session, program)


def build_eval_loader(cfg: RunConfig, ranks: Ranks = ALONE) -> Loader:
    """The evaluation data of a run, checked against its class count; of several ranks each gets some batches."""
    split = Split(ranks.rank, ranks.count)
    loader = build_loader(cfg.data.eval, seed=cfg.seed, train=False, path="data.eval", split=split)
    check_classes(cfg, loader, "data.eval")
    return loader


def evaluate(
    cfg: RunConfig,
    values: Mapping[str, np.ndarray],
    loader: Loader,
    index: Sequence[int] | None = None,
    ranks: Ranks = ALONE,
    before_batch: Callable[[], None] = lambda: None,
    traced: NamedProgram | None = None,
) -> Evaluation:
    """Score a model with the given parameters on a data set.

    Args:
        cfg: the model's run.
        values: its parameters.
        loader: the data set; of several ranks each has a part.
        index: the model's number of each of the data set's classes, where they differ.
        ranks: who evaluates together; all get the same result.
        before_batch: may raise to give up in between.
        traced: what `trace_detector` made of the same run, if that is at hand.
    """

    def watched() -> Generator[dict[str, np.ndarray], None, None]:
        """The batches; each must be there and done with in time."""
        with closing(loader.batches()) as batches:
            for number in itertools.count():
                with ranks.limited(f"batch {number} of an evaluation"):
                    batch = next(batches, None)
                    if batch is None:
                        return
                    before_batch()
                    yield batch

    detector = build_detector(cfg, values, traced)
    with closing(watched()) as batches:
        found = detect(detector.session, detector.program, batches)
    del detector
    gc.collect()  # Paddle's executors refer to themselves, and each keeps as much memory as the model
    found = found if index is None else renumber(found, index)
    records, classes = loader.dataset.records, loader.dataset.classes
    return score_together(found, ranks, records, lambda every: score(every, records, classes, cfg.eval))


def check_teacher(cfg: RunConfig, prefix: str, teacher: Teacher, loader: Loader, ranks: Ranks = ALONE) -> Evaluation:
    """Evaluate a teacher on the student's data and refuse one that has nothing to teach.

    Raises:
        ConfigError: its classes are not the student's.
        TrainingError: its metric is below `distill.min_teacher_metric` and `distill.force` is off.
    """
    index = class_index(cfg, prefix, teacher)
    # The teacher judges the student's data, by the student's metric.
    result = evaluate(replace(teacher.cfg, eval=cfg.eval, device=cfg.device), teacher.values, loader, index, ranks)
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
    return load_weights(cfg.weights, trace_detector(cfg), strict=True)
