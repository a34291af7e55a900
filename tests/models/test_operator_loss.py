"""The loss by Paddle's operator, and the parts that it does not show."""

import json

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.models._names import Names
from slim_distill.models.yolo_fine_loss import fine_grained_loss
from slim_distill.models.yolo_loss import GroundTruth, operator_loss, smoothing
from slim_distill.models.yolov3 import Anchors
from tests.models.support import ANCHORS, MASKS, best_anchor, relative_error, run, targets

PARTS = ("xy", "wh", "obj", "cls")


def ops_cases(golden):
    return json.loads((golden / "ops" / "ops.json").read_text())["yolov3_loss"]


def feeds(head_shapes, num_classes, fine=False):
    """-> (heads that take gradients, ground truth, targets)."""
    heads = [static.data(f"head{i}", [None, *shape[1:]], "float32") for i, shape in enumerate(head_shapes)]
    for head in heads:
        head.stop_gradient = False
    truth = GroundTruth(
        static.data("gt_bbox", [None, None, 4], "float32"),
        static.data("gt_class", [None, None], "int32"),
        static.data("gt_score", [None, None], "float32"),
    )
    shapes = [[None, 3, 6 + num_classes, None, None] for _ in heads] if fine else []
    return heads, truth, [static.data(f"target{i}", shape, "float32") for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("case", range(3))
def test_operator_gives_the_stored_losses_gradients_and_parts(static_mode, golden, case):
    meta = ops_cases(golden)[case]
    stored = np.load(golden / "ops" / meta["file"])
    scale = {32: 0, 16: 1, 8: 2}[meta["downsample"]]
    assert meta["anchor_mask"] == list(MASKS[scale])
    heads, truth, _ = feeds([stored["x"].shape], meta["class_num"])

    class OneScale(Anchors):
        def stride(self, i):
            return meta["downsample"]

    names = Names()
    operator_loss(
        heads, truth, names, OneScale(ANCHORS, (MASKS[scale],)), num_classes=meta["class_num"],
        ignore_thresh=meta["ignore_thresh"], label_smooth=meta["use_label_smooth"], scale_x_y=meta["scale_x_y"],
    )  # fmt: skip
    found = names.table()
    gradient = static.gradients([found["loss"]], heads)[0]
    feed = {
        "head0": stored["x"],
        "gt_bbox": stored["gt_box"],
        "gt_class": stored["gt_label"],
        "gt_score": stored["gt_score"],
    }
    wanted = [found[n] for n in ("yolo_loss0.tmp_0", "loss", *(f"loss_{part}" for part in PARTS))]
    per_image, loss, xy, wh, obj, cls, grad = run(feed, [*wanted, gradient])
    np.testing.assert_allclose(per_image, stored["loss"], rtol=1e-6)
    assert float(loss) == pytest.approx(stored["loss"].mean(), rel=1e-6)
    np.testing.assert_allclose(grad, stored["grad_of_mean_loss_wrt_x"], rtol=1e-5, atol=1e-7)  # measured: equal
    numpy_parts = {k: np.mean(v) for k, v in meta["parts_numpy"].items()}
    assert float(xy) == pytest.approx(numpy_parts["xy"], rel=1e-5)
    assert float(wh) == pytest.approx(numpy_parts["wh"], rel=1e-5, abs=1e-6)
    assert float(obj) == pytest.approx(numpy_parts["obj_pos"] + numpy_parts["obj_neg"], rel=1e-5)
    assert float(cls) == pytest.approx(numpy_parts["cls"], rel=1e-5)


def batch_without_collisions(seed, size, num_classes):
    """Random heads, and boxes of which no two share a cell and an anchor at any scale."""
    r = np.random.RandomState(seed)
    bbox, label, score = np.zeros((2, 9, 4), np.float32), np.zeros((2, 9), np.int32), np.zeros((2, 9), np.float32)
    for n in range(2):
        taken = set()
        for b in range(8):  # row 8 stays padding
            w, h = np.exp(r.uniform(np.log(0.06), np.log(0.8), 2))
            cx, cy = r.uniform(w / 2, 1 - w / 2), r.uniform(h / 2, 1 - h / 2)
            number = best_anchor(np.float32(w) * size, np.float32(h) * size)
            g = size // (8, 16, 32)[number // 3]
            if (number, int(cx * g), int(cy * g)) in taken or b == 4:  # an empty row in the middle
                continue
            taken.add((number, int(cx * g), int(cy * g)))
            bbox[n, b], label[n, b], score[n, b] = (cx, cy, w, h), r.randint(num_classes), r.uniform(0.3, 1)
    feed = {"gt_bbox": bbox, "gt_class": label, "gt_score": score}
    for i in range(3):
        g = size // (32 >> i)
        feed[f"head{i}"] = r.randn(2, 3 * (5 + num_classes), g, g).astype(np.float32)
        feed[f"target{i}"] = targets(bbox, label, score, i, size, num_classes)
    return feed


@pytest.mark.parametrize(("smooth", "scale_x_y"), [(False, 1.0), (True, 1.05)])
def test_both_paths_agree_where_no_boxes_collide(static_mode, smooth, scale_x_y):
    size, num_classes = 96, 5
    feed = batch_without_collisions(3, size, num_classes)
    assert sum((feed[f"target{i}"][:, :, 5] > 0).sum() for i in range(3)) == (feed["gt_score"] > 0).sum() > 10
    heads, truth, wanted = feeds([feed[f"head{i}"].shape for i in range(3)], num_classes, fine=True)
    options = {"num_classes": num_classes, "ignore_thresh": 0.3, "label_smooth": smooth, "scale_x_y": scale_x_y}
    by_operator, in_graph, anchors = Names(), Names(), Anchors(ANCHORS, MASKS)
    operator_loss(heads, truth, by_operator, anchors, **options)
    fine_grained_loss(heads, truth.bbox, wanted, in_graph, anchors, **options)
    tables = by_operator.table(), in_graph.table()
    names = ["loss", *(f"loss_{part}.{i}" for part in PARTS for i in range(3))]
    gradients = [g for t in tables for g in static.gradients([t["loss"]], heads)]
    got = run(feed, [*(t[n] for t in tables for n in names), *gradients])
    for name, a, b in zip(names, got[: len(names)], got[len(names) : 2 * len(names)], strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5), name  # measured: 3e-7
    for a, b in zip(got[-6:-3], got[-3:], strict=True):
        assert relative_error(a, b) < 1e-5  # measured: 1e-7


def test_parts_are_computed_beside_the_loss(static_mode):
    heads, truth, _ = feeds([(2, 30, 4, 4), (2, 30, 8, 8), (2, 30, 16, 16)], 5)
    names = Names()
    operator_loss(heads, truth, names, Anchors(ANCHORS, MASKS), num_classes=5)
    needed, stack = set(), [names.table()["loss"].get_defining_op()]
    while stack:
        op = stack.pop()
        if op.id() not in needed:
            needed.add(op.id())
            stack += [v.get_defining_op() for v in op.operands_source() if v.initialized()]
    kinds = [op.name() for op in paddle.static.default_main_program().global_block().ops if op.id() in needed]
    assert kinds.count("pd_op.yolo_loss") == 3
    assert not {"pd_op.gather_nd", "pd_op.softplus"} & set(kinds)


def test_smoothing_is_a_fortieth_until_there_are_more_classes():
    assert smoothing(80, False) == 0
    assert smoothing(20, True) == 1 / 40
    assert smoothing(80, True) == 1 / 80
