"""Signals end a run after its step, with everything saved; a second Ctrl-C ends it at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from slim_distill.cli import main
from slim_distill.common.errors import Preempted
from slim_distill.engine import build
from slim_distill.engine.checkpoint import load_checkpoint
from slim_distill.engine.hooks import read_lines
from slim_distill.engine.loop import run_loop
from slim_distill.engine.signals import StopOnSignal
from slim_distill.engine.status import read_status
from tests.tiny import run_config, write_config, write_voc

ROOT = Path(__file__).resolve().parents[2]
# The number of threads decides how sums are rounded, so runs that are compared must have the same.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

LOOP = """
import sys, time
from slim_distill.common.errors import Preempted
from slim_distill.engine.loop import run_loop
from slim_distill.engine.signals import StopOnSignal

def step(number):
    print("step", number, flush=True)
    until = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < until:
        time.sleep(until - time.monotonic())
    print("end of step", number, flush=True)
    return {}

try:
    run_loop(step, 0, 5, [StopOnSignal(lambda done: print("saved", done, flush=True))])
except Preempted as stopped:
    print(stopped)
    sys.exit(75)
"""


@pytest.fixture
def looping():
    """Starts a process that is in its first step; nothing of it stays."""
    started = []

    def start(step_s):
        started.append(process := _start(step_s))
        assert process.stdout.readline() == "step 0\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _start(step_s):
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, str(step_s)], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_after_the_step_with_its_state_saved(looping, number):
    process = looping(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert out.splitlines()[:2] == ["end of step 0", "saved 1"]
    assert f"stopped by {number.name} after 1 steps, which are saved; the same command with -r auto goes on" in out
    assert ("once more to end at once" in err) == (number == signal.SIGINT)


def test_a_second_interrupt_ends_a_step_that_hangs_at_once(looping):
    process = looping(600)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""


def test_handlers_are_given_back_and_other_threads_leave_them_alone():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    seen = []

    def step(number):
        seen.append(signal.getsignal(signal.SIGTERM))
        return {}

    run_loop(step, 0, 1, [StopOnSignal(lambda done: None)])
    assert seen[-1] not in before
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
    thread = threading.Thread(target=run_loop, args=(step, 0, 1, [StopOnSignal(lambda done: None)]))
    thread.start()
    thread.join()
    assert seen[-1] == before[0]


def test_a_hook_that_stops_in_before_train_still_lets_all_hooks_close():
    class Stopped(StopOnSignal):
        def before_train(self, start, stop):
            super().before_train(start, stop)
            raise Preempted("x")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        run_loop(lambda step: {}, 0, 1, [Stopped(lambda done: None)])
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data set, a configuration and the uninterrupted run of eight steps in this process."""
    root = tmp_path_factory.mktemp("signals")
    data = run_config(write_voc(root / "data"), root / "out")
    data["train"] |= {"max_iters": 8, "snapshot_iter": 3, "eval_iter": 2}
    data["data"]["train"]["workers"] = 1
    write_config(root / "run.yml", data)
    assert main(["train", "-c", str(root / "run.yml"), "-o", "name=straight"]) == 0
    return root


def same_runs(one: Path, two: Path) -> bool:
    """Whether final state, models and records are equal bit for bit."""
    for part in ("8", "model_final", "best_model"):
        a, b = load_checkpoint(one / part), load_checkpoint(two / part)
        for x, y in ((a.model, b.model), (a.state, b.state)):
            if set(x) != set(y) or any(x[name].tobytes() != y[name].tobytes() for name in x):
                return False
    return read_lines(one / "log.jsonl") == read_lines(two / "log.jsonl")


def test_a_run_that_a_scheduler_stops_goes_on_and_equals_the_straight_one(world):
    command = [sys.executable, "-m", "slim_distill", "train", "-c", "run.yml", "-r", "auto", "-o", "name=stopped"]
    calm = [*command[:-1], "name=calm"]
    subprocess.run(calm, cwd=world, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    process = subprocess.Popen(
        command, cwd=world, env=ENVIRONMENT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    run, until = world / "out" / "stopped", time.monotonic() + 120
    while (not (run / "status.json").is_file() or read_status(run)["step"] < 1) and time.monotonic() < until:
        time.sleep(0.002)
    assert read_status(run)["state"] == "running"
    os.killpg(process.pid, signal.SIGTERM)  # as schedulers do: the loader's workers get it too
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    status = read_status(run)
    assert status["state"] == "preempted"
    assert "stopped by SIGTERM after" in status["error"]
    step = int(Path(status["last_checkpoint"]).name)
    assert f"after {step} steps, which are saved" in err
    assert load_checkpoint(run / str(step)).step == step
    subprocess.run(command, cwd=world, env=ENVIRONMENT, check=True, capture_output=True, timeout=300)
    assert read_status(run)["state"] == "finished"
    assert same_runs(run, world / "out" / "calm")


def test_an_evaluation_is_given_up_and_made_up_for(world, monkeypatch):
    detect, calls = build.detect, []

    def signalled(session, program, batches):
        calls.append(len(calls))
        if len(calls) in (2, 3):  # at step 4, and again when the next start makes up for it
            os.kill(os.getpid(), signal.SIGTERM)
        return detect(session, program, batches)

    monkeypatch.setattr(build, "detect", signalled)
    again = ["train", "-c", str(world / "run.yml"), "-r", "auto", "-o", "name=evaluated"]
    run = world / "out" / "evaluated"
    for _ in range(2):
        assert main(again) == 75
        manifest = json.loads((run / "4" / "manifest.json").read_text())
        assert manifest["evaluation_overdue"] is True
    assert [line["step"] for line in read_lines(run / "log.jsonl") if "metric" in line] == [2]
    assert main(again) == 0
    assert same_runs(run, world / "out" / "straight")


def test_an_evaluation_at_the_end_that_is_given_up_leaves_the_run_unfinished(world, monkeypatch):
    shutil.copytree(world / "out" / "straight", world / "out" / "end")
    for part in ("8", "model_final"):
        shutil.rmtree(world / "out" / "end" / part)
    detect = build.detect

    def signalled(session, program, batches):
        os.kill(os.getpid(), signal.SIGINT)
        return detect(session, program, batches)

    again = ["train", "-c", str(world / "run.yml"), "-r", "auto", "-o", "name=end"]
    with monkeypatch.context() as patched:
        patched.setattr(build, "detect", signalled)
        assert main(again) == 75
    run = world / "out" / "end"
    assert load_checkpoint(run / "8").step == 8
    assert not (run / "model_final").exists()
    assert main(again) == 0
    assert json.loads((run / "8" / "manifest.json").read_text())["evaluation_overdue"] is False
    assert same_runs(run, world / "out" / "straight")


COMPARE = """
import sys
from pathlib import Path
import slim_distill.cli.compare as compare

real = compare.subprocess.Popen
compare.subprocess.Popen = lambda arguments: real([sys.executable, "-c", sys.argv[1], "1"])
print("code", compare.launch("train", Path("x.yml")), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_comparison_lets_its_run_save(number):
    with subprocess.Popen(
        [sys.executable, "-c", COMPARE, LOOP], env=ENVIRONMENT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "step 0\n"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    assert "saved 1" in out
    assert out.splitlines()[-1] == "code 75"
