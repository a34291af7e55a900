"""slim-distill demo: teacher, control and distilled student on drawn handwriting."""

import argparse
from pathlib import Path

from slim_distill.cli import _options
from slim_distill.engine.demo import run_demo, train_teacher

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--output_dir", default="output/demo", metavar="FOLDER", help="where everything goes")
    parser.add_argument(
        "--seed", type=_options.count(0), default=0, help="of the students' first weights and data order"
    )
    parser.add_argument(
        "--iters", type=_options.count(1), default=None, help="steps of each model; default: as configured"
    )
    parser.add_argument(
        "--train-teacher",
        action="store_true",
        help="train the teacher instead and replace the weights that ship with the package (12 minutes)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo, or make its teacher."""
    folder = Path(args.output_dir)
    if args.train_teacher:
        print(f"written: {train_teacher(folder)}")
        return 0
    result = run_demo(folder, seed=args.seed, iters=args.iters)
    gain = 100 * (result.evaluations["distilled"].metric - result.evaluations["control"].metric)
    print(f"\n{result.table}\n")
    print(
        f"distilled - control: {gain:+.1f} AP (one seed). Open {result.folder / 'report.html'}; {result.seconds:.0f} s"
    )
    return 0
