"""Trainings one after the other, for `paddle.distributed.launch`: `_ranks_worker.py JOBS.json`."""

import json
import sys
from pathlib import Path

from slim_distill.config import load_config
from slim_distill.engine import build
from slim_distill.engine.build import load_teacher
from slim_distill.engine.session import start_static_mode
from slim_distill.engine.train import train
from slim_distill.graph import _pir


def run(jobs: list[dict]) -> None:
    """Run jobs of `config`, `teacher` (None: alone), `weights`, `overrides`, `fixed_norms` and `resume`."""
    start_static_mode()
    plain = build.build_student
    for job in jobs:
        build.build_student = with_fixed_norms if job.get("fixed_norms") else plain
        cfg = load_config(job["config"], job.get("overrides", []))
        if job["teacher"] is None:
            train(cfg)
            continue
        teacher = load_config(job["teacher"], [f"weights={job['weights']}"])
        teachers = {p: load_teacher(t, teacher) for p, t in cfg.distill.teachers.items()}
        train(cfg, teachers, resume=job.get("resume", ""))
    build.build_student = plain


def with_fixed_norms(*args, original=build.build_student, **kwargs):
    """The student with batch norms that use their running statistics, so that no image depends on another."""
    program = original(*args, **kwargs)
    for op in _pir.ops(program.main):
        if op.name() == "pd_op.batch_norm_":
            op.set_bool_attr("use_global_stats", True)
    return program


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text()))
