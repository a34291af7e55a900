"""A loss that is no number: the state before it is put back and saved."""

import numpy as np
import pytest

from slim_distill.cli import main
from slim_distill.engine.checkpoint import load_checkpoint
from slim_distill.engine.rewind import Rewind
from tests.tiny import run_config, write_config, write_voc


class Doubling:
    """A session with one number, which every step doubles and adds its own number to."""

    def __init__(self):
        self.values = {"w": np.ones(2, "float32")}

    def read(self, names):
        return {name: self.values[name].copy() for name in names}

    def write(self, arrays):
        self.values |= {name: array.copy() for name, array in arrays.items()}

    def run(self, step):
        self.values["w"] = self.values["w"] * 2 + step


def state(steps):
    session = Doubling()
    for step in range(steps):
        session.run(step)
    return session.values["w"]


@pytest.mark.parametrize("failed", [0, 1, 4, 5, 9])
def test_goes_back_to_the_state_before_the_step(failed):
    session, again = Doubling(), []
    rewind = Rewind(session, ["w"], every=4)
    for step in range(failed + 1):
        rewind.before(step)
        session.run(step)
    session.values["w"][:] = np.nan

    def once_more(step):
        again.append(step)
        session.run(step)

    assert rewind.back_to(failed, once_more) == failed
    np.testing.assert_array_equal(session.values["w"], state(failed))
    assert again == list(range(failed - failed % 4, failed))


def test_goes_further_back_when_an_earlier_update_broke_the_state():
    session = Doubling()
    rewind = Rewind(session, ["w"], every=4)

    def run(step):
        session.run(step)
        if step == 2:
            session.values["w"][1] = np.inf

    for step in range(6):
        rewind.before(step)
        run(step)
    assert rewind.step == 0  # the copy that was due at step 4 was not taken
    assert rewind.back_to(5, run) == 2
    np.testing.assert_array_equal(session.values["w"], state(2))


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")  # of the evaluation
@pytest.mark.usefixtures("static_mode")
def test_a_run_that_diverges_names_the_loss_and_saves_the_step_before(tmp_path, capsys):
    data = write_voc(tmp_path / "data")
    path = str(write_config(tmp_path / "run.yml", run_config(data, tmp_path / "out")))
    wild = ["schedule.base_lr=1e30", "train.snapshot_iter=1000", "eval.metric=voc"]
    assert main(["train", "-c", path, "-o", "name=wild", *wild]) == 2
    message = capsys.readouterr().err
    assert "step 2: loss is not finite" in message
    saved = tmp_path / "out" / "wild" / "2"
    assert f"the state after 2 steps is saved in {saved}" in message
    assert main(["train", "-c", path, "-o", "name=calm", *wild, "train.max_iters=2"]) == 0
    got, expected = load_checkpoint(saved), load_checkpoint(tmp_path / "out" / "calm" / "2")
    assert got.step == 2
    for mine, straight in ((got.model, expected.model), (got.state, expected.state)):
        assert set(mine) == set(straight)
        assert all(mine[name].tobytes() == straight[name].tobytes() for name in mine)
