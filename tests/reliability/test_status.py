"""status.json says what a run does and how it ended, and `slim-distill status` shows it."""

import json
import logging

import pytest

from slim_distill.cli import main
from slim_distill.common.errors import Preempted, TrainingError
from slim_distill.common.files import file_lock
from slim_distill.engine.hooks import Progress
from slim_distill.engine.loop import run_loop
from slim_distill.engine.status import GONE, StatusFile, lock_path, read_status, render_status


def test_status_log_line_and_bar_give_the_same_figures(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    status = StatusFile(tmp_path, "tiny", devices=2)
    bar = Progress("tiny", 16, 2, status.report)
    run_loop(lambda step: {"loss": 0.5 + step, "lr": 0.1}, 0, 5, [bar])
    found = json.loads((tmp_path / "status.json").read_text())
    assert (found["step"], found["max_iters"], found["losses"]) == (5, 5, {"loss": 4.5, "lr": 0.1})
    assert found["remaining_s"] == 0
    assert found["images_per_s_per_device"] == found["images_per_s"] / 2
    pace = f"{found['images_per_s']:.1f} images/s, 00:00 left"
    assert pace in caplog.messages[-1]
    assert pace in capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert [message.split(":")[0] for message in caplog.messages] == ["step 2/5", "step 4/5", "step 5/5"]


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (Preempted("stopped by SIGTERM after 3 steps"), "preempted", "stopped by SIGTERM after 3 steps"),
        (TrainingError("loss is nan"), "failed", "loss is nan"),
        (ValueError("x"), "failed", "ValueError('x')"),
        (KeyboardInterrupt(), "interrupted", "interrupted before the first step"),
        (None, "finished", None),
    ],
)
def test_the_end_is_told(tmp_path, error, state, said):
    status = StatusFile(tmp_path, "x")

    def end():
        with status.reporting():
            if error is not None:
                raise error

    if error is None:
        end()
    else:
        with pytest.raises(type(error)):
            end()
    found = read_status(tmp_path)
    assert (found["state"], found["error"]) == (state, said)


def test_a_running_run_without_a_process_is_told_as_stopped(tmp_path):
    StatusFile(tmp_path / "run", "x").report(step=3)
    with file_lock(lock_path(tmp_path / "run")):
        assert read_status(tmp_path / "run")["state"] == "running"
    assert read_status(tmp_path / "run")["state"] == GONE == "stopped (no process)"


def test_the_command_shows_it(tmp_path, capsys):
    status = StatusFile(tmp_path / "run", "my run")
    status.report(
        step=30, max_iters=90, images_per_s=12.5, remaining_s=3661.0, losses={"loss": 1.25}, metric=0.5, best=0.75,
        last_checkpoint="out/run/20",
    )  # fmt: skip
    assert main(["status", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr().out
    for text in ("my run: stopped (no process)", "30 of 90, 01:01:01 left", "12.5 images/s on 1 device(s), 12.5 each",
                 "loss 1.25", "0.5000, best 0.7500", "out/run/20"):  # fmt: skip
        assert text in shown
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 30


def test_days_and_unknown_figures_are_shown_too(tmp_path):
    status = StatusFile(tmp_path, "x")
    status.report(remaining_s=200_000.0)
    shown = render_status(read_status(tmp_path))
    assert "2.3 days left" in shown
    assert "unknown images/s" in shown
    assert "none yet" in shown


def test_a_folder_without_status_is_refused_with_those_that_have_one(tmp_path, capsys):
    StatusFile(tmp_path / "run", "x").report(step=1)
    assert main(["status", str(tmp_path)]) == 2
    assert f"no status.json there; there is one in {tmp_path / 'run'}" in capsys.readouterr().err
    (tmp_path / "run" / "status.json").write_text("[1")
    assert main(["status", str(tmp_path / "run")]) == 2
    assert "status.json cannot be read" in capsys.readouterr().err
