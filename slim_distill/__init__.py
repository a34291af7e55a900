"""Knowledge distillation by rewriting PaddlePaddle programs.

Importing this package starts nothing: no Paddle import, no static mode, no seed, no thread. The names below are
loaded when they are first used; docs/api.md shows them at work.
"""

import importlib
from typing import Any

__all__ = [
    "LOSSES",
    "Freeze",
    "NamedProgram",
    "Runner",
    "Session",
    "Slice",
    "Term",
    "Trainer",
    "__version__",
    "add_targets",
    "attach",
    "build",
    "build_training",
    "distillation",
    "dkd",
    "fsp",
    "l2",
    "load_config",
    "load_inference_program",
    "loss",
    "merge",
    "merge_programs",
    "merge_teacher",
    "read_weights",
    "run_passes",
    "skd",
    "soft_label",
    "start",
    "start_static_mode",
    "trace",
    "write_weights",
]

__version__ = "0.1.0"

_HOME = {
    "LOSSES": "slim_distill.losses",
    "Freeze": "slim_distill.graph",
    "NamedProgram": "slim_distill.graph",
    "Session": "slim_distill.engine.session",
    "Slice": "slim_distill.graph",
    "Term": "slim_distill.losses.terms",
    "build_training": "slim_distill.engine.training",
    "load_config": "slim_distill.config",
    "load_inference_program": "slim_distill.graph",
    "read_weights": "slim_distill.common.weights",
    "run_passes": "slim_distill.graph",
    "start_static_mode": "slim_distill.engine.session",
    "trace": "slim_distill.graph",
    "write_weights": "slim_distill.common.weights",
    **dict.fromkeys(
        ("Runner", "Trainer", "add_targets", "attach", "build", "distillation", "merge_teacher", "start"),
        "slim_distill.api",
    ),
    **dict.fromkeys(("dkd", "fsp", "l2", "loss", "merge", "skd", "soft_label"), "slim_distill.paddleslim"),
}


def __getattr__(name: str) -> Any:
    if name == "merge_programs":  # `merge` itself is PaddleSlim's, with its arguments
        return importlib.import_module("slim_distill.graph").merge
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'slim_distill' has no attribute {name!r}")
