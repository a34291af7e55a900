"""slim-distill list-vars: what can be named in a student and a teacher, and what their training step costs."""

import argparse

from slim_distill.cli import _options
from slim_distill.common.errors import ConfigError
from slim_distill.config import load_config
from slim_distill.engine.costs import render_costs, step_cost
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
    parser.add_argument("--cost", action="store_true", help="show what a training step costs, not the variables")
    parser.add_argument("--time", action="store_true", help="--cost with measured milliseconds of each operator")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images in the step of --cost (default 1)")


def run(args: argparse.Namespace) -> int:
    """Print the variables of both programs, pairs of equal shape with the same mark; or the cost of their step."""
    start_static_mode()
    cfg = _options.load_student(args)
    teacher = load_config(args.teacher_config) if args.teacher_config else None
    if args.cost or args.time:
        if args.shape:
            raise ConfigError("--shape: chooses variables; with --cost, choose operators by --grep")
        grep = args.grep or None
        cost = step_cost(cfg, teacher, size_px=args.size, batch=args.batch, grep=grep, time=args.time)
        print(render_costs(cost, args.format))
        return 0
    print(render(list_variables(cfg, teacher, grep=args.grep, shape=args.shape, size_px=args.size), args.format))
    return 0
