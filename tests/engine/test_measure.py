"""Choosing kernels by measurement: margin, cache, damaged caches. Nothing here asserts what is faster."""

import json
import logging

import pytest

from slim_distill.engine import measure
from slim_distill.engine.measure import MARGIN, choose_kernels, kernel_times
from slim_distill.graph import ConvolutionLayer, convolution_layers
from tests.graph.nets import conv, traced

pytestmark = pytest.mark.usefixtures("static_mode")


def layers(*names):
    """Layers that stand for nothing but their key."""
    return [ConvolutionLayer(f"{name}.weights", f"key of {name[0]}", name) for name in names]


class Clock:
    """Gives set times and counts who asked."""

    def __init__(self, **times):
        self.times, self.asked = times, []

    def __call__(self, program):
        self.asked.append(program)
        return self.times[program[0]]


def files(folder):
    return list((folder / "kernels").glob("*.json"))


def test_onednn_must_win_by_more_than_noise(tmp_path):
    clock = Clock(a=(1.0, 0.5), b=(1.0, 1.5), c=(1.0, MARGIN), d=(1.0, MARGIN - 0.001))
    chosen = choose_kernels(layers("a1", "a2", "b", "c", "d"), measure=clock, folder=tmp_path)
    fast = dict.fromkeys(("a1.weights", "a2.weights", "d.weights"), "onednn")
    assert chosen == fast | dict.fromkeys(("b.weights", "c.weights"), "stock")
    assert clock.asked == ["a2", "b", "c", "d"]  # one for each key


def test_our_own_must_win_against_both_and_may_be_left_out(tmp_path):
    clock = Clock(a=(1.0, 0.5, 0.4), b=(1.0, 0.5, 0.6), c=(1.0, 1.2, 0.96), d=(1.0, 1.2, 0.9), e=(1.0, 2.0))
    found = choose_kernels(layers("a", "b", "c", "d", "e"), measure=clock, folder=tmp_path)
    assert list(found.values()) == ["own", "onednn", "stock", "own", "stock"]
    found = choose_kernels(layers("a", "b", "c", "d", "e"), own=False, measure=clock, folder=tmp_path)
    assert list(found.values()) == ["onednn", "onednn", "stock", "stock", "stock"]
    assert len(clock.asked) == 5


def test_the_log_says_what_the_choice_is_expected_to_save(tmp_path, caplog):
    caplog.set_level("INFO", "slim_distill.engine.measure")
    # Two layers of one shape count twice; what a cache knows of kernels that may not be used counts for nothing.
    clock = Clock(a=(8.0, 5.0, 3.0), b=(4.0, 6.0))
    choose_kernels(layers("a1", "a2", "b"), measure=clock, folder=tmp_path)
    choose_kernels(layers("a1", "a2", "b"), own=False, measure=clock, folder=tmp_path)
    of_paddle = "on Paddle's own kernels"
    said = [line for line in caplog.messages if line.startswith("expected")]
    assert said == [
        f"expected: the measured operators take 10 ms of a step, 20 {of_paddle}",
        f"expected: the measured operators take 14 ms of a step, 20 {of_paddle}",
    ]


def test_a_later_run_measures_only_what_is_new(tmp_path):
    choose_kernels(layers("a"), measure=Clock(a=(2.0, 1.0)), folder=tmp_path)
    clock = Clock(b=(2.0, 1.0))
    assert choose_kernels(layers("a", "b"), measure=clock, folder=tmp_path) == {
        "a.weights": "onednn",
        "b.weights": "onednn",
    }
    assert clock.asked == ["b"]
    (path,) = files(tmp_path)
    stored = json.loads(path.read_text())
    assert stored["kernels"] == {"key of a": [2.0, 1.0], "key of b": [2.0, 1.0]}
    assert set(stored["machine"]) == {"cpu", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "paddle", "kernels"}


@pytest.mark.parametrize("change", [{"cpu": "another"}, {"OMP_NUM_THREADS": "64"}, {"paddle": "9.9"}])
def test_another_machine_measures_for_itself(tmp_path, monkeypatch, change):
    here = measure.machine()
    choose_kernels(layers("a"), measure=Clock(a=(2.0, 1.0)), folder=tmp_path)
    monkeypatch.setattr(measure, "machine", lambda: here | change)
    clock = Clock(a=(1.0, 2.0))
    assert choose_kernels(layers("a"), measure=clock, folder=tmp_path) == {"a.weights": "stock"}
    assert clock.asked == ["a"]
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"kernels": []}',
        '{"kernels": {"key of a": [1.0]}}',
        '{"kernels": {"key of a": [1.0, 1.0, 1.0, 1.0]}}',
        '{"kernels": {"key of a": ["x", 1.0]}}',
        '{"kernels": {"key of a": [1.0, 0.0]}}',
        '{"kernels": {"key of a": [1.0, NaN]}}',
        "\udcff",
    ],
)
def test_a_damaged_cache_is_ignored_with_one_line_and_replaced(tmp_path, caplog, text):
    choose_kernels(layers("a"), measure=Clock(a=(2.0, 1.0)), folder=tmp_path)
    (path,) = files(tmp_path)
    path.write_bytes(text.encode(errors="surrogateescape"))
    clock = Clock(a=(3.0, 1.0))
    with caplog.at_level(logging.WARNING):
        assert choose_kernels(layers("a"), measure=clock, folder=tmp_path) == {"a.weights": "onednn"}
    assert clock.asked == ["a"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith(f"the kernel times in {path} cannot be used (")
    assert json.loads(path.read_text())["kernels"] == {"key of a": [3.0, 1.0]}


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "kernels").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        assert choose_kernels(layers("a"), measure=Clock(a=(2.0, 1.0)), folder=tmp_path) == {"a.weights": "onednn"}
    (line,) = [record.getMessage() for record in caplog.records if record.name == measure.log.name]
    assert line.startswith("the measured kernel times are not kept: cannot write ")


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize(("channels", "kernels"), [(4, 2), (16, 3)])
def test_a_real_layer_is_timed_on_every_kernel_that_knows_it(channels, kernels):
    def build(x, *, training):
        return {"out": conv(conv(x, "wide", channels, 1), "a", channels)}

    _, layer = convolution_layers(traced(build, batch=2, size=16))
    times = kernel_times(layer.program)
    assert len(times) == kernels
    assert min(times) > 0
