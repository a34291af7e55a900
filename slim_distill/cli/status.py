"""slim-distill status: what a run is doing, or how it ended."""

import argparse
import json
from pathlib import Path

from slim_distill.engine.status import read_status, render_status

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("folder", metavar="DIR", help="a run's folder, output_dir/name")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the status of the run in DIR."""
    status = read_status(Path(args.folder))
    print(json.dumps(status, indent=1) if args.json else render_status(status), end="\n" if args.json else "")
    return 0
