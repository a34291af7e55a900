"""Whole jobs on a tiny data set: train, resume in a new process, distil, evaluate, infer, list, export."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from slim_distill.cli import main
from slim_distill.engine.checkpoint import load_checkpoint
from tests.tiny import run_config, write_config, write_voc

pytestmark = pytest.mark.usefixtures("static_mode")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set, a student's and a teacher's configuration, and a teacher trained for four steps."""
    root = tmp_path_factory.mktemp("jobs")
    data = write_voc(root / "data")
    teacher = run_config(data, root / "out", name="teacher")
    teacher["model"]["backbone"] = {"type": "resnet", "depth": 18, "scale": 0.125}
    write_config(root / "teacher.yml", teacher)
    student = run_config(data, root / "out", name="student")
    student["distill"]["min_teacher_metric"] = 0.0
    write_config(root / "student.yml", student)
    fine = run_config(data, root / "out", name="fine", fine=True)
    fine["distill"]["min_teacher_metric"] = 0.0
    fine["distill"]["terms"][0]["schedule"] = {"cosine": {"from": 1.0, "to": 0.1, "last_step": 6}, "warmup_steps": 3}
    fine["distill"]["terms"][1]["schedule"] = {"start_step": 2, "stop_epoch": 1.25}
    write_config(root / "fine.yml", fine)
    command(root, "train", "-c", "teacher.yml")
    return root


def command(root: Path, *arguments: str, expect: int = 0, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run a command in a process of its own, as a user would."""
    done = subprocess.run(
        [sys.executable, "-m", "slim_distill", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **(env or {})},
        check=False,
        timeout=300,
    )
    assert done.returncode == expect, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def distil(root: Path, config: str, *extra: str, **kwargs) -> subprocess.CompletedProcess:
    """`distill` with the module's teacher."""
    weights = "out/teacher/model_final"
    return command(
        root, "distill", "-c", config, "-t", "teacher.yml", "--teacher_pretrained", weights, *extra, **kwargs
    )


def same_arrays(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same arrays bit for bit."""
    one, two = load_checkpoint(a), load_checkpoint(b)
    return all(
        set(x) == set(y) and all(x[name].tobytes() == y[name].tobytes() for name in x)
        for x, y in ((one.model, two.model), (one.state, two.state))
    )


def test_distil_evaluate_and_infer_one_after_the_other(world):
    done = distil(world, "student.yml", "-o", "name=whole")
    assert "teacher_: mAP@0.50 (integral)" in done.stdout
    run = world / "out" / "whole"
    assert {p.name for p in run.iterdir()} >= {"2", "4", "best_model", "model_final", "config.yml", "log.jsonl", "vdl"}
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {"loss", "distill", "total", "distill.0.l2", "lr", "step"} <= set(lines[0])
    final = load_checkpoint(run / "model_final")
    assert not [name for name in final.model if name.startswith(("teacher_", "distill."))]

    weights = "weights=out/whole/model_final"
    done = command(world, "eval", "-c", "student.yml", "-o", weights, "--json", "eval.json")
    assert "ms per image" in done.stdout
    assert set(json.loads((world / "eval.json").read_text())["per_class"]) == {"square", "disc"}

    images = str(world / "data" / "JPEGImages")
    done = command(world, "infer", "-c", "student.yml", "--infer_img", images, "--output_dir", "pics", "-o", weights)
    assert len(list((world / "pics").glob("*.png"))) == 12
    assert len(json.loads((world / "pics" / "detections.json").read_text())) == 12

    done = command(world, "export", "-c", "student.yml", "--output_dir", "model", "--size", "64", "-o", weights)
    assert (world / "model" / "model.json").is_file()
    assert b"teacher_" not in (world / "model" / "model.json").read_bytes()


def test_objectness_recipe_runs_to_the_end(world):
    done = distil(world, "fine.yml")
    assert "student: mAP" in done.stdout
    lines = [json.loads(line) for line in (world / "out/fine/log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["distill.2.yolo_objectness"]) for line in lines if "total" in line)


@pytest.mark.parametrize("config", ["student.yml", "fine.yml"])
def test_a_run_that_is_interrupted_and_resumed_equals_the_straight_run_bit_for_bit(world, config):
    distil(world, config, "-o", f"name=straight_{config}", "train.max_iters=6", "optimizer.ema=0.9")
    options = ("-o", f"name=broken_{config}", "optimizer.ema=0.9")
    distil(world, config, *options, "train.max_iters=4")
    distil(world, config, *options, "train.max_iters=6", "-r", "auto")
    out = world / "out"
    assert same_arrays(out / f"straight_{config}" / "6", out / f"broken_{config}" / "6")
    assert same_arrays(out / f"straight_{config}" / "model_final", out / f"broken_{config}" / "model_final")


def test_all_weights_zero_equals_training_without_a_teacher_bit_for_bit(world):
    zero = [f"distill.terms.{i}.weight=0" for i in range(3)]
    distil(world, "student.yml", "-o", "name=zero", *zero)
    command(world, "train", "-c", "student.yml", "-o", "name=alone")
    assert same_arrays(world / "out" / "zero" / "4", world / "out" / "alone" / "4")


def test_a_killed_run_goes_on_from_its_last_checkpoint(world):
    arguments = ["-c", "student.yml", "-o", "name=killed", "train.max_iters=200", "train.keep=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "slim_distill", "train", *arguments],
        cwd=world,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    run = world / "out" / "killed"
    deadline = time.monotonic() + 120
    while not (run / "4" / "manifest.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    from slim_distill.engine.checkpoint import latest_checkpoint

    newest = latest_checkpoint(run)
    assert newest is not None
    step = int(newest.name)
    stop = step + 2
    command(world, "train", "-c", "student.yml", "-r", "auto", "-o", "name=killed", f"train.max_iters={stop}")
    command(world, "train", "-c", "student.yml", "-o", "name=calm", f"train.max_iters={stop}")
    assert same_arrays(run / str(stop), world / "out" / "calm" / str(stop))


def test_starting_anew_moves_an_earlier_run_aside(world):
    for _ in range(2):
        command(world, "train", "-c", "student.yml", "-o", "name=twice", "train.max_iters=2")
    assert (world / "out" / "twice.old1" / "2").is_dir()
    assert (world / "out" / "twice" / "2").is_dir()


def test_list_vars_marks_pairs_of_equal_shape(world):
    done = command(
        world, "list-vars", "-c", "student.yml", "-t", "teacher.yml", "--size", "64", "--grep", "yolo_head",
        "--format", "json",
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert [(r["program"], r["name"], r["shape"]) for r in rows if r["role"] == "head output"] == [
        (which, f"yolo_head.{i}", [-1, 21, 2 * 2**i, 2 * 2**i]) for which in ("student", "teacher") for i in range(3)
    ]
    pairs = {(r["name"], r["pair"]) for r in rows}
    assert len(pairs) == 3
    assert all(pair > 0 for _, pair in pairs)
    text = command(world, "list-vars", "-c", "student.yml", "--shape=-1,21,*,*").stdout
    assert "yolo_head.2" in text
    assert "parameter" not in text.split("\n", 2)[2]


def test_api_main_returns_the_exit_code(world, capsys, monkeypatch):
    monkeypatch.chdir(world)
    assert main(["eval", "-c", "nowhere.yml"]) == 2
    assert "nowhere.yml" in capsys.readouterr().err


def test_kernels_are_measured_once_and_training_is_that_of_auto_to_rounding(world):
    options = ("train.max_iters=2", "-o")
    cache = {"SLIM_DISTILL_CACHE": str(world / "cache")}
    measure = ("-o", *options, "compile.placement=measure")
    first = distil(world, "student.yml", *measure, "name=measured", env=cache).stderr
    assert "kernels are compared for batches of 2 images of 64 px" in first
    assert "measuring kernels for " in first
    assert re.search(
        r"teacher_: \d+ operators cut, \d+ norms folded, \d+ convolutions fused, .* operators in a step", first
    )
    assert re.search(r"step: \d+ gradients split, \d+ norms fused, .*\d+ updates moved up", first)
    again = distil(world, "student.yml", *measure, "name=again", env=cache).stderr
    assert "measuring kernels for " not in again
    distil(world, "student.yml", "-o", *options, "compile.placement=auto", "name=auto")
    assert same_arrays(world / "out/measured/2", world / "out/again/2")
    measured, auto = (_records(world / "out" / name) for name in ("measured", "auto"))
    assert len(measured) == 2
    for a, b in zip(measured, auto, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def _records(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "total" in line]
