"""A control and recipes over several seeds: planned, checked, run in processes of their own, scored, reported."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slim_distill.common.errors import PREEMPTED_EXIT, ConfigError, Preempted, SlimDistillError, TrainingError
from slim_distill.common.files import atomic_write, file_lock
from slim_distill.config import differences, dump_config, load_config, show_differences, to_dict
from slim_distill.config.schema import DistillConfig, RunConfig
from slim_distill.data.build import build_loader
from slim_distill.engine import build
from slim_distill.engine.compiling import training_step
from slim_distill.engine.evaluate import Evaluation
from slim_distill.engine.hooks import read_lines
from slim_distill.engine.session import start_static_mode
from slim_distill.engine.train import BEST, FINAL, RECORD
from slim_distill.losses.build import terms_from_config
from slim_distill.report import as_plain, difference_plot, seed_tables, summarise

__all__ = ["CONTROL", "Launch", "Run", "StudyResult", "plan_study", "run_study"]

log = logging.getLogger(__name__)

CONTROL = "control"
LEVEL = 0.95
SAME_START = 1e-3
"""Largest relative difference between the first losses of two runs from one start: rounding of a GPU's sums."""

Launch = Callable[[str, Path], int]
"""Runs a command ("train" or "distill") with a configuration file, going on from its newest checkpoint; exit code."""


@dataclass(frozen=True)
class Run:
    """One training: a recipe, or the control, with one seed."""

    recipe: str
    cfg: RunConfig

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return build.run_folder(self.cfg)

    @property
    def file(self) -> Path:
        """Its configuration, beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.yml")

    @property
    def command(self) -> str:
        """The command that trains it."""
        return "train" if self.recipe == CONTROL else "distill"

    @property
    def finished(self) -> bool:
        """Whether its final model is there, which is the last thing that a training writes."""
        return (self.folder / FINAL / "manifest.json").is_file()

    def __str__(self) -> str:
        return f"{self.recipe}, seed {self.cfg.seed}"


@dataclass(frozen=True)
class StudyResult:
    """The report as Markdown, where it is, and the runs that did not come to their end."""

    text: str
    folder: Path
    unfinished: tuple[str, ...]


def plan_study(cfg: RunConfig, recipes: Mapping[str, RunConfig], seeds: Sequence[int]) -> tuple[Run, ...]:
    """Return all runs, seed by seed, the control first; they differ in their seed and recipe alone.

    Args:
        cfg: the student's run; files go to its `output_dir/name`.
        recipes: name -> the student's run with that recipe.
        seeds: one run of the control and of each recipe for each.

    Raises:
        ConfigError: a recipe is called like the control, or a seed is given twice or negative.
    """
    if CONTROL in recipes:
        raise ConfigError(f"--recipes: {CONTROL!r} is the run without a teacher; give this recipe's file another name")
    if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
        raise ConfigError(f"--seeds: must be different numbers of at least 0, found {', '.join(map(str, seeds))}")
    runs = {CONTROL: replace(cfg, distill=DistillConfig()), **recipes}
    root = build.run_folder(cfg)
    return tuple(
        Run(recipe, replace(run, output_dir=str(root / recipe), name=f"seed_{seed}", seed=seed))
        for seed in seeds
        for recipe, run in runs.items()
    )


def run_study(
    cfg: RunConfig, runs: Sequence[Run], judge: RunConfig, launch: Launch | None, *, model: str = BEST
) -> StudyResult:
    """Train what is not finished, score what is, and write `compare.md`, `compare.json` and `compare.png`.

    A run that fails is reported, and the others go on.

    Args:
        cfg: the student's run.
        runs: from `plan_study`.
        judge: the student's run with the data and metric that finished models are scored by.
        launch: trains a run; None to train nothing.
        model: the model of each run that is scored: `best_model` or `model_final`.

    Raises:
        ConfigError: a run's folder was made with another configuration; a recipe, a teacher or data are wrong.
        LossError: a term of a recipe does not bind.
        TrainingError: no run is finished.
    """
    start_static_mode()
    folder = build.run_folder(cfg)
    loader = build.build_eval_loader(judge)
    try:
        with file_lock(folder / ".lock", error=ConfigError):
            for run in runs:
                _check_same(run)
            if launch is not None:
                _check_recipes(runs)
            scores: dict[str, dict[int, Evaluation]] = {run.recipe: {} for run in runs}
            for number, run in enumerate(runs, 1):
                if launch is not None and not run.finished:
                    log.info("run %d of %d: %s", number, len(runs), run)
                    _train(run, launch)
                if run.finished:
                    scores[run.recipe][run.cfg.seed] = _score(run, judge, loader, model)
                    log.info("run %d of %d: %s: %s", number, len(runs), run, scores[run.recipe][run.cfg.seed])
            return _report(cfg, runs, scores, judge, model)
    finally:
        loader.close()


def _check_same(run: Run) -> None:
    """Refuse to go on with a run that was begun with another configuration: it would no longer be comparable."""
    begun = run.folder / "config.yml"
    if not begun.is_file():
        return
    found = differences(load_config(begun), run.cfg)
    if found:
        raise ConfigError(
            f"{run.folder} was begun with another configuration: {show_differences(found.items())}. "
            "Give the comparison another name with -o name=NAME, or remove that folder"
        )


def _check_recipes(runs: Sequence[Run]) -> None:
    """Read the teachers' weights and build every recipe's training program once, so that no fault is found late."""
    known: dict[Any, build.Teacher] = {}
    loader = build_loader(runs[0].cfg.data.train, seed=0, train=True, workers=0, path="data.train")
    epoch_steps = len(loader)
    loader.close()
    for run in {run.recipe: run for run in runs if run.recipe != CONTROL}.values():
        if not run.cfg.distill.teachers:
            raise ConfigError("no teacher: give -t TEACHER.yml --teacher_pretrained URL_OR_PATH, or distill.teachers")
        for teacher in run.cfg.distill.teachers.values():
            if teacher not in known:
                known[teacher] = build.load_teacher(teacher, load_config(teacher.config))
        try:
            teachers = {p: known[t] for p, t in run.cfg.distill.teachers.items()}
            _check_recipe(run.cfg, teachers, epoch_steps)
        except SlimDistillError as error:
            raise type(error)(f"recipe {run.recipe!r}: {error}") from error


def _check_recipe(cfg: RunConfig, teachers: Mapping[str, build.Teacher], epoch_steps: int) -> None:
    """Bind every term of a run's recipe and build its training program, without compiling or running it."""
    terms = terms_from_config(cfg.distill, max_iters=cfg.train.max_iters, epoch_steps=epoch_steps)
    training_step(build.build_student(cfg), teachers, terms, cfg, on_cpu=False)


def _train(run: Run, launch: Launch) -> None:
    with atomic_write(run.file, "w", error=ConfigError) as handle:
        handle.write(dump_config(run.cfg))
    code = launch(run.command, run.file)
    if code == PREEMPTED_EXIT:
        raise Preempted(f"{run} was stopped and has saved; the same command goes on with it")
    if code != 0:
        log.error("%s stopped with exit code %d; the other runs go on", run, code)


def _score(run: Run, judge: RunConfig, loader: Any, model: str) -> Evaluation:
    """Score a finished model, or take the score that an earlier call wrote beside it."""
    weights = run.folder / model
    manifest = (weights / "manifest.json").read_text(encoding="utf-8")
    how = to_dict(judge)
    text = json.dumps([how["model"], how["data"]["eval"], how["eval"], manifest], sort_keys=True)
    of = hashlib.sha256(text.encode()).hexdigest()
    path = run.folder / f"score_{model}.json"
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("of") == of:
            return Evaluation(**stored)
    found = build.evaluate(judge, build.load_model(replace(judge, weights=str(weights))), loader)
    plain = {
        "metric": found.metric,
        "name": found.name,
        "per_class": dict(found.per_class),
        "figures": dict(found.figures),
    }
    with atomic_write(path, "w", error=TrainingError) as handle:
        json.dump({"of": of, **plain}, handle, indent=1)
    return found


def _figures(evaluation: Evaluation) -> dict[str, float]:
    """Every figure of an evaluation by name, the one that models are chosen by first; -1 means "nothing to measure"."""
    rest = {name: value for name, value in evaluation.figures.items() if name not in ("AP", "mAP") and value >= 0}
    return {evaluation.name: evaluation.metric, **rest, **evaluation.per_class}


def _report(
    cfg: RunConfig,
    runs: Sequence[Run],
    scores: Mapping[str, Mapping[int, Evaluation]],
    judge: RunConfig,
    model: str,
) -> StudyResult:
    folder = build.run_folder(cfg)
    unfinished = tuple(str(run) for run in runs if not run.finished)
    if not any(scores.values()):
        raise TrainingError(f"no run of {folder} is finished; unfinished: {'; '.join(unfinished)}")
    summaries = summarise({r: {s: _figures(e) for s, e in seeds.items()} for r, seeds in scores.items()}, LEVEL)
    data = judge.data.eval.dataset
    lines = [
        f"# {cfg.name}: recipes against the control",
        f"`{model}` of every run on `{Path(data.root, data.annotations)}`, in per cent. The runs of one seed start "
        "from the same weights and see the same batches in the same order; a difference is the mean over the seeds of "
        f"run minus control, with the {100 * LEVEL:g} % interval of Student's t.",
        *(f"**Not finished: {run}.**" for run in unfinished),
        *(f"**{run} did not start as its control did; their difference is not paired.**" for run in _unpaired(runs)),
        seed_tables(summaries, CONTROL, LEVEL),
    ]
    text = "\n\n".join(lines)
    plain = {
        "name": cfg.name, "model": model, "eval": to_dict(judge)["data"]["eval"]["dataset"], "level": LEVEL,
        "runs": as_plain(summaries), "unfinished": list(unfinished), "unpaired": _unpaired(runs),
    }  # fmt: skip
    for name, content in (("compare.md", text), ("compare.json", json.dumps(plain, indent=1) + "\n")):
        with atomic_write(folder / name, "w", error=TrainingError) as handle:
            handle.write(content)
    metric = next(iter(next(iter(summaries.values()))))
    main = {recipe: row[metric] for recipe, row in summaries.items()}
    title = f"{cfg.name}: recipes against the control"
    difference_plot(main, folder / "compare.png", title=title, label=metric, level=LEVEL)
    return StudyResult(text, folder, unfinished)


def _unpaired(runs: Sequence[Run]) -> list[str]:
    """The finished runs whose first loss of their own is not that of their control: other weights, or another batch."""
    first = {(run.recipe, run.cfg.seed): _first_loss(run) for run in runs if run.finished}
    found = []
    for run in runs:
        loss, control = first.get((run.recipe, run.cfg.seed)), first.get((CONTROL, run.cfg.seed))
        if loss is not None and control is not None and abs(loss - control) > SAME_START * abs(control):
            found.append(str(run))
    return found


def _first_loss(run: Run) -> float | None:
    return next(
        (line["loss"] for line in read_lines(run.folder / RECORD) if line["step"] == 1 and "loss" in line), None
    )
