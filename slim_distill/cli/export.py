"""slim-distill export: the student alone, for Paddle Inference."""

import argparse

from slim_distill.cli import _options
from slim_distill.common.errors import ConfigError
from slim_distill.engine.export import export

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    parser.add_argument("--output_dir", default="inference_model", metavar="FOLDER", help="where the files go")
    parser.add_argument("--size", type=int, default=320, metavar="PX", help="image size of the comparison, in pixels")


def run(args: argparse.Namespace) -> int:
    """Write the files and compare them with the model in memory."""
    cfg = _options.load_student(args)
    if not cfg.weights:
        raise ConfigError("weights: no weights to export; give -o weights=URL_OR_PATH")
    print(f"written: {export(cfg, args.output_dir, args.size)}.json and .pdiparams")
    return 0
