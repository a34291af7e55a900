"""Feeding variables instead of computing them."""

import numpy as np
import pytest

from slim_distill.common.errors import GraphError, VariableNotFoundError
from slim_distill.engine.session import Session
from slim_distill.graph import Feed, Freeze, Slice, merge, run_passes
from tests.graph.nets import detector, image, op_names, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")


def run(program, feeds, name):
    session = Session("cpu")
    session.start(program, seed=0)
    return session.run(program, feeds, [name])[name]


def test_readers_take_what_is_fed():
    program = with_random_values(traced(detector))
    neck = run(program, {"image": image()}, "neck")
    fed = run_passes(program, [Feed(("neck",)), Slice(("head",))])
    assert fed.changed
    assert list(fed.program.feeds) == ["neck"]
    assert op_names(fed.program).count("pd_op.conv2d") == 1
    head = run(fed.program, {"neck": neck}, "head")
    np.testing.assert_array_equal(head, run(program, {"image": image()}, "head"))
    assert np.abs(run(fed.program, {"neck": 2 * neck}, "head") - head).max() > 0.1
    assert "neck" not in program.feeds


def test_a_second_run_changes_nothing_and_a_feed_stays_one():
    once = run_passes(traced(detector), [Feed(("head", "image"))]).program
    assert not run_passes(once, [Feed(("head", "image"))]).changed
    assert list(once.feeds) == ["image", "head"]


def test_a_fed_guest_becomes_feeds_of_the_host_under_its_prefix():
    guest = run_passes(traced(detector), [Freeze(), Feed(("head", "small")), Slice(("head", "small"))]).program
    merged = merge(traced(detector), guest)
    assert set(merged.feeds) == {"image", "teacher_head", "teacher_small"}
    assert tuple(merged["teacher_head"].shape) == (-1, 6, -1, -1)
    assert not [name for name in merged.parameters() if name.startswith("teacher_")]


def test_refuses_parameters_and_unknown_names():
    program = traced(detector)
    with pytest.raises(GraphError, match=r"'stem\.weights' is a parameter"):
        run_passes(program, [Feed(("stem.weights",))])
    with pytest.raises(VariableNotFoundError, match="no variable 'hed'"):
        run_passes(program, [Feed(("hed",))])
