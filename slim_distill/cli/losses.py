"""slim-distill losses: what there is to distil with."""

import argparse

from slim_distill.losses.describe import describe, describe_all, page_text, to_json, to_text

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the page of this loss")
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def run(args: argparse.Namespace) -> int:
    """Print the table of all losses, or the page of one."""
    pages = (describe(args.name),) if args.name else describe_all()
    if args.json:
        print(to_json(pages))
    else:
        print(page_text(pages[0]) if args.name else to_text(pages))
    return 0
