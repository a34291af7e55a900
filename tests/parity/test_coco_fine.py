"""The published COCO pair with the fine-grained losses, against the formulas in float64 from the fetched head maps."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from tests.golden_formula import all_weights, boxes, images
from tests.parity.conftest import CONFIGS, paddle_static
from tests.parity.reference import ANCHORS, detection_loss, objectness_loss, sigmoid, split

SIZE, CLASSES, WEIGHT = 256, 80, 1000
HEADS = [f"yolo_head.{i}" for i in range(3)]
NECKS = ["neck.p5", "neck.p4", "neck.p3"]
SLICES = [f"strided_slice_{k}.tmp_0" for k in range(15)]
CLASS_MAPS = [f"transpose_{k}.tmp_0" for k in (0, 2, 4)]
PUBLISHED = [prefix + name for prefix in ("", "teacher_") for name in [*SLICES, *CLASS_MAPS]]
PARTS = [f"loss_{part}.{i}" for part in ("xy", "wh", "obj", "cls") for i in range(3)]
OUTPUTS = [f"yolo_output.{i}.conv.{what}" for what in ("weights", "bias") for i in range(3)]
FETCH = [*HEADS, *(f"teacher_{name}" for name in HEADS), *NECKS, *PUBLISHED, *PARTS]
FETCH += [f"teacher_{name}" for name in PARTS] + [f"{name}@GRAD" for name in OUTPUTS]


def predicted_box(head, scale, image):
    """A box that one cell of a head map predicts: centre x, y, width, height as shares of the image."""
    x, y, w, h = (part[image, 1, 2, 3] for part in split(head)[:4])
    g = head.shape[-1]
    size = np.exp([w, h]) * ANCHORS[(7, 4, 1)[scale]] / SIZE
    return [(sigmoid(x) + 3) / g, (sigmoid(y) + 2) / g, *size]


@pytest.fixture(scope="module")
def fine():
    """One step of the merged program from formula weights, what it was fed, and its shapes by name."""
    from slim_distill import api
    from slim_distill.graph import shape_of

    student, teacher = CONFIGS / "yolov3_mobilenet_v1.yml", CONFIGS / "yolov3_r34.yml"
    options = ["use_fine_grained_loss=true"]
    with paddle_static():
        trainer = api.distillation(student, teacher, options)
        shapes = trainer.program.parameter_shapes()
        own = {n: s for n, s in shapes.items() if not n.startswith("teacher_")}
        its = {n.removeprefix("teacher_"): s for n, s in shapes.items() if n not in own}
        trainer.set_parameters(all_weights(own))
        trainer.set_parameters(all_weights(its, salted=True), "teacher_")
        box, label, score = boxes(2000, 2, CLASSES)
        batch = {"image": images(2000, 2, SIZE, SIZE), "gt_bbox": box, "gt_class": label, "gt_score": score}
        first = trainer.step(api.add_targets(student, batch, options), FETCH)
        # Boxes that the student predicts, so that the ignore rule has something to ignore; the first step has rate 0.
        for scale, name in enumerate(HEADS):
            batch["gt_bbox"][1, 20 + scale] = predicted_box(first[name], scale, 1)
            batch["gt_score"][1, 20 + scale] = 0.0
        batch = api.add_targets(student, batch, options)
        out = trainer.step(batch, FETCH)
        named = {name: shape_of(trainer.program[name]) for name in PUBLISHED}
    return SimpleNamespace(batch=batch, out=out, first=first, shapes=named)


@pytest.fixture(scope="module")
def expected(fine):
    """Losses and gradients of the head maps by the formulas."""
    found = SimpleNamespace(parts={}, terms=[], gradients=[], ignored=0)
    for i, name in enumerate(HEADS):
        target, truth = fine.batch[f"target{i}"], fine.batch["gt_bbox"]
        for prefix in ("", "teacher_"):
            losses, gradient, ignored = detection_loss(fine.out[prefix + name], target, truth, i)
            found.parts |= {f"{prefix}loss_{part}.{i}": value for part, value in losses.items()}
            if not prefix:
                own, found.ignored = gradient, found.ignored + ignored
        term, distilled = objectness_loss(fine.out[name], fine.out[f"teacher_{name}"])
        found.terms.append(term)
        found.gradients.append(own + WEIGHT * distilled)
    return found


def test_the_case_has_boxes_and_ignored_cells(fine, expected):
    assert all((fine.batch[f"target{i}"][:, :, 5] > 0).any() for i in range(3))
    assert expected.ignored >= 3
    for i in range(3):
        assert np.any(fine.out[HEADS[i]] != fine.out[f"teacher_{HEADS[i]}"])


def test_detection_loss_of_student_and_teacher(fine, expected, record):
    for name, value in expected.parts.items():
        record.check("COCO fine-grained, float64: parts of the detection loss", fine.out[name], value, 1e-4)
    for prefix, name in (("", "student_loss"), ("teacher_", "teacher_loss")):
        total = sum(value for key, value in expected.parts.items() if key.startswith(f"{prefix}loss_"))
        record.check(f"COCO fine-grained, float64: {name}", fine.out[name], total, 1e-4)


def test_distillation_terms(fine, expected, record):
    for i, value in enumerate(expected.terms):
        got = fine.out[f"distill.{i}.yolo_objectness"]
        record.check("COCO fine-grained, float64: term of each scale", got, value, 1e-4)
    weighted = WEIGHT * sum(expected.terms)
    record.check("COCO fine-grained, float64: distill_loss", fine.out["distill_loss"], weighted, 1e-4)
    total = float(fine.out["student_loss"]) + float(fine.out["distill_loss"])
    assert float(fine.out["total_loss"]) == pytest.approx(total, rel=1e-6)


def test_gradients_of_the_output_convolutions(fine, expected, record):
    """The gradient of a head map, carried on by hand to the 1x1 convolution that makes it."""
    for i, gradient in enumerate(expected.gradients):
        bias = gradient.sum((0, 2, 3))
        weights = np.einsum("nohw,nihw->oi", gradient, fine.out[NECKS[i]].astype("f8"))[:, :, None, None]
        for name, want in (("bias", bias), ("weights", weights)):
            got = fine.out[f"yolo_output.{i}.conv.{name}@GRAD"]
            record.check(f"COCO fine-grained, float64: gradient of output {name}", got, want, 1e-4)


@pytest.mark.parametrize("prefix", ["", "teacher_"])
def test_published_names_are_the_parts_of_the_heads(fine, prefix):
    for i, head in enumerate(HEADS):
        *fields, classes = split(fine.out[prefix + head])
        for k, part in enumerate(fields):
            np.testing.assert_array_equal(fine.out[f"{prefix}strided_slice_{5 * i + k}.tmp_0"], part.astype("f4"))
        np.testing.assert_array_equal(fine.out[f"{prefix}transpose_{2 * i}.tmp_0"], classes.astype("f4"))


@pytest.mark.golden
def test_published_names_have_the_published_shapes(golden, fine):
    with open(golden / "names" / "coco_fg.merged_forward.vars.tsv", newline="") as file:
        published = {row["name"]: row["shape"] for row in csv.DictReader(file, delimiter="\t")}
    assert len(fine.shapes) == 36
    assert {n: "x".join(map(str, shape)) for n, shape in fine.shapes.items()} == {n: published[n] for n in fine.shapes}
