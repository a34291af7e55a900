"""slim-distill train: a model alone."""

import argparse

from slim_distill.cli import _options
from slim_distill.engine.train import train

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    _options.add_resume(parser)


def run(args: argparse.Namespace) -> int:
    """Train without teachers, whatever the file says of distillation."""
    result = train(_options.load_student(args), resume=args.resume_checkpoint)
    print(f"done: {result.last or 'not evaluated'}; files in {result.folder}")
    return 0
