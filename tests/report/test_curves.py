"""Curves and bars."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.report import ap_bars, ap_curves, loss_curves
from slim_distill.report.curves import moving_average

STEPS = np.arange(0, 400, 4)


def pixels(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


def count(picture, colour):
    """Pixels near a colour given as #rrggbb."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(picture - wanted).max(axis=2) < 12).sum())


BLUE, RED, GREEN = "#0b6fb8", "#d1495b", "#2b8a4b"


def test_loss_curves_draw_every_run(tmp_path):
    runs = {"control": {"loss": (STEPS, np.exp(-STEPS / 99))}, "l2": {"loss": (STEPS, 1 + np.exp(-STEPS / 99))}}
    one = pixels(loss_curves({"control": runs["control"]}, tmp_path / "one.png"))
    two = pixels(loss_curves(runs, tmp_path / "two.png"))
    assert count(one, BLUE) > 500
    assert count(one, RED) == 0
    assert min(count(two, BLUE), count(two, RED)) > 500
    assert count(two, GREEN) == 0


def test_loss_curves_have_a_panel_for_each_series(tmp_path):
    names = ("loss", "student_loss", "x", "y")
    shapes = [
        pixels(loss_curves({"a": dict.fromkeys(names[:n], (STEPS, STEPS))}, tmp_path / "p.png")).shape
        for n in (1, 2, 3, 4)
    ]
    assert shapes[1][1] < shapes[2][1] == shapes[3][1]
    assert shapes[3][0] > shapes[2][0]


def test_values_that_are_not_finite_leave_gaps(tmp_path):
    values = np.ones(100)
    values[10:60] = np.nan
    values[60:70] = np.inf
    whole = count(pixels(loss_curves({"a": {"loss": (STEPS, np.ones(100))}}, tmp_path / "w.png", window=1)), BLUE)
    gap = count(pixels(loss_curves({"a": {"loss": (STEPS, values)}}, tmp_path / "g.png", window=1)), BLUE)
    assert 0.25 * whole < gap < 0.6 * whole


def test_axis_is_logarithmic_when_values_span_much(tmp_path):
    def draw(values, **options):
        return pixels(loss_curves({"a": {"loss": (STEPS, values)}}, tmp_path / "a.png", **options))

    wide, narrow = np.geomspace(1, 1000, 100), np.linspace(1, 20, 100)
    np.testing.assert_array_equal(draw(wide), draw(wide, log=True))
    np.testing.assert_array_equal(draw(narrow), draw(narrow, log=False))
    np.testing.assert_array_equal(draw(wide - 1), draw(wide - 1, log=False))  # a zero has no logarithm
    assert (draw(wide) != draw(wide, log=False)).any()
    assert (draw(wide, shares=("loss",)) != draw(wide)).any()


def test_moving_average_values():
    values = np.array([1.0, 2, 3, 4, 100])
    np.testing.assert_allclose(moving_average(values, 1), values)
    np.testing.assert_allclose(moving_average(values, 3), [1.5, 2, 3, 107 / 3, 52])
    np.testing.assert_allclose(moving_average(np.array([1.0, np.nan, 3, np.inf]), 3), [1, 2, 3, 3])
    np.testing.assert_array_equal(moving_average(np.array([np.nan, np.nan]), 2), [np.nan, np.nan])


def test_moving_average_keeps_a_straight_line_inside():
    line = np.arange(50.0)
    np.testing.assert_allclose(moving_average(line, 5)[2:-2], line[2:-2], rtol=1e-12)


def test_ap_curves_and_bars(tmp_path):
    curves = pixels(ap_curves({"a": ([0, 10], [0.1, 0.5]), "b": ([0, 10], [0.2, 0.6])}, tmp_path / "c.png"))
    assert min(count(curves, BLUE), count(curves, RED)) > 300
    one = pixels(ap_bars({"a": [0.5]}, tmp_path / "one.png"))
    bars = pixels(ap_bars({"a": [0.5], "b": [0.2, 0.3]}, tmp_path / "b.png"))
    assert bars.shape[1] >= one.shape[1]


def test_higher_bars_are_higher(tmp_path):
    picture = pixels(ap_bars({"a": [0.8], "b": [0.4]}, tmp_path / "b.png"))
    blue, red = picture - [48, 133, 195], picture - [216, 101, 117]  # the colours, a little transparent, on white
    heights = [(np.abs(d).max(axis=2) < 12).any(axis=1).sum() for d in (blue, red)]
    assert heights[0] / heights[1] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_other_formats(tmp_path, ending):
    path = ap_curves({"a": ([0, 1], [0, 1])}, tmp_path / f"c.{ending}")
    assert path.read_bytes()[:5] in (b"<?xml", b"%PDF-")


def test_pyplot_stays_out(tmp_path):
    code = (
        "import sys; from slim_distill.report import ap_bars; "
        f"ap_bars({{'a': [1.0]}}, {str(tmp_path / 'a.png')!r}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="no series to draw in 0 runs"):
        loss_curves({}, tmp_path / "a.png")
    with pytest.raises(DataError, match="a: loss: 2 steps for 3 values"):
        loss_curves({"a": {"loss": ([1, 2], [1, 2, 3])}}, tmp_path / "a.png")
    with pytest.raises(DataError, match="no runs to draw"):
        ap_curves({}, tmp_path / "a.png")
    with pytest.raises(DataError, match="no values of b"):
        ap_bars({"a": [1.0], "b": []}, tmp_path / "a.png")
    with pytest.raises(DataError, match="no picture format 'gift'; known: .*png"):
        ap_bars({"a": [1.0]}, tmp_path / "a.gift")
    assert list(tmp_path.iterdir()) == []
