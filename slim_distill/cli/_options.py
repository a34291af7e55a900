"""Options that several commands share."""

import argparse
from collections.abc import Callable
from dataclasses import replace

from slim_distill.config import load_config
from slim_distill.config.schema import DistillConfig, RunConfig, TeacherConfig

__all__ = ["add_config", "add_resume", "add_teacher", "count", "load_student", "load_teacher_config", "share"]


def add_config(parser: argparse.ArgumentParser) -> None:
    """-c and -o."""
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the run's YAML file")
    parser.add_argument(
        "-o",
        "--opt",
        nargs="*",
        action="extend",
        default=[],
        metavar="a.b=c",
        help="override configuration values; checked like the file itself",
    )


def add_teacher(parser: argparse.ArgumentParser) -> None:
    """-t and --teacher_pretrained."""
    parser.add_argument("-t", "--teacher_config", metavar="FILE", help="the teacher's YAML file")
    parser.add_argument("--teacher_pretrained", default="", metavar="URL_OR_PATH", help="the teacher's weights")


def add_resume(parser: argparse.ArgumentParser) -> None:
    """-r, and the published flags that are always on here."""
    parser.add_argument(
        "-r",
        "--resume_checkpoint",
        default="",
        metavar="FOLDER",
        help="go on from this checkpoint; 'auto' takes the newest sound one of the run",
    )
    parser.add_argument("--eval", action="store_true", help="accepted for old scripts: evaluation is always done")


def count(least: int) -> Callable[[str], int]:
    """The type of an option that takes a whole number of at least `least`."""

    def whole_number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, found {value}")
        return value

    return whole_number


def share(text: str) -> float:
    """The type of an option that takes a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, found {text}")
    return value


def load_student(args: argparse.Namespace) -> RunConfig:
    """The configuration behind -c and -o."""
    return load_config(args.config, args.opt)


def load_teacher_config(args: argparse.Namespace, cfg: RunConfig) -> tuple[RunConfig, dict[str, RunConfig]]:
    """The student's configuration with its teachers filled in from -t, and each teacher's own configuration."""
    teachers = dict(cfg.distill.teachers)
    others = [prefix for prefix, teacher in teachers.items() if teacher.ema is None]
    if args.teacher_config:
        prefix = next(iter(others), "teacher_")
        old = teachers.get(prefix, TeacherConfig())
        teachers[prefix] = replace(old, config=args.teacher_config, weights=args.teacher_pretrained or old.weights)
    elif args.teacher_pretrained and others:
        prefix = others[0]
        teachers[prefix] = replace(teachers[prefix], weights=args.teacher_pretrained)
    distill: DistillConfig = replace(cfg.distill, teachers=teachers)
    return replace(cfg, distill=distill), {
        p: load_config(t.config) if t.ema is None else cfg for p, t in teachers.items()
    }
