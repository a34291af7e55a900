"""The published networks' numbers on the stored batch. Measured errors stand beside each tolerance."""

import json

import numpy as np
import pytest
from paddle import static

from slim_distill.models import build_model
from tests.models.support import build, detector, relative_error, set_test_mode

HEADS = tuple(f"yolo_head.{i}" for i in range(3))
PARTS = ("xy", "wh", "obj", "cls")
TOLERANCE = 1e-4  # what is asked for; measured: heads 1.3e-7, losses and their parts 2e-7, boxes and scores 1e-8


@pytest.fixture
def inputs(golden):
    arrays = dict(np.load(golden / "voc_l2" / "inputs.npz"))
    return {**arrays, "im_size": arrays["eval_im_size"]}


@pytest.fixture
def losses(golden):
    return json.loads((golden / "voc_l2" / "losses.json").read_text())


def test_student_in_training_mode(static_mode, golden, inputs, losses):
    student = build(build_model(detector("mobilenet_v1"), "train"))
    student.fill_by_formula()
    parts = [f"loss_{part}.{i}" for part in PARTS for i in range(3)]
    got = student.run(inputs, [*HEADS, "loss", "loss.0", "loss.1", "loss.2", *parts])
    stored = np.load(golden / "voc_l2" / "heads_student_train.npz")
    for i, name in enumerate(HEADS):
        assert relative_error(got[name], stored[f"head{i}"]) < TOLERANCE
    assert float(got["loss"]) == pytest.approx(losses["student_loss"], rel=TOLERANCE)
    derived = json.loads((golden / "voc_l2" / "loss_parts_derived.json").read_text())["student"]
    for i in range(3):
        assert float(got[f"loss.{i}"]) == pytest.approx(losses["student_yolov3_loss_per_scale_mean"][i], rel=TOLERANCE)
        wanted = {part: np.mean(derived[i][part]) for part in ("xy", "wh", "cls")}
        wanted["obj"] = np.mean(derived[i]["obj_pos"]) + np.mean(derived[i]["obj_neg"])
        for part in PARTS:
            assert float(got[f"loss_{part}.{i}"]) == pytest.approx(wanted[part], rel=TOLERANCE)
    assert sum(float(got[part]) for part in parts) == pytest.approx(float(got["loss"]), rel=1e-5)
    check_running_statistics(np.load(golden / "voc_l2" / "bn_running_stats.npz"))


def check_running_statistics(stored):
    """They move by a tenth of the way to the batch's mean and biased variance."""
    names = [key.removeprefix("after1/") for key in stored.files if key.startswith("after1/")]
    assert len(names) == 6
    for name in names:
        now = np.array(static.global_scope().find_var(name).get_tensor())
        assert relative_error(now, stored[f"after1/{name}"]) < TOLERANCE


def test_teacher_in_test_mode(static_mode, golden, inputs, losses):
    teacher = build(build_model(detector("resnet"), "train"))
    teacher.fill_by_formula()
    set_test_mode()
    got = teacher.run(inputs, [*HEADS, "loss"])
    stored = np.load(golden / "voc_l2" / "heads_teacher_test.npz")
    for i, name in enumerate(HEADS):
        assert relative_error(got[name], stored[f"head{i}"]) < TOLERANCE
    assert float(got["loss"]) == pytest.approx(losses["teacher_loss"], rel=TOLERANCE)


def test_salted_teacher(static_mode, golden, inputs):
    teacher = build(build_model(detector("resnet"), "eval"))
    teacher.fill_by_formula(salted=True)
    got = teacher.run(inputs, HEADS)
    stored = np.load(golden / "voc_l2" / "heads_salted_teacher_crop.npz")
    for i, name in enumerate(HEADS):
        assert relative_error(got[name][0, :, :4, :4], stored[f"teacher_head{i}_n0_first4x4"]) < TOLERANCE


def test_detections(static_mode, golden, inputs):
    student = build(build_model(detector("mobilenet_v1"), "eval"))
    student.fill_by_formula()
    got = student.run(inputs, [*HEADS, "boxes", "scores", "dets", "dets_num"])
    crops = np.load(golden / "voc_l2" / "eval_heads_crop.npz")
    for i, name in enumerate(HEADS):
        assert relative_error(got[name][:, :, :5, :5], crops[f"head{i}_first5x5"]) < TOLERANCE
    for name in ("boxes", "scores"):
        stored = np.load(golden / "voc_l2" / f"eval_{name}.npz")[name]
        assert got[name].shape == stored.shape
        assert relative_error(got[name], stored) < TOLERANCE
    nms = np.load(golden / "voc_l2" / "eval_nms.npz")
    np.testing.assert_array_equal(got["dets_num"], np.diff(nms["lod"]))
    np.testing.assert_array_equal(got["dets"][:, 0], nms["dets"][:, 0])
    np.testing.assert_allclose(got["dets"], nms["dets"], rtol=1e-3, atol=1e-3)  # measured: 0
