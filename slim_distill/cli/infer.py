"""slim-distill infer: detect objects in images and draw them."""

import argparse
from dataclasses import replace

from slim_distill.cli import _options
from slim_distill.common.errors import ConfigError
from slim_distill.engine.infer import infer

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    parser.add_argument("--infer_img", "--infer_dir", required=True, metavar="PATH", help="an image or a folder")
    parser.add_argument("--output_dir", default="infer_output", metavar="FOLDER", help="where pictures go")
    parser.add_argument(
        "--draw_threshold", type=_options.share, default=0.5, help="draw boxes scored at least this, 0..1"
    )


def run(args: argparse.Namespace) -> int:
    """Write one picture per image, and all detections as JSON."""
    cfg = _options.load_student(args)
    if not cfg.weights:
        raise ConfigError("weights: no weights to load; give -o weights=URL_OR_PATH")
    dataset = replace(cfg.data.test.dataset, format="images", root=args.infer_img, images="", annotations="")
    cfg = replace(cfg, data=replace(cfg.data, test=replace(cfg.data.test, dataset=dataset)))
    written = infer(cfg, args.output_dir, args.draw_threshold)
    print(f"{len(written)} pictures in {args.output_dir}")
    return 0
