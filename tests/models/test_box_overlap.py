"""Laws of the overlaps; their values stand in test_fine_loss against numpy."""

import numpy as np
import paddle
import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.models.box_overlap import Corners, corners, overlap

KINDS = ("iou", "giou", "diou", "ciou")


@pytest.fixture(autouse=True)
def eager():
    was_dynamic = paddle.in_dynamic_mode()
    paddle.disable_static()
    yield
    if not was_dynamic:
        paddle.enable_static()


def boxes(*rows):
    return corners(*(paddle.to_tensor(np.array(column, np.float32)) for column in zip(*rows, strict=True)))


def value(tensor):
    return tensor.numpy().item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_agrees_with_itself(kind):
    same = boxes((0.5, 0.4, 0.2, 0.3), (0.1, 0.1, 0.05, 0.2))
    np.testing.assert_allclose(overlap(same, same, kind).numpy(), 1.0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_moving_all_boxes_changes_nothing(kind):
    a, b = boxes((0.5, 0.5, 0.4, 0.2)), boxes((0.55, 0.45, 0.2, 0.3))
    moved = [Corners(*(side + 3 for side in box)) for box in (a, b)]
    np.testing.assert_allclose(overlap(*moved, kind).numpy(), overlap(a, b, kind).numpy(), atol=1e-5)


def test_only_plain_iou_is_blind_to_distance():
    a, near, far = boxes((0.2, 0.2, 0.1, 0.1)), boxes((0.4, 0.2, 0.1, 0.1)), boxes((0.9, 0.2, 0.1, 0.1))
    assert value(overlap(a, near, "iou")) == value(overlap(a, far, "iou")) == 0
    for kind in KINDS[1:]:
        assert value(overlap(a, near, kind)) > value(overlap(a, far, kind))


def test_known_values():
    a, b = boxes((0.5, 0.5, 0.2, 0.2)), boxes((0.6, 0.5, 0.2, 0.2))  # half of each in common
    assert value(overlap(a, b, "iou")) == pytest.approx(1 / 3, abs=1e-5)
    assert value(overlap(a, b, "giou")) == pytest.approx(1 / 3, abs=1e-5)  # the union fills the enclosing box
    assert value(overlap(a, b, "diou")) == pytest.approx(1 / 3 - 0.01 / (0.09 + 0.04), abs=1e-5)
    assert value(overlap(a, b, "ciou")) == pytest.approx(1 / 3 - 0.01 / (0.09 + 0.04), abs=1e-5)  # shapes are equal


def test_refuses_an_unknown_kind():
    a = boxes((0.5, 0.5, 0.2, 0.2))
    with pytest.raises(ConfigError, match="overlap 'dious' is not known; did you mean 'diou'"):
        overlap(a, a, "dious")
