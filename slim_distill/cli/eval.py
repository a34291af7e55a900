"""slim-distill eval: score a model."""

import argparse
import json
from pathlib import Path

from slim_distill.cli import _options
from slim_distill.common.errors import ConfigError
from slim_distill.engine import build
from slim_distill.engine.session import start_static_mode
from slim_distill.report import text_table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Load the weights, detect on the evaluation data, print a table."""
    cfg = _options.load_student(args)
    if not cfg.weights:
        raise ConfigError("weights: no weights to evaluate; give -o weights=URL_OR_PATH")
    start_static_mode()
    loader = build.build_eval_loader(cfg)
    try:
        result = build.evaluate(cfg, build.load_model(cfg), loader)
    finally:
        loader.close()
    rows = [[name, 100 * value] for name, value in {**result.per_class, **result.figures}.items()]
    print(text_table(["class or figure", "%"], rows))
    print(f"{result}; {result.ms_per_image:.1f} ms per image")
    if args.json:
        figures = {"metric": result.metric, "name": result.name, "per_class": dict(result.per_class)}
        Path(args.json).write_text(json.dumps({**figures, "figures": dict(result.figures)}, indent=1) + "\n")
    return 0
