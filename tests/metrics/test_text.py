"""CTC decoding, sequence accuracy, edit distance."""

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.metrics import ctc_greedy_decode, edit_distance, edit_similarity, sequence_accuracy

CHARACTERS = ["<blank>", "a", "b", "c"]


def steps(classes, sure=0.7):
    out = np.full((len(classes), 4), (1 - sure) / 3)
    out[np.arange(len(classes)), classes] = sure
    return out


def test_repeats_join_unless_a_blank_parts_them():
    paths = [[1, 1, 2, 0, 2, 3], [0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0]]
    decoded = ctc_greedy_decode(np.stack([steps(p) for p in paths]), CHARACTERS)
    assert [text for text, _ in decoded] == ["abbc", "", "aa"]
    assert [sure for _, sure in decoded] == pytest.approx([0.7, 0.0, 0.7])


def test_confidence_is_the_mean_of_the_steps_kept():
    sequence = np.stack([steps([1], 0.9)[0], steps([1], 0.5)[0], steps([0], 0.99)[0], steps([2], 0.6)[0]])
    assert ctc_greedy_decode(sequence[None], CHARACTERS)[0] == ("ab", pytest.approx((0.9 + 0.6) / 2))


def test_blank_can_be_the_last_class():
    decoded = ctc_greedy_decode(steps([0, 3, 0, 1])[None], ["x", "y", "z", ""], blank=3)
    assert decoded[0][0] == "xxy"


def test_no_steps_is_an_empty_text():
    assert ctc_greedy_decode(np.zeros((2, 0, 4)), CHARACTERS) == [("", 0.0), ("", 0.0)]


def test_refuses_another_number_of_classes():
    with pytest.raises(DataError, match=r"shape \(1, 5, 6\) for 4 characters"):
        ctc_greedy_decode(np.zeros((1, 5, 6)), CHARACTERS)


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edit_distance_values(a, b, distance):
    assert edit_distance(a, b) == distance
    assert edit_distance(b, a) == distance


def test_edit_distance_keeps_the_triangle_inequality():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(12)]
    for a in words:
        for b in words:
            assert (edit_distance(a, b) == 0) == (a == b)
            assert all(edit_distance(a, b) <= edit_distance(a, c) + edit_distance(c, b) for c in words)


def test_accuracy_and_similarity():
    predictions, targets = ["abc", "a b", "", "xy"], ["abc", "ab", "", "xz"]
    assert sequence_accuracy(predictions, targets) == 0.75
    assert sequence_accuracy(predictions, targets, ignore_space=False) == 0.5
    assert edit_similarity(predictions, targets) == pytest.approx(1 - 0.5 / 4)
    assert edit_similarity(predictions, targets, ignore_space=False) == pytest.approx(1 - (1 / 3 + 0.5) / 4)


@pytest.mark.parametrize("function", [sequence_accuracy, edit_similarity])
def test_refuses_uneven_and_empty_lists(function):
    with pytest.raises(DataError, match="2 predictions for 1 targets"):
        function(["a", "b"], ["a"])
    with pytest.raises(DataError, match="0 predictions for 0 targets"):
        function([], [])
