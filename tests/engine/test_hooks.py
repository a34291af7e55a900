"""The loop's order, and what hooks write."""

import json

import pytest

from slim_distill.engine.hooks import EverySteps, Recorder, read_lines
from slim_distill.engine.loop import Hook, run_loop


class Spy(Hook):
    """Writes down what it is called with."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def before_train(self, start, stop):
        self.calls.append((self.name, "before", start, stop))

    def after_step(self, step, values):
        self.calls.append((self.name, step, values["loss"]))

    def after_train(self, step):
        self.calls.append((self.name, "after", step))


def test_hooks_run_in_order_around_every_step():
    calls = []
    done = run_loop(lambda step: {"loss": step * 10}, 2, 4, [Spy("a", calls), Spy("b", calls)])
    assert done == 4
    assert calls == [
        ("a", "before", 2, 4), ("b", "before", 2, 4),
        ("a", 2, 20), ("b", 2, 20), ("a", 3, 30), ("b", 3, 30),
        ("b", "after", 4), ("a", "after", 4),
    ]  # fmt: skip


def test_hooks_are_closed_when_a_step_raises():
    calls = []

    def step(number):
        if number == 1:
            raise ValueError("boom")
        return {"loss": 0}

    with pytest.raises(ValueError, match="boom"):
        run_loop(step, 0, 3, [Spy("a", calls)])
    assert calls == [("a", "before", 0, 3), ("a", 0, 0), ("a", "after", 1)]


def test_every_steps_acts_at_multiples_and_at_the_end():
    seen = []
    run_loop(lambda step: {}, 1, 8, [EverySteps(3, seen.append)])
    assert seen == [3, 6, 8]


def test_a_resumed_recorder_drops_the_steps_that_are_done_again(tmp_path):
    path = tmp_path / "log.jsonl"
    run_loop(lambda step: {"loss": step}, 0, 6, [Recorder(path, 2)])
    assert [line["step"] for line in read_lines(path)] == [1, 2, 4, 6]
    path.write_text(path.read_text() + '{"step": 8, "lo')
    run_loop(lambda step: {"loss": -step}, 3, 6, [Recorder(path, 2)])
    assert [(line["step"], line["loss"]) for line in read_lines(path)] == [(1, 0), (2, 1), (4, -3), (6, -5)]


def test_records_are_json_lines(tmp_path):
    run_loop(lambda step: {"loss": 0.5}, 0, 1, [Recorder(tmp_path / "log.jsonl", 20)])
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "loss": 0.5}
