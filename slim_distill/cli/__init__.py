"""The command line: `slim-distill COMMAND`, the same commands as the scripts in tools/."""

import argparse
import contextlib
import importlib
import io
import logging
import os
import select
import sys
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType

from tqdm import tqdm

from slim_distill.cli._screen import one_screen
from slim_distill.common.errors import INTERRUPTED_EXIT, PREEMPTED_EXIT, ConfigError, Preempted, SlimDistillError
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

ERROR_EXIT, BROKEN_PIPE_EXIT = 2, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for an error that was explained, others as docs/errors.md says."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding does not have is shown by its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        if sys.stdout is not None:  # None: closed by who started us
            sys.stdout.flush()
    except Preempted as stopped:
        print(f"{' '.join(['slim-distill', *arguments[:1]])}: {stopped}", file=sys.stderr)
        return PREEMPTED_EXIT
    except (SlimDistillError, OSError, MemoryError) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return BROKEN_PIPE_EXIT
        said = str(error) if isinstance(error, SlimDistillError) else explain(error)
        if "--debug" in arguments:
            traceback.print_exc()
        print(one_screen(f"{' '.join(['slim-distill', *arguments[:1]])}: error: {said}"), file=sys.stderr)
        return ERROR_EXIT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT
    return code


def _nobody_reads() -> bool:
    """Whether the reader of our output has gone, as `head` does when it has enough; what is left then goes nowhere."""
    poll = select.poll()
    poll.register(sys.__stdout__.fileno() if sys.__stdout__ is not None else 1, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        sys.stdout = io.StringIO()
    return gone


def _run(arguments: Sequence[str]) -> int:
    """Read the arguments and run the command that they name."""
    parser = argparse.ArgumentParser(prog="slim-distill", description="Knowledge distillation for Paddle programs.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
    return args.run(args)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"slim_distill.cli.{name.replace('-', '_')}")


def _load_paddle() -> None:
    """Load Paddle without its start-up noise: a missing compiler cache, and doubts about the threads just chosen."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    os.environ["MPLBACKEND"] = "agg"  # pictures go to files, whatever window system the user's plots go to
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
    except OSError as error:
        raise ConfigError(f"HOME: Paddle keeps a cache there and cannot be loaded: {explain(error)}") from error
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
