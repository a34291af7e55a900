"""The published pair of detectors with random weights, for benchmarks inside one process."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from _worker import make_batch

__all__ = ["RECIPES", "published"]

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
