"""slim-distill distill: a student with its teachers in one program."""

import argparse

from slim_distill.cli import _options
from slim_distill.common.errors import ConfigError
from slim_distill.engine.build import load_teacher
from slim_distill.engine.dry_run import dry_run, render
from slim_distill.engine.session import start_static_mode
from slim_distill.engine.train import train
from slim_distill.losses import LOSSES
from slim_distill.losses.plugin import load_losses

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    _options.add_teacher(parser)
    _options.add_resume(parser)
    parser.add_argument(
        "--plugin",
        metavar="FILE",
        help="RUN the code of this Python file, whose dictionary LOSSES {name: function} joins the losses",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing and write nothing: show every term on one batch, and what looks wrong",
    )


def run(args: argparse.Namespace) -> int:
    """Load both configurations and the teacher's weights, and train the student."""
    cfg, teacher_cfgs = _options.load_teacher_config(args, _options.load_student(args))
    if not cfg.distill.teachers:
        raise ConfigError("no teacher: give -t TEACHER.yml --teacher_pretrained URL_OR_PATH, or distill.teachers")
    if not cfg.distill.terms:
        raise ConfigError(f"distill.terms: {args.config} has no loss terms; see docs/recipes.md")
    start_static_mode()
    losses = load_losses(args.plugin) if args.plugin else LOSSES
    teachers = {p: load_teacher(t, teacher_cfgs[p]) for p, t in cfg.distill.teachers.items()}
    if args.dry_run:
        print(render(dry_run(cfg, teachers, losses)), end="")
        return 0
    result = train(cfg, teachers, resume=args.resume_checkpoint, losses=losses)
    for prefix, evaluation in result.teachers.items():
        print(f"{prefix}: {evaluation}")
    print(f"student: {result.last or 'not evaluated'}; files in {result.folder}")
    return 0
