"""A control and recipes over seeds: interrupted and continued, equal starts, tables, refusals; shipped recipes."""

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from paddle import static
from paddle.utils import unique_name

import slim_distill.engine.train as training
from slim_distill.cli import compare, main
from slim_distill.common.errors import LossError, Preempted
from slim_distill.common.weights import write_weights
from slim_distill.config import load_config, with_recipe
from slim_distill.config.schema import TeacherConfig
from slim_distill.engine import build
from slim_distill.engine.checkpoint import load_checkpoint
from slim_distill.engine.session import start_static_mode
from slim_distill.engine.study import CONTROL, _train, plan_study
from slim_distill.graph import trace
from slim_distill.losses.build import terms_from_config
from slim_distill.losses.terms import bind_all
from slim_distill.models.build import build_model
from tests import golden_formula
from tests.tiny import run_config, write_config, write_voc

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "bccd" / "recipes").glob("*.yml"))
L2 = {"loss": "l2", "student": "yolo_head.0", "teacher": "yolo_head.0", "weight": 0.5}
# An adapter and a generator of its own, and random masks: all that could move the student's start or its data.
MGD = {"loss": "mgd", "student": "neck.p5", "teacher": "neck.p5", "weight": 1e-4, "adapter": "conv1x1_bn"}
RUNS = [(recipe, seed) for seed in (0, 1) for recipe in ("control", "l2", "mgd")]


def digest(arrays) -> str:
    """One text for the exact content of a dict of arrays."""
    return hashlib.sha256(b"".join(n.encode() + np.asarray(arrays[n]).tobytes() for n in sorted(arrays))).hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Data, a student's and a teacher's configuration, weights of the teacher, and two recipes."""
    root = tmp_path_factory.mktemp("study")
    data = write_voc(root / "data")
    teacher = run_config(data, root / "out", name="teacher")
    teacher["model"]["backbone"] = {"type": "resnet", "depth": 18, "scale": 0.125}
    cfg = load_config(write_config(root / "teacher.yml", teacher))
    start_static_mode()
    shapes = trace(build_model(cfg.model, "eval")).parameter_shapes()
    write_weights(root / "teacher.safetensors", golden_formula.all_weights(shapes))
    student = run_config(data, root / "out", name="tiny")
    student["distill"]["min_teacher_metric"] = 0.0
    student["train"] = {"max_iters": 2, "log_iter": 1, "snapshot_iter": 1}
    write_config(root / "student.yml", student)
    write_config(root / "l2.yml", {"distill": {"terms": [L2]}})
    write_config(root / "mgd.yml", {"distill": {"terms": [MGD]}})
    return root


def arguments(root: Path, *extra: str) -> list[str]:
    """The command line of the comparison."""
    recipes = [str(root / name) for name in ("l2.yml", "mgd.yml")]
    teacher = ["-t", str(root / "teacher.yml"), "--teacher_pretrained", str(root / "teacher.safetensors")]
    return ["compare", "-c", str(root / "student.yml"), *teacher, "--recipes", *recipes, "--seeds", "0", "1", *extra]


class Spy:
    """Launches runs in this process, and notes each one's first weights and batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.launched: list[str] = []
        self.weights: dict[str, str] = {}
        self.batches: dict[str, list[str]] = {}
        self.stop_in = ""
        monkeypatch.setattr(compare, "launch", self.launch)
        load, build_loader, save = training.load_state, training.build_loader, training.save_checkpoint

        def noted_load(session, program, student, cfg, checkpoint):
            load(session, program, student, cfg, checkpoint)
            if checkpoint is None:
                self.weights[self.launched[-1]] = digest(session.read(program.student))

        def noted_loader(*args, **kwargs):
            loader = build_loader(*args, **kwargs)
            batches = loader.batches
            loader.batches = lambda start=0: self.noted(batches(start))
            return loader

        def interrupted_save(folder, *args):
            save(folder, *args)
            if folder.name == "1" and self.launched[-1] == self.stop_in:
                raise KeyboardInterrupt

        monkeypatch.setattr(training, "load_state", noted_load)
        monkeypatch.setattr(training, "build_loader", noted_loader)
        monkeypatch.setattr(training, "save_checkpoint", interrupted_save)

    def noted(self, batches):
        """The batches, noted as they are taken."""
        for batch in batches:
            self.batches.setdefault(self.launched[-1], []).append(digest(batch))
            yield batch

    def launch(self, command: str, config: Path) -> int:
        """What `compare.launch` does, without a new process; `Ctrl-C` in the run `stop_in`."""
        self.launched.append(f"{config.parent.name}/{config.stem}")
        code = main([command, "-c", str(config), "-r", "auto"])
        if code == compare.INTERRUPTED_EXIT:
            raise KeyboardInterrupt
        return code


@pytest.fixture(scope="module")
def study(world):
    """The comparison, interrupted in its fifth run and continued: (root, spy, exit codes of both calls)."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        spy = Spy(monkeypatch)
        spy.stop_in = "l2/seed_1"
        first = main(arguments(world))
        done = {path: path.stat().st_mtime_ns for path in (world / "out" / "tiny").glob("*/*/model_final/*")}
        spy.stop_in = ""
        second = main(arguments(world))
        assert {path: path.stat().st_mtime_ns for path in done} == done
        assert len({path.parents[1] for path in done}) == 4
        return world, spy, first, second


def test_continues_where_it_was_interrupted(study):
    _, spy, first, second = study
    assert (first, second) == (130, 0)
    order = [f"{recipe}/seed_{seed}" for recipe, seed in RUNS]
    assert spy.launched == [*order[:5], "l2/seed_1", "mgd/seed_1"]


def test_the_interrupted_run_equals_a_straight_one_bit_for_bit(study):
    root = study[0] / "out" / "tiny" / "l2"
    assert main(["distill", "-c", str(root / "seed_1.yml"), "-o", "name=straight"]) == 0
    for model in ("model_final", "best_model", "2"):
        one, two = load_checkpoint(root / "seed_1" / model), load_checkpoint(root / "straight" / model)
        assert digest(one.model) == digest(two.model)
        assert digest(one.state) == digest(two.state)
        assert one.step == two.step
    assert (root / "seed_1" / "log.jsonl").read_text() == (root / "straight" / "log.jsonl").read_text()


def test_runs_of_a_seed_have_the_same_first_weights_and_batches(study):
    spy = study[1]
    for seen in (spy.weights, spy.batches):
        assert set(seen) == {f"{recipe}/seed_{seed}" for recipe, seed in RUNS}
        for seed in (0, 1):
            assert seen[f"l2/seed_{seed}"] == seen[f"mgd/seed_{seed}"] == seen[f"control/seed_{seed}"]
        assert seen["control/seed_0"] != seen["control/seed_1"]
    assert {len(batches) for batches in spy.batches.values()} == {2}


def test_writes_the_table_of_what_the_models_score(study):
    root = study[0] / "out" / "tiny"
    found = json.loads((root / "compare.json").read_text())
    metric = "mAP@0.50 (integral)"
    assert list(found["runs"]) == ["control", "l2", "mgd"]
    assert (found["unfinished"], found["unpaired"]) == ([], [])
    for recipe, seed in RUNS:
        manifest = json.loads((root / recipe / f"seed_{seed}" / "best_model" / "manifest.json").read_text())
        assert found["runs"][recipe][metric]["values"][str(seed)] == manifest["metric"]
    values = [found["runs"][recipe][metric]["values"] for recipe in ("control", "l2")]
    gain = found["runs"]["l2"][metric]["difference"]
    changes = [values[1][seed] - values[0][seed] for seed in ("0", "1")]
    assert gain["mean"] == pytest.approx(np.mean(changes), abs=1e-12)
    assert gain["high"] - gain["mean"] == pytest.approx(12.7062 * abs(changes[0] - changes[1]) / 2, abs=1e-6)
    text = (root / "compare.md").read_text()
    assert f"## {metric}" in text
    assert {"| square", "| disc"} <= {line[:8].rstrip() for line in text.splitlines()}
    assert (root / "compare.png").read_bytes()[:4] == b"\x89PNG"


def test_report_only_trains_nothing_and_scores_by_another_metric(study, capsys):
    root, spy, *_ = study
    launched = list(spy.launched)
    options = ["--report-only", "--models", "model_final", "--eval_opt", "eval.metric=coco"]
    assert main(arguments(root, *options)) == 0
    assert spy.launched == launched
    found = json.loads((root / "out" / "tiny" / "compare.json").read_text())
    assert found["model"] == "model_final"
    assert set(found["runs"]["mgd"]) >= {"AP@[.50:.95]", "AP50", "AP_medium", "square", "disc"}
    assert "AP_large" not in found["runs"]["mgd"]  # no object is that large
    assert "| AP_medium" in capsys.readouterr().out


def test_a_run_that_fails_is_reported_and_the_others_go_on(study, monkeypatch, capsys):
    world = study[0]

    def launch(command: str, config: Path) -> int:
        """In place of a training, the files of an earlier one; recipe l2 fails."""
        if config.parent.name == "l2":
            return 9
        run = config.with_suffix("")
        shutil.copytree(world / "out" / "tiny" / config.parent.name / run.name, run)
        shutil.copy(config, run / "config.yml")
        return 0

    monkeypatch.setattr(compare, "launch", launch)
    assert main(arguments(world, "-o", "name=failing", "--seeds", "0")) == 1
    shown = capsys.readouterr()
    assert "**Not finished: l2, seed 0.**" in shown.out
    assert "not finished: l2, seed 0." in shown.err
    found = json.loads((world / "out" / "failing" / "compare.json").read_text())
    assert list(found["runs"]) == ["control", "mgd"]
    gain = found["runs"]["mgd"]["mAP@0.50 (integral)"]["difference"]
    assert (gain["pairs"], gain["low"], gain["high"]) == (1, None, None)
    assert "n/a" in shown.out
    # Runs whose start is not the control's are said to be no pair.
    log = world / "out" / "failing" / "mgd" / "seed_0" / "log.jsonl"
    log.write_text(log.read_text().replace('"loss": ', '"loss": 1', 1))
    assert main(arguments(world, "-o", "name=failing", "--seeds", "0", "--report-only")) == 1
    assert "**mgd, seed 0 did not start as its control did" in capsys.readouterr().out


def test_another_configuration_under_the_same_name_is_refused(study, capsys):
    root = study[0]
    write_config(root / "other.yml", {"distill": {"terms": [{**L2, "weight": 7}]}})
    (root / "other").mkdir(exist_ok=True)
    (root / "other.yml").rename(root / "other" / "l2.yml")
    asked = [a.replace(str(root / "l2.yml"), str(root / "other" / "l2.yml")) for a in arguments(root)]
    assert main(asked) == 2
    assert "distill.terms.0.weight was 0.5, now 7.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--seeds", "0", "0"], "--seeds: must be different numbers of at least 0, found 0, 0"),
        (["--recipes", "control.yml"], "'control' is the run without a teacher"),
        (["--recipes", "l2.yml", "other/l2.yml"], "two files are called 'l2'"),
        (["--recipes", "l2.yml", "wrong.yml"], "recipe 'wrong': distill.terms[0].teacher: no variable 'yolo_head.7'"),
        (["--eval_opt", "train.max_iters=9"], "only data.eval and eval may differ"),
        (["--teacher_pretrained", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(world, monkeypatch, capsys, extra, message):
    spy = Spy(monkeypatch)
    monkeypatch.chdir(world)
    (world / "other").mkdir(exist_ok=True)
    for name, term in (("control", L2), ("other/l2", L2), ("wrong", {**L2, "teacher": "yolo_head.7"})):
        write_config(world / f"{name}.yml", {"distill": {"terms": [term]}})
    assert main(arguments(world, "-o", "name=mistake", *extra)) == 2
    assert message in capsys.readouterr().err
    assert spy.launched == []


def test_schedules_are_measured_by_the_runs_length_and_its_passes_over_the_data(world, monkeypatch):
    begun = []
    monkeypatch.setattr(compare, "launch", lambda command, config: begun.append(command) or 1)
    write_config(world / "late.yml", {"distill": {"terms": [{**L2, "schedule": {"start_step": 1500}}]}})
    write_config(world / "passes.yml", {"distill": {"terms": [{**L2, "schedule": {"stop_epoch": 2}}]}})
    recipes = ("--recipes", str(world / "late.yml"), str(world / "passes.yml"), "--seeds", "0")
    assert main(arguments(world, "-o", "name=schedules", "train.max_iters=2000", *recipes)) == 2  # as nothing finishes
    assert begun == ["train", "distill", "distill"]


def test_launch_gives_the_exit_code_and_passes_on_an_interrupt(tmp_path, monkeypatch):
    assert compare.launch("train", tmp_path / "missing.yml") == 2
    start = compare.subprocess.Popen
    ends = [sys.executable, "-c", "raise SystemExit(130)"]
    monkeypatch.setattr(compare.subprocess, "Popen", lambda arguments: start(ends))
    with pytest.raises(KeyboardInterrupt):
        compare.launch("train", tmp_path / "missing.yml")


def test_a_run_that_was_stopped_and_has_saved_stops_the_comparison(world):
    cfg = load_config(world / "student.yml")
    (run,) = plan_study(replace(cfg, name="stopped"), {}, (0,))
    with pytest.raises(Preempted, match="control, seed 0 was stopped and has saved; the same command goes on with it"):
        _train(run, lambda command, config: 75)


def test_runs_differ_in_seed_recipe_and_place_only(world):
    cfg = load_config(world / "student.yml")
    runs = plan_study(cfg, {"l2": with_recipe(cfg, world / "l2.yml")}, (3, 4))
    assert [str(run) for run in runs] == ["control, seed 3", "l2, seed 3", "control, seed 4", "l2, seed 4"]
    assert [run.command for run in runs[:2]] == ["train", "distill"]
    for run in runs:
        assert run.folder == Path(cfg.output_dir) / "tiny" / run.recipe / f"seed_{run.cfg.seed}"
        same = replace(run.cfg, name=cfg.name, output_dir=cfg.output_dir, seed=cfg.seed, distill=cfg.distill)
        assert same == cfg
        assert bool(run.cfg.distill.terms) == (run.recipe != CONTROL)


@pytest.fixture(scope="module")
def pair():
    """The student of BCCD with its teacher named, and the program of both with every variable that a recipe names."""
    start_static_mode()
    cfg = load_config(ROOT / "configs" / "bccd" / "yolov3_mobilenet_v1.yml")
    path = ROOT / "configs" / "bccd" / "yolov3_r34.yml"
    cfg = replace(cfg, distill=replace(cfg.distill, teachers={"teacher_": TeacherConfig(str(path))}))
    terms = [term for recipe in RECIPES for term in terms_from_config(with_recipe(cfg, recipe).distill)]
    teachers = {"teacher_": build.Teacher(load_config(path), {})}
    keep = ("backbone.c5",)
    return cfg, build.build_merged(build.build_student(cfg), teachers, terms, cfg, on_cpu=False, keep=keep)


def test_the_shipped_recipes_are_the_ones_documented():
    assert {path.stem for path in RECIPES} == {"l2", "objectness", "cwd", "mgd", "pkd", "combination"}
    fine = yaml.safe_load((ROOT / "configs" / "bccd" / "yolov3_mobilenet_v1_fine.yml").read_text())
    recipes = {path.stem: yaml.safe_load(path.read_text())["distill"]["terms"] for path in RECIPES}
    assert recipes["objectness"] == fine["distill"]["terms"]
    assert recipes["combination"][:6] == recipes["objectness"] + recipes["pkd"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_binds(pair, path):
    student, merged = pair
    terms = terms_from_config(with_recipe(student, path).distill)
    work = merged.clone()
    with static.program_guard(work.main, work.startup), unique_name.guard():
        losses = [bound.build() for bound in bind_all(terms, work.__getitem__)]
    assert [list(loss.shape) for loss in losses] == [[]] * len(terms)


def test_a_recipe_whose_channels_differ_is_told_of_the_adapter(pair, tmp_path):
    student, merged = pair
    term = {"loss": "l2", "student": "backbone.c5", "teacher": "backbone.c5"}
    path = write_config(tmp_path / "unfit.yml", {"distill": {"terms": [term]}})
    with pytest.raises(LossError, match=r"adapter: conv1x1_bn joins channels"):
        bind_all(terms_from_config(with_recipe(student, path).distill), merged.__getitem__)
