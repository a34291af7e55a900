"""The published pair of detectors with random weights, for benchmarks inside one process."""

from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from _worker import make_batch

__all__ = ["RECIPES", "make_step", "make_training", "published"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = ("l2", "objectness")


def published(recipe: str, *options: str) -> SimpleNamespace:
    """`cfg` of the YOLOv3-MobileNetV1 student, `teachers` (one YOLOv3-ResNet34), `terms`, and `batch(count, size_px)`.

    Args:
        recipe: l2 | objectness.
        options: overrides of the student's run, as after -o.
    """
    from slim_distill.config import load_config
    from slim_distill.engine import build
    from slim_distill.engine.compiling import initial_values
    from slim_distill.engine.session import start_static_mode
    from slim_distill.losses.build import terms_from_config

    start_static_mode()
    fine = recipe == "objectness"
    flags = [f"use_fine_grained_loss={str(fine).lower()}", *options]
    cfg = load_config(CONFIGS / "yolov3_mobilenet_v1_voc.yml", flags)
    its = load_config(CONFIGS / "yolov3_r34_voc.yml")
    values = initial_values(build.build_teacher(its, cfg)).values
    terms = terms_from_config(cfg.distill, max_iters=cfg.train.max_iters)

    def batch(count: int, size_px: int, seed: int = 0) -> dict[str, np.ndarray]:
        return make_batch(count, size_px, fine_grained=fine, seed=seed)

    return SimpleNamespace(cfg=cfg, teachers={"teacher_": build.Teacher(its, values)}, terms=terms, batch=batch)


def make_step(job: SimpleNamespace, *, fed: tuple[str, ...] = (), precision: str = "float32") -> Callable[..., float]:
    """One compiled training step of a batch, with the given teachers fed; it returns the total loss."""
    from dataclasses import replace

    from slim_distill.engine import build
    from slim_distill.engine.compiling import place, training_step
    from slim_distill.engine.session import Session
    from slim_distill.engine.training import LEARNING_RATE

    cfg = replace(job.cfg, compile=replace(job.cfg.compile, teacher_precision=precision))
    training = training_step(build.build_student(cfg), job.teachers, job.terms, cfg, on_cpu=True, fed=fed)
    program = place(training.program, "auto", on_cpu=True, fixed=lambda: None).program
    session = Session("cpu")
    session.start(program, seed=1)
    session.write({LEARNING_RATE: np.asarray(1e-6, "float32")})
    total = training.losses["total"]

    def step(batch: Mapping[str, Any]) -> float:
        return float(session.run(program, batch, [total])[total])

    return step


def make_training(job: SimpleNamespace, batch: dict[str, Any]) -> Callable[[Iterable[dict[str, Any]]], list[float]]:
    """Trains on batches as `slim-distill distill` does, and returns their total losses.

    Args:
        job: what `published` gave.
        batch: repeated until it is found out whether the teacher had better work ahead of time; the log says.
    """
    from slim_distill.common.idle import TRIAL
    from slim_distill.engine.teacher_outputs import open_outputs

    outputs = open_outputs(job.cfg, job.teachers, job.terms, batch, images=len(batch["image"]), on_cpu=True)
    step = make_step(job, fed=outputs.prefixes)

    def turn(batches: Iterable[dict[str, Any]]) -> list[float]:
        return [step(completed) for completed in outputs.complete(one for one in batches)]

    turn(repeat(batch, TRIAL + 1))
    return turn
