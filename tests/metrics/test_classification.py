"""Top-k accuracy."""

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.metrics import topk_accuracy


def test_counts_labels_among_the_highest():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]])
    assert topk_accuracy(scores, np.array([[1], [1], [0], [0]]), ks=(1, 2, 3)) == {1: 0.5, 2: 0.75, 3: 1.0}


def test_equals_sorting_on_random_scores():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, (200, 9)).astype(float), rng.integers(0, 9, 200)  # many ties
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 3, 5):
        expected = (order[:, :k] == labels[:, None]).any(axis=1).mean()
        assert topk_accuracy(scores, labels, ks=(k,))[k] == pytest.approx(expected, abs=1e-12)


def test_constant_scores_are_no_success():
    assert topk_accuracy(np.zeros((4, 4)), np.arange(4), ks=(1, 2)) == {1: 0.25, 2: 0.5}


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros(3, int), r"scores \(2, 3\) and 3 labels"),
        (np.zeros((0, 3)), np.zeros(0, int), r"scores \(0, 3\) and 0 labels"),
        (np.array([[0.0, np.nan]]), np.array([0]), "row 0 has a NaN score"),
        (np.zeros((1, 3)), np.array([3]), "label 3 with 3 classes"),
    ],
)
def test_refusals(scores, labels, message):
    with pytest.raises(DataError, match=message):
        topk_accuracy(scores, labels)
