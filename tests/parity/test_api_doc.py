"""The examples of docs/api.md run as they stand, and do what the text beside them says."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.parity.conftest import paddle_static

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def example():
    """Variables after both examples."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    return blocks


def test_the_examples_run(example, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    space = {}
    with paddle_static():
        exec(example[0], space)
        trainer, out = space["trainer"], space["out"]
        assert trainer.step_number == 3
        assert out["conv2d_20.tmp_1"].shape == out["teacher_conv2d_6.tmp_1"].shape == (2, 75, 2, 2)
        assert np.any(out["conv1_weights@GRAD"])
        assert float(out["lr"]) == pytest.approx(1e-6)
        assert float(out["total_loss"]) == pytest.approx(float(out["student_loss"] + out["distill_loss"]), rel=1e-6)
        assert len(re.findall("teacher_loss", capsys.readouterr().out)) == 3
        assert space["found"]["boxes"].shape == (2, 3 * (4 + 16 + 64), 4)
        exec(example[1], space)
        assert space["out"]["strided_slice_0.tmp_0"].shape == (2, 3, 2, 2)
        assert space["out"]["teacher_transpose_0.tmp_0"].shape == (2, 3, 2, 2, 80)
