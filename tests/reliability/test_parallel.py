"""Two ranks, or a batch in pieces, train as one process with the whole batch does: one launch, several short runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slim_distill.config import load_config
from slim_distill.engine import build
from slim_distill.engine.checkpoint import load_checkpoint
from slim_distill.engine.distributed import Ranks
from tests.tiny import run_config, write_config, write_voc

pytestmark = pytest.mark.usefixtures("static_mode")

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
WORKER = str(ROOT / "tests" / "reliability" / "_ranks_worker.py")
STEPS = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which all runs have ended: those of two ranks, then those of one process."""
    root = tmp_path_factory.mktemp("parallel")
    data = write_voc(root / "data", train=9, test=5)
    # From half of all seeds some activation comes so near the kink of its ReLU that rounding decides its gradient.
    for name, seed in (("l2", 0), ("fine", 7)):
        cfg = run_config(data, root / "out", fine=name == "fine", seed=seed)
        cfg["distill"] |= {"min_teacher_metric": 0.0, "teachers": {"teacher_": {"config": "teacher.yml"}}}
        cfg["eval"]["iou_threshold"] = 0.05  # so little training finds anything at all
        cfg["train"] = {"max_iters": STEPS, "log_iter": 1, "snapshot_iter": STEPS}
        write_config(root / f"{name}.yml", cfg)
    write_config(root / "teacher.yml", run_config(data, root / "out", name="teacher", train={"max_iters": 1}))
    run(root, [job("l2", "teacher", 2, "train.max_iters=1", alone=True)])

    open_norms = ("train.max_iters=4", "train.snapshot_iter=2", "data.train.drop_last=false")
    two = [
        job("l2", "two_l2", 2, "parallel.bucket_mb=0.05"),
        job("l2", "two_single", 2, "parallel.bucket_mb=0"),
        job("fine", "two_fine", 2),
        job("l2", "two_norms", 2, *open_norms, fixed=False),
        job("l2", "two_resumed", 2, *open_norms, fixed=False, resume="out/two_norms/2"),
    ]
    one = [
        job("l2", "one_l2", 4),
        job("fine", "one_fine", 4),
        job("l2", "pieces", 2, "parallel.accumulate=2"),
        job("l2", "one_resumed", 4, *open_norms, fixed=False, resume="out/two_norms/2"),
    ]
    run(root, two, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log")
    run(root, one)
    return root


def job(config, name, batch_size, *overrides, fixed=True, resume="", alone=False):
    return {
        "config": f"{config}.yml", "teacher": None if alone else "teacher.yml", "weights": "out/teacher/model_final",
        "overrides": [f"name={name}", f"data.train.batch_size={batch_size}", *overrides],
        "fixed_norms": fixed, "resume": resume,
    }  # fmt: skip


def run(root, jobs, *launcher):
    (root / "jobs.json").write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, *launcher, WORKER, "jobs.json"],
        cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    logs = "".join(path.read_text()[-3000:] for path in sorted(root.glob("log/workerlog.*")))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}\n{logs}"


def arrays(root, name, step=STEPS):
    checkpoint = load_checkpoint(root / "out" / name / str(step))
    return {**checkpoint.model, **checkpoint.state}


def losses(root, name):
    lines = map(json.loads, (root / "out" / name / "log.jsonl").read_text().splitlines())
    return np.array([[v for k, v in line.items() if k != "lr"] for line in lines if "loss" in line])


@pytest.mark.parametrize(("one", "parts"), [("one_l2", "two_l2"), ("one_fine", "two_fine"), ("one_l2", "pieces")])
def test_parts_of_a_batch_train_as_the_whole_does(world, one, parts):
    expected, found = arrays(world, one), arrays(world, parts)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert np.linalg.norm(found[name] - array) <= 1e-5 * np.linalg.norm(array), name
    np.testing.assert_allclose(losses(world, parts), losses(world, one), rtol=1e-5)
    assert len(losses(world, one)) == STEPS


def test_buckets_change_no_bit(world):
    buckets, single = arrays(world, "two_l2"), arrays(world, "two_single")
    assert all(buckets[name].tobytes() == array.tobytes() for name, array in single.items())


def test_a_resumed_run_of_two_ranks_ends_bit_for_bit_where_the_straight_one_does(world):
    straight, resumed = arrays(world, "two_norms", 4), arrays(world, "two_resumed", 4)
    assert all(resumed[name].tobytes() == array.tobytes() for name, array in straight.items())
    moved = arrays(world, "two_norms", 2)
    assert any(not np.array_equal(moved[name], array) for name, array in straight.items())


def test_another_number_of_ranks_goes_on_too(world):
    assert load_checkpoint(world / "out" / "one_resumed" / "4").facts["devices"] == 1
    assert load_checkpoint(world / "out" / "two_norms" / "2").facts["devices"] == 2


def test_one_rank_keeps_the_log_and_the_shared_evaluation_is_that_of_one_process(world, monkeypatch):
    assert len(losses(world, "two_norms")) == 4
    monkeypatch.chdir(world)
    cfg = load_config("l2.yml")
    loader = build.build_eval_loader(cfg)
    model = load_checkpoint(world / "out" / "two_l2" / "20").model
    metrics = [json.loads(line) for line in (world / "out" / "two_l2" / "log.jsonl").read_text().splitlines()]
    found = [line["metric"] for line in metrics if "metric" in line]
    limits = Limits()
    assert found[-1] == build.evaluate(cfg, model, loader, ranks=Ranks(watch=limits)).metric > 0
    batches = [f"batch {k} of an evaluation" for k in range(len(loader) + 1)]  # the last one turns out not to exist
    assert [what for what in limits.told if what is not None] == batches
    assert limits.told[-1] is None


class Limits:
    """In place of the thread that watches other ranks: notes what must be done in time."""

    def __init__(self):
        self.told = []

    def limit(self, what, times=1.0):
        self.told.append(what)
