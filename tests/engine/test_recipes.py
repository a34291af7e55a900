"""A whole job with a teacher that is the student's average, a balanced term and a loss of the user's own."""

import json

import numpy as np
import pytest

from slim_distill.cli import main
from slim_distill.engine.checkpoint import load_checkpoint
from tests.losses.test_plugin import MINE
from tests.tiny import run_config, write_config, write_voc

pytestmark = pytest.mark.usefixtures("static_mode")


def recipe(loss, **more):
    return {"loss": loss, "student": "yolo_head.0", "teacher": "yolo_head.0", "from": "mean_", **more}


def test_mean_teacher_balance_and_plugin_run_together(tmp_path):
    config = run_config(write_voc(tmp_path / "data"), tmp_path / "out")
    config["schedule"] |= {"warmup_steps": 0}
    config["train"] = {"max_iters": 2, "log_iter": 1, "snapshot_iter": 1, "eval_iter": 2}
    terms = [recipe("l2", balance=0.5), recipe("cubed", gain=2.0, schedule={"start_step": 1})]
    config["distill"] = {"teachers": {"mean_": {"ema": 0.75}}, "terms": terms}
    path = str(write_config(tmp_path / "run.yml", config))
    (tmp_path / "mine.py").write_text(MINE)
    plugin = ["--plugin", str(tmp_path / "mine.py")]

    assert main(["distill", "-c", path, *plugin]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/tiny/log.jsonl").read_text().splitlines()]
    first, second = (line for line in lines if "total" in line)
    assert first["distill.0.balance"] > 0
    assert first["distill"] == pytest.approx(first["distill.0.balance"] * first["distill.0.l2"], rel=1e-4)
    expected = second["distill.0.balance"] * second["distill.0.l2"] + second["distill.1.cubed"]
    assert second["distill"] == pytest.approx(expected, rel=1e-4)
    one, two = (load_checkpoint(tmp_path / "out/tiny" / step) for step in "12")
    followers = [name for name in two.state if name.startswith("mean_")]
    assert len(followers) > 100
    for name in followers:
        own = two.model[name.removeprefix("mean_")]
        np.testing.assert_allclose(two.state[name], 0.75 * one.state[name] + 0.25 * own, rtol=1e-4, atol=1e-6)


def test_without_the_plugin_its_loss_is_unknown(tmp_path, capsys):
    config = run_config(write_voc(tmp_path / "data"), tmp_path / "out")
    config["distill"] = {"teachers": {"mean_": {"ema": 0.75}}, "terms": [recipe("cubed")]}
    assert main(["distill", "-c", str(write_config(tmp_path / "run.yml", config))]) == 2
    assert "distill.terms[0].loss: loss 'cubed' is not known" in capsys.readouterr().err


DEAD = """
from slim_distill.losses import Layers
import paddle
def idle(student: paddle.Tensor, teacher: paddle.Tensor, *, layers: Layers):
    own = layers.conv("idle", student, 21)
    return ((student - teacher) ** 2).mean() + 0.0 * own.mean()
LOSSES = {"idle": idle}
"""


def test_an_owned_layer_without_gradient_stops_the_run_and_is_named(tmp_path, capsys):
    config = run_config(write_voc(tmp_path / "data"), tmp_path / "out")
    config["distill"] = {"teachers": {"mean_": {"ema": 0.75}}, "terms": [recipe("idle")]}
    (tmp_path / "dead.py").write_text(DEAD)
    path = str(write_config(tmp_path / "run.yml", config))
    assert main(["distill", "-c", path, "--plugin", str(tmp_path / "dead.py")]) == 2
    message = capsys.readouterr().err
    assert "step 0: 2 trainable parameters have no gradient: distill.0.idle.bias, distill.0.idle.weight" in message
