"""Tables and the picture of a control and recipes over seeds."""

import json

import pytest

from slim_distill.common.errors import DataError
from slim_distill.report import as_plain, difference_plot, seed_tables, summarise
from tests.report.test_curves import BLUE, GREEN, RED, count, pixels

SCORES = {
    "control": {s: {"mAP": v, "cat": v / 2} for s, v in ((0, 0.50), (1, 0.60), (2, 0.70))},
    "a": {s: {"mAP": v, "cat": 0.3} for s, v in ((0, 0.52), (1, 0.62), (2, 0.72))},
    "b": {1: {"mAP": 0.59}, 5: {"mAP": 0.9}},
    "unfinished": {},
}


def row(text: str, first: str) -> list[str]:
    """Cells of the first table row that begins with `first`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_differences_are_taken_over_the_seeds_that_both_have():
    found = summarise(SCORES)
    assert list(found) == ["control", "a", "b"]
    assert found["control"]["mAP"].difference is None
    gain = found["a"]["mAP"].difference
    assert (gain.pairs, gain.mean) == (3, pytest.approx(0.02))
    gain = found["b"]["mAP"].difference
    assert (gain.pairs, gain.mean, gain.low) == (1, pytest.approx(-0.01), None)
    assert found["b"]["mAP"].mean == pytest.approx(0.745)
    assert "cat" not in found["b"]


def test_the_table_says_what_is_established_and_what_is_not():
    text = seed_tables(summarise(SCORES), "control")
    assert row(text, "control") == ["control", "0, 1, 2", "60.0", "10.0", "", "", ""]
    assert row(text, "a") == ["a", "0, 1, 2", "62.0", "10.0", "+2.0", "[+2.0, +2.0]", "better"]
    assert row(text, "b") == ["b", "1, 5", "74.5", "21.9", "-1.0", "n/a", "n/a"]


def test_every_figure_has_its_mean_and_difference():
    _, means, changes = seed_tables(summarise(SCORES), "control").split("## ")[1:]
    assert row(means, "cat") == ["cat", "30.0 ± 5.0", "30.0 ± 0.0", "n/a"]
    # 5, 0, -5 points: deviation 5, half width 4.3027 * 5 / sqrt(3) = 12.4.
    assert row(changes, "cat") == ["cat", "+0.0 [-12.4, +12.4]", "n/a"]
    assert row(changes, "figure") == ["figure", "a", "b"]


def test_one_figure_needs_one_table():
    text = seed_tables(summarise({"control": {0: {"AP": 0.5}}, "a": {0: {"AP": 0.6}}}), "control")
    assert text.count("##") == 1
    assert row(text, "a") == ["a", "0", "60.0", "n/a", "+10.0", "n/a", "n/a"]


def test_plain_data_survives_json():
    plain = json.loads(json.dumps(as_plain(summarise(SCORES))))
    assert plain["a"]["mAP"]["values"] == {"0": 0.52, "1": 0.62, "2": 0.72}
    assert set(plain["a"]["mAP"]["difference"]) == {"pairs", "mean", "low", "high"}
    assert plain["control"]["mAP"]["difference"] is None


def test_without_scores_there_is_nothing_to_report(tmp_path):
    with pytest.raises(DataError, match="no run of control, a has been scored"):
        summarise({"control": {}, "a": {}})
    with pytest.raises(DataError, match="no runs to draw"):
        difference_plot({}, tmp_path / "p.png")


def test_the_picture_has_a_line_for_each_run_and_an_interval_where_there_is_one(tmp_path):
    mean = {name: summary["mAP"] for name, summary in summarise(SCORES).items()}
    some = pixels(difference_plot({n: mean[n] for n in ("control", "a")}, tmp_path / "two.png"))
    every = pixels(difference_plot(mean, tmp_path / "three.png"))
    assert min(count(some, BLUE), count(some, RED)) > 50
    assert count(some, GREEN) == 0
    assert count(every, GREEN) > 50
    assert every.shape[0] > some.shape[0]
    # An interval is a bar in the colour of its run at three tenths: two pairs have one, a single pair has none.
    narrow = summarise({"control": SCORES["control"], "a": {s: {"mAP": 0.5 + 0.11 * s} for s in (0, 1, 2)}})
    bar = "#f2c9ce"  # 0.3 * RED on white
    assert count(pixels(difference_plot({n: s["mAP"] for n, s in narrow.items()}, tmp_path / "bar.png")), bar) > 500
    single = summarise({"control": SCORES["control"], "a": {0: {"mAP": 0.6}}})
    assert count(pixels(difference_plot({n: s["mAP"] for n, s in single.items()}, tmp_path / "no.png")), bar) < 100
