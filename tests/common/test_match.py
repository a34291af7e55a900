"""Choosing the arrays a network wants, and saying what does not fit."""

import numpy as np
import pytest

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import match_weights

ARRAYS = {"a.w": np.zeros((3, 2)), "a.b": np.ones(3), "extra": np.zeros(1)}


def test_all_that_is_wanted_is_selected_in_the_networks_order_and_the_rest_reported():
    arrays, report = match_weights(ARRAYS, {"a.b": [3], "a.w": (3, 2)}, what="x")
    assert list(arrays) == ["a.b", "a.w"]
    assert arrays["a.w"] is ARRAYS["a.w"]
    assert (report.missing, report.unexpected, report.wrong_shape) == ((), ("extra",), {})
    assert str(report) == "2 of 2 variables fit; 1 not wanted: extra"


def test_strict_lists_everything_that_does_not_fit():
    wanted = {"a.w": (2, 3), "a.bias": (3,), "a.b": (3,)}
    message = (
        r"^teacher\.tar for the teacher: the weights do not fit\. 1 of 3 variables fit; 1 missing: a\.bias; "
        r"1 of another shape: a\.w \[3, 2\] \(wanted \[2, 3\]\); 1 not wanted: extra"
    )
    with pytest.raises(WeightsError, match=message):
        match_weights(ARRAYS, wanted, what="teacher.tar for the teacher")


def test_strict_guesses_what_a_missing_name_is_called_in_the_file():
    with pytest.raises(WeightsError, match=r"did the file mean 'conv1_weight' by 'conv1_weights'\?"):
        match_weights({"conv1_weight": np.zeros(1), "b": np.zeros(1)}, {"conv1_weights": (1,), "b": (1,)}, what="x")


def test_a_long_list_is_cut():
    wanted = {"a.b": (3,), **{f"v{i}": (1,) for i in range(100)}}
    with pytest.raises(WeightsError, match=r"100 missing: v0, v1, v2, v3, v4, \.\.\. 95 more") as caught:
        match_weights(ARRAYS, wanted, what="x")
    assert len(str(caught.value)) < 400


def test_not_strict_loads_what_fits_and_reports_the_rest():
    arrays, report = match_weights(ARRAYS, {"a.w": (9, 9), "a.b": (3,), "head": (1,)}, what="x", strict=False)
    assert list(arrays) == list(report.loaded) == ["a.b"]
    assert report.missing == ("head",)
    assert report.unexpected == ("extra",)
    assert report.wrong_shape == {"a.w": ((3, 2), (9, 9))}


@pytest.mark.parametrize("strict", [True, False])
def test_nothing_that_fits_is_an_error_in_both_modes(strict):
    with pytest.raises(
        WeightsError, match=r"nothing fits, probably weights of another architecture\. 0 of 1 variables"
    ):
        match_weights(ARRAYS, {"z": (1,)}, what="x", strict=strict)


def test_the_size_of_each_axis_counts_not_only_their_product():
    with pytest.raises(WeightsError, match=r"\[3, 2\] \(wanted \[6\]\)"):
        match_weights(ARRAYS, {"a.w": (6,), "a.b": (3,)}, what="x")
