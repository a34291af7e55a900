"""From runs to the program of one training step, compiled; and what the compilation did."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from slim_distill.common.errors import ConfigError
from slim_distill.common.threads import has_avx512
from slim_distill.config.schema import CompileConfig, ReaderConfig, RunConfig
from slim_distill.engine import build
from slim_distill.engine.measure import KERNELS, choose_kernels
from slim_distill.engine.precision import reduced_precision
from slim_distill.engine.session import Session
from slim_distill.engine.training import TrainingProgram, build_training
from slim_distill.graph import (
    FuseNorms,
    NamedProgram,
    OwnKernels,
    Pass,
    PassResult,
    PlaceKernels,
    SplitGradients,
    UpdateEarly,
    convolution_layers,
    run_passes,
)
from slim_distill.losses.terms import Term

__all__ = [
    "fixed_step",
    "initial_values",
    "place",
    "show_precision",
    "training_step",
    "usual_size",
    "usual_step",
    "wants_own_kernels",
]

log = logging.getLogger(__name__)

# Weights at each position of a kernel from which, without AVX-512, one product takes less time for their gradient than
# Paddle's own kernel and oneDNN's (docs/performance.md).
_ONE_PRODUCT_FROM = 1 << 19


def usual_size(reader: ReaderConfig) -> int | None:
    """Height and width of a reader's images in pixels, the middle one where they change; None for no fixed size."""
    size = None
    for transform in (*reader.transforms, *reader.batch_transforms):
        if transform.type == "RandomShape":
            sizes = sorted(transform.args["sizes"])
            size = sizes[len(sizes) // 2]
        elif transform.type == "ResizeImage":
            target = transform.args.get("target_size")
            size = target if isinstance(target, int) and target > 0 else size
    return size


def fixed_step(
    cfg: RunConfig,
    teachers: Mapping[str, build.Teacher],
    terms: Sequence[Term],
    *,
    size_px: int,
    batch: int,
    on_cpu: bool,
) -> TrainingProgram:
    """The program of a training step for one batch and image size, so that every shape in it is known; not placed.

    Raises:
        ConfigError: there are teachers, but no term reads one.
        SlimDistillError: the same as in training.
    """
    read = [name for term in terms for name in term.teacher]
    idle = [prefix for prefix in teachers if not any(name.startswith(prefix) for name in read)]
    if idle:
        raise ConfigError(
            f"distill.terms: no term reads the teacher {idle[0]!r}, so it has no part in a step; add a term"
        )
    student = build.build_student(cfg, size_px, batch)
    return training_step(student, teachers, terms, cfg, on_cpu=on_cpu, size_px=size_px, batch=batch)


def training_step(
    student: NamedProgram,
    teachers: Mapping[str, build.Teacher],
    terms: Sequence[Term],
    cfg: RunConfig,
    *,
    on_cpu: bool,
    fed: Collection[str] = (),
    size_px: int | None = None,
    batch: int | None = None,
    report: build.Report = log.debug,
) -> TrainingProgram:
    """The program of a training step: the teachers merged in, cut to what the losses read, with its update; not placed.

    Args:
        student: the student's training program.
        teachers: prefix -> teacher.
        terms: the recipe.
        cfg: the student's run.
        on_cpu: whether the program will run on a CPU.
        fed: prefixes of frozen teachers that are left out: what the terms need of them becomes feeds.
        size_px, batch: of the student's program, where it was built for one size.
        report: is told what was done to the teachers and to the whole.
    """
    merged = build.build_merged(
        student, teachers, terms, cfg, on_cpu=on_cpu, fed=fed, size_px=size_px, batch=batch, report=report
    )
    averages = {prefix: teacher.ema for prefix, teacher in teachers.items() if teacher.ema is not None}
    cut = build.cut_to_losses(merged, terms, report=report)
    for_cpu = on_cpu and cfg.compile.placement != "stock"
    return build_training(cut, terms, cfg.optimizer, averages=averages, for_cpu=for_cpu)


def show_precision(
    cfg: RunConfig,
    teachers: Mapping[str, build.Teacher],
    terms: Sequence[Term],
    batch: Callable[[], Mapping[str, np.ndarray]],
    *,
    on_cpu: bool,
) -> None:
    """Log the error that `compile.teacher_precision` causes in what the losses read, on one batch.

    Args:
        cfg: the student's run.
        teachers: prefix -> teacher.
        terms: the recipe.
        batch: gives an array for every feed.
        on_cpu: whether training runs on a CPU.
    """
    full = replace(cfg, compile=replace(cfg.compile, teacher_precision="float32"))
    for prefix, teacher in teachers.items():
        fused = cfg.compile.teacher == "auto" and on_cpu
        dtype, _ = reduced_precision(cfg.compile.teacher_precision, fused=fused, on_cpu=on_cpu)
        if not dtype or not teacher.frozen or teacher.ema is not None:
            continue
        found = []
        for run in (cfg, full):
            program, names = build.build_frozen(prefix, teacher, terms, run, on_cpu=on_cpu)
            session = Session(cfg.device)
            session.start(program, seed=0)
            found.append(session.run(program, batch(), names))
        reduced, exact = found
        errors = {n: np.abs(reduced[n] - exact[n]).max() / max(np.abs(exact[n]).max(), 1e-30) for n in exact}
        worst = max(errors, key=lambda name: errors[name])
        log.info(
            "%s: convolutions in %s change what the losses read by up to %.2g of its largest number (%s)",
            prefix,
            dtype,
            errors[worst],
            worst,
        )


def initial_values(program: NamedProgram) -> NamedProgram:
    """The program with the values that its startup program computes, where no weights are at hand."""
    session = Session("cpu")
    session.start(program, seed=0)
    return program.with_values(session.read(program.parameters()))


def place(
    program: NamedProgram,
    placement: str,
    *,
    on_cpu: bool,
    fixed: Callable[[], NamedProgram | None],
    kernels: str = "auto",
) -> PassResult:
    """A training program on the kernels that `compile.placement` and `compile.kernels` ask for.

    Args:
        program: forward, backward and update.
        placement: auto | stock | onednn | measure.
        on_cpu: whether it will run on a CPU.
        fixed: gives the same program for one batch and image size, on which `measure` measures; None where no size
            is usual, and then the rules of `auto` decide.
        kernels: auto | off.
    """
    if placement == "stock":
        return PassResult(program, False)
    if not on_cpu:
        return run_passes(program, [PlaceKernels(device="gpu")])
    onednn = PlaceKernels(avx512=has_avx512(), pointwise=placement == "onednn")
    split = SplitGradients(math.inf if onednn.avx512 or onednn.pointwise else _ONE_PRODUCT_FROM)
    has_own, own = _has_own_kernels(placement, kernels), OwnKernels()
    if placement == "measure":
        chosen = _measured(fixed(), split, own=has_own)
        if chosen is not None:
            named = {kind: frozenset(name for name, k in chosen.items() if k == kind) for kind in KERNELS}
            onednn, own = replace(onednn, chosen=named["onednn"]), replace(own, chosen=named["own"])
    passes: list[Pass] = [split, *((FuseNorms(), own) if has_own else ()), onednn, UpdateEarly()]
    return run_passes(program, passes)


def wants_own_kernels(cfg: CompileConfig) -> bool:
    """Whether a run on a CPU asks for kernels of our own anywhere: in what trains or in frozen teachers."""
    return _has_own_kernels(cfg.placement, cfg.kernels) or (cfg.teacher, cfg.kernels) == ("auto", "auto")


def _has_own_kernels(placement: str, kernels: str) -> bool:
    return kernels == "auto" and placement in ("auto", "measure")


def _measured(fixed: NamedProgram | None, split: SplitGradients, *, own: bool) -> dict[str, str] | None:
    if fixed is None:
        log.info("compile.placement: measure needs images of a known size; the rules of auto are used")
        return None
    layers = convolution_layers(run_passes(fixed, [split]).program)
    chosen = choose_kernels(layers, own=own)
    count = Counter(chosen.values())
    log.info(
        "measured: of %d convolutions and gradients %d are faster on oneDNN, %d on kernels of our own",
        len(layers),
        count["onednn"],
        count["own"],
    )
    return chosen


def usual_step(
    cfg: RunConfig, teachers: Mapping[str, build.Teacher], terms: Sequence[Term], *, on_cpu: bool
) -> NamedProgram | None:
    """The program of a training step at the usual size of the training reader; None where it has none."""
    size_px, batch = usual_size(cfg.data.train), cfg.data.train.batch_size
    if size_px is None:
        return None
    log.info("kernels are compared for batches of %d images of %d px", batch, size_px)
    return fixed_step(cfg, teachers, terms, size_px=size_px, batch=batch, on_cpu=on_cpu).program
