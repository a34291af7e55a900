"""The command line: `slim-distill COMMAND`, the same commands as the scripts in tools/."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

from tqdm import tqdm

from slim_distill.common.errors import PREEMPTED_EXIT, Preempted, SlimDistillError
from slim_distill.common.resources import explain
from slim_distill.common.threads import configure_threads

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "train": "train a model from scratch or from pre-trained weights",
    "distill": "train a student with a teacher in one program",
    "compare": "train recipes and a control over several seeds, and compare them",
    "eval": "score a model on its evaluation data",
    "infer": "detect objects in images and draw them",
    "list-vars": "list the variables of a student and a teacher side by side",
    "export": "write the student alone for Paddle Inference",
    "convert-weights": "turn a file of weights into another format",
    "status": "show what a run is doing, or how it ended",
    "losses": "list the losses, or show one",
    "demo": "the whole way on drawn handwriting, in about ten minutes",
}
"""Name of every command and what it does; command `x-y` lives in slim_distill/cli/x_y.py."""

ERROR_EXIT, INTERRUPTED_EXIT = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    It is 0, 2 for an error that was explained, 75 for a run that was stopped and has saved, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="slim-distill", description="Knowledge distillation for Paddle programs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    arguments = sys.argv[1:] if argv is None else list(argv)
    for name, text in COMMANDS.items():
        # Only the command that is asked for is imported: most of them import Paddle.
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if arguments[:1] == [name]:
            threads = configure_threads()
            _load_paddle()
            module = _module(name)
            sub.add_argument("--debug", action="store_true", help="show debug logs, and tracebacks of errors")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run, threads=threads)
    args = parser.parse_args(arguments)
    _start_logging(args.debug)
    logging.getLogger(__name__).debug("%s", args.threads)
    try:
        return args.run(args)
    except Preempted as stopped:
        print(f"slim-distill {args.command}: {stopped}", file=sys.stderr)
        return PREEMPTED_EXIT
    except SlimDistillError as error:
        if args.debug:
            raise
        print(f"slim-distill {args.command}: error: {error}", file=sys.stderr)
        return ERROR_EXIT
    except (OSError, MemoryError) as error:
        if args.debug:
            raise
        print(f"slim-distill {args.command}: error: {explain(error)}", file=sys.stderr)
        return ERROR_EXIT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"slim_distill.cli.{name.replace('-', '_')}")


def _load_paddle() -> None:
    """Load Paddle without its start-up noise: a missing compiler cache, and doubts about the threads just chosen."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    for message in (
        "No ccache found",
        "Tensor do not have 'place' interface",
        "Setuptools is replacing distutils",
        "When training, we now always track",
    ):
        warnings.filterwarnings("ignore", message=message)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module("paddle")
    except BaseException:
        sys.stderr.write(said.getvalue())
        raise


def _start_logging(debug: bool) -> None:
    logger = logging.getLogger("slim_distill")
    # Of several ranks one tells the story; what goes wrong, each tells.
    usual = logging.INFO if os.environ.get("PADDLE_TRAINER_ID", "0") == "0" else logging.WARNING
    logger.setLevel(logging.DEBUG if debug else usual)
    if not logger.handlers:
        handler = _ThroughProgressBar()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        # Libraries that training imports put handlers of their own on the root logger.
        logger.propagate = False


class _ThroughProgressBar(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
