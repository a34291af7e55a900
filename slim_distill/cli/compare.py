"""slim-distill compare: recipes against a control without a teacher, over several seeds."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from slim_distill.cli import _options
from slim_distill.common.errors import INTERRUPTED_EXIT, ConfigError
from slim_distill.config import load_config, with_recipe
from slim_distill.config.schema import RunConfig
from slim_distill.engine.study import plan_study, run_study
from slim_distill.engine.train import BEST, FINAL

__all__ = ["add_arguments", "launch", "run"]

UNFINISHED_EXIT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    _options.add_config(parser)
    _options.add_teacher(parser)
    parser.add_argument(
        "--recipes",
        nargs="+",
        required=True,
        metavar="FILE",
        help="YAML files with a distill: section, see docs/compare.md",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="N",
        help="one run of each for every seed; default: 0 1 2",
    )
    parser.add_argument(
        "--models", choices=(BEST, FINAL), default=BEST, help=f"which model of a run is scored; default: {BEST}"
    )
    parser.add_argument(
        "--eval_opt",
        nargs="*",
        action="extend",
        default=[],
        metavar="a.b=c",
        help="override data.eval and eval for the scores alone; best models stay those of the file's data.eval",
    )
    parser.add_argument("--report-only", action="store_true", help="train nothing, score and report what is finished")


def run(args: argparse.Namespace) -> int:
    """Run what is left to run and print the report; 1 when a run did not finish."""
    cfg, _ = _options.load_teacher_config(args, _options.load_student(args))
    recipes = _recipes(cfg, args.recipes)
    runs = plan_study(cfg, recipes, args.seeds)
    result = run_study(cfg, runs, _judge(args), None if args.report_only else launch, model=args.models)
    print(f"\n{result.text}\nin {result.folder}: compare.md, compare.json, compare.png")
    if not result.unfinished:
        return 0
    print(f"not finished: {'; '.join(result.unfinished)}. The same command goes on with them", file=sys.stderr)
    return UNFINISHED_EXIT


def launch(command: str, config: Path) -> int:
    """Train in a process of its own, so that its memory is given back and its end is not ours."""
    arguments = [sys.executable, "-m", "slim_distill", command, "-c", str(config), "-r", "auto"]
    with subprocess.Popen(arguments) as process, _handled_by(process):  # nosec B603 # this interpreter, no shell
        code = process.wait()
    if code == INTERRUPTED_EXIT:
        raise KeyboardInterrupt
    return code


@contextmanager
def _handled_by(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave signals to a process, which saves and ends; a terminal sends it Ctrl-C too, a scheduler perhaps nothing."""

    def pass_on(number: int, _: object) -> None:
        if number == signal.SIGTERM:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _recipes(cfg: RunConfig, files: list[str]) -> dict[str, RunConfig]:
    names = [Path(file).stem for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--recipes: two files are called {twice[0]!r}; runs are named after them, so rename one")
    return {name: with_recipe(cfg, file) for name, file in zip(names, files, strict=True)}


def _judge(args: argparse.Namespace) -> RunConfig:
    cfg, judge = load_config(args.config, args.opt), load_config(args.config, [*args.opt, *args.eval_opt])
    if replace(judge, data=replace(judge.data, eval=cfg.data.eval), eval=cfg.eval) != cfg:
        raise ConfigError(
            f"--eval_opt: only data.eval and eval may differ for the scores, found {' '.join(args.eval_opt)}; use -o"
        )
    return judge
