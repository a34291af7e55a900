"""A detector seen through the classes of another."""

import numpy as np
import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import (
    BackboneConfig,
    DataConfig,
    DatasetConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    ReaderConfig,
    RunConfig,
)
from slim_distill.engine.build import Teacher, build_teacher, class_index
from slim_distill.engine.evaluate import Detections, renumber
from slim_distill.engine.session import Session
from slim_distill.graph import shape_of, trace
from slim_distill.models.classes import select_classes

INDEX = (2, 0)


def run(classes, name="run", fine=False):
    data = ReaderConfig(DatasetConfig(classes=classes))
    backbone = BackboneConfig("mobilenet_v1", scale=0.125)
    model = ModelConfig(len(classes), backbone, HeadConfig(scale=0.0625), LossConfig(fine_grained=fine))
    return RunConfig(name, model, DataConfig(eval=data))


@pytest.mark.usefixtures("static_mode")
def test_picks_the_classes_of_every_anchor_and_keeps_boxes_and_names():
    rng = np.random.default_rng(0)
    heads = rng.normal(size=(2, 2 * 8, 3, 3)).astype("float32")  # two anchors of 5 + 3
    classes = rng.normal(size=(2, 2, 3, 3, 3)).astype("float32")
    feeds = {"a": FeedSpec((None, 16, 3, 3)), "b": FeedSpec((None, 2, 3, 3, 3))}

    def build(given):
        head, cls = given["a"] * 1, given["b"] * 1
        return {"yolo_head.0": head, "cls.0": cls, "conv2d_9.tmp_1": head, "loss": head.mean() + cls.mean()}

    spec = ModelSpec(feeds, build, {"num_classes": 3, "anchor_masks": ((0, 1),)})
    program = trace(select_classes(spec, INDEX))
    session = Session("cpu")
    session.start(program, 0)
    out = session.run(program, {"a": heads, "b": classes}, ["yolo_head.0", "cls.0", "conv2d_9.tmp_1", "loss"])
    split = heads.reshape(2, 2, 8, 3, 3)
    expected = np.concatenate([split[:, :, :5], split[:, :, [7, 5]]], axis=2).reshape(2, 14, 3, 3)
    np.testing.assert_array_equal(out["yolo_head.0"], expected)
    np.testing.assert_array_equal(out["conv2d_9.tmp_1"], expected)
    np.testing.assert_array_equal(out["cls.0"], classes[..., [2, 0]])
    assert out["loss"] == pytest.approx(heads.mean() + classes.mean(), rel=1e-5)


@pytest.mark.usefixtures("static_mode")
def test_a_teacher_of_more_classes_has_the_shapes_of_the_student():
    student, its = run(("disc", "square"), fine=True), run(("square", "ring", "disc"))
    program = build_teacher(its, student, class_index(student, "t_", Teacher(its, {}, classes="by_name")))
    assert shape_of(program["yolo_head.1"])[1] == 3 * 7
    assert shape_of(program["cls.2"])[-1] == 2


def test_classes_are_found_by_name():
    student, its = run(("disc", "square")), run(("square", "ring", "disc"))
    assert class_index(student, "teacher_", Teacher(its, {}, classes="by_name")) == INDEX
    assert class_index(student, "teacher_", Teacher(student, {})) is None


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            Teacher(run(("disc", "ring", "square")), {}),
            r"the teacher 't_' has 3 classes, the student 2; .* set by_name",
        ),
        (
            Teacher(run(("disc", "ring", "cube")), {}, classes="by_name"),
            r"does not know square; its classes: disc, ring",
        ),
        (Teacher(run(("disc", "square")), {}, frozen=False, classes="by_name"), r"by_name is for a frozen teacher"),
    ],
)
def test_classes_that_cannot_be_joined_are_refused_with_their_path(teacher, message):
    with pytest.raises(ConfigError, match=r"^distill\.teachers\.t_\.classes: .*" + message):
        class_index(run(("disc", "square")), "t_", teacher)


def test_detections_are_renumbered_and_others_left_out():
    rows = np.array([[0, 0.9, 1, 1, 2, 2], [1, 0.8, 1, 1, 3, 3], [2, 0.7, 1, 1, 4, 4]], "float32")
    got = renumber(Detections({4: rows, 5: rows[:0]}, 1.0), INDEX)
    np.testing.assert_array_equal(got.by_image[4][:, [0, 5]], [[1, 2], [0, 4]])
    assert got.by_image[5].shape == (0, 6)
    assert rows[0, 0] == 0
