"""slim-distill list-vars: what can be named in a student and a teacher."""

import argparse

from slim_distill.cli import _options
from slim_distill.config import load_config
from slim_distill.engine.listing import FORMATS, list_variables, render
from slim_distill.engine.session import start_static_mode

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    parser.add_argument("-t", "--teacher_config", metavar="FILE", help="the teacher's YAML file")
    parser.add_argument("--grep", default="", metavar="REGEX", help="only names, aliases or operators that match")
    parser.add_argument("--shape", default="", metavar="N,C,H,W", help="only this shape; * matches any size")
    parser.add_argument("--format", choices=FORMATS, default="text", help="how to print")
    parser.add_argument("--size", type=int, default=None, metavar="PX", help="input height and width, for fixed shapes")


def run(args: argparse.Namespace) -> int:
    """Print the variables of both programs; pairs of equal shape carry the same mark."""
    start_static_mode()
    cfg = _options.load_student(args)
    teacher = load_config(args.teacher_config) if args.teacher_config else None
    print(render(list_variables(cfg, teacher, grep=args.grep, shape=args.shape, size_px=args.size), args.format))
    return 0
