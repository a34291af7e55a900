"""The fine-grained loss against float64 arithmetic in numpy."""

import numpy as np
import pytest
from paddle import static

from slim_distill.models import build_model
from slim_distill.models._names import Names
from slim_distill.models.yolo_fine_loss import BoxLoss, fine_grained_loss
from slim_distill.models.yolov3 import Anchors
from tests.golden_formula import boxes
from tests.models import support
from tests.models.support import ANCHORS, MASKS, build, detector, fine_loss, random_batch, run

SIZE, CLASSES = 96, 6
PARTS = ("xy", "wh", "obj", "cls")


def make_feed(seed=5):
    """Random heads, boxes with a collision in each image, and three boxes that the heads predict.

    The latter have score 0: they are no targets, but the cells that predict them are to be ignored.
    """
    r = np.random.RandomState(seed)
    feed = dict(zip(("gt_bbox", "gt_class", "gt_score"), boxes(seed, 2, CLASSES), strict=True))
    for i in range(3):
        g, row = SIZE // (32 >> i), 20 + i
        feed[f"head{i}"] = (0.7 * r.randn(2, 3 * (5 + CLASSES), g, g)).astype(np.float32)
        found = support.predicted_boxes(feed[f"head{i}"].astype(np.float64).reshape(2, 3, -1, g, g), i)[1, i % 3, 1, 1]
        feed["gt_bbox"][1, row] = ((found[:2] + found[2:]) / 2).tolist() + (found[2:] - found[:2]).tolist()
    for i in range(3):
        feed[f"target{i}"] = support.targets(*(feed[k] for k in ("gt_bbox", "gt_class", "gt_score")), i, SIZE, CLASSES)
    return feed


def build_loss(batch=None, **options):
    heads, wanted = [], []
    for i in range(3):
        g = None if batch is None else SIZE // (32 >> i)
        heads.append(static.data(f"head{i}", [batch, 3 * (5 + CLASSES), g, g], "float32"))
        heads[-1].stop_gradient = False
        wanted.append(static.data(f"target{i}", [batch, 3, 6 + CLASSES, g, g], "float32"))
    bbox = static.data("gt_bbox", [batch, 50, 4], "float32")
    names = Names()
    fine_grained_loss(heads, bbox, wanted, names, Anchors(ANCHORS, MASKS), num_classes=CLASSES, **options)
    return heads, names.table()


def only(feed, *names):
    return {n: a for n, a in feed.items() if n.startswith(("head", "target", "gt_bbox", *names))}


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize(("thresh", "smooth", "scale_x_y"), [(0.7, False, 1.0), (0.4, True, 1.2)])
def test_parts_equal_the_reference(static_mode, batch, thresh, smooth, scale_x_y):
    feed = make_feed()
    _, table = build_loss(batch, ignore_thresh=thresh, label_smooth=smooth, scale_x_y=scale_x_y)
    names = [f"loss_{part}.{i}" for part in PARTS for i in range(3)]
    got = dict(zip([*names, "loss"], run(only(feed), [table[n] for n in [*names, "loss"]]), strict=True))
    total = 0.0
    for i in range(3):
        args = feed[f"head{i}"], feed["gt_bbox"], feed[f"target{i}"], i
        options = {"ignore_thresh": thresh, "smooth": 1 / 40 if smooth else 0.0, "scale_x_y": scale_x_y}
        wanted = fine_loss(*args, **options)
        total += sum(wanted.values())
        for part in PARTS:
            assert float(got[f"loss_{part}.{i}"]) == pytest.approx(wanted[part], rel=1e-5)  # measured: 4e-7
        # Some cell is ignored, or this test would not see the overlap rule.
        assert fine_loss(*args, **{**options, "ignore_thresh": 1.0})["obj"] > wanted["obj"] * (1 + 1e-4)
    assert float(got["loss"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("row", [0, 20, 49, None])
def test_overlap_rule_sees_boxes_wherever_padding_is(static_mode, row):
    feed = make_feed()
    found, feed["gt_bbox"] = feed["gt_bbox"][1, 20].copy(), np.zeros_like(feed["gt_bbox"])
    if row is not None:
        feed["gt_bbox"][1, row] = found
    _, table = build_loss()
    (got,) = run(only(feed), [table["loss_obj.0"]])
    wanted, nothing = (
        fine_loss(feed["head0"], bbox, feed["target0"], 0)["obj"] for bbox in (feed["gt_bbox"], 0 * feed["gt_bbox"])
    )
    assert float(got) == pytest.approx(wanted, rel=1e-5)
    assert (wanted < nothing * (1 - 1e-4)) == (row is not None)


def test_gradient_equals_differences_of_the_reference(static_mode):
    feed = make_feed(8)
    heads, table = build_loss(ignore_thresh=0.5)
    gradients = run(only(feed), static.gradients([table["loss"]], heads))
    r, step = np.random.RandomState(1), 1e-4
    for i in range(3):
        head = feed[f"head{i}"].astype(np.float64)
        direction = r.randn(*head.shape)

        def total(h, i=i):
            return sum(fine_loss(h, feed["gt_bbox"], feed[f"target{i}"], i, ignore_thresh=0.5).values())

        # A random direction sees all elements; a smaller step than the distance to any kink of |w - tw| is enough.
        slope = (total(head + step * direction) - total(head - step * direction)) / (2 * step)
        assert (gradients[i].astype(np.float64) * direction).sum() == pytest.approx(slope, rel=1e-3, abs=1e-2)


def test_raw_outputs_are_the_channels_of_the_heads(static_mode):
    feed = make_feed()
    _, table = build_loss()
    names = [f"{part}.{i}" for i in range(3) for part in ("x", "y", "w", "h", "obj", "cls")]
    got = dict(zip(names, run(only(feed), [table[n] for n in names]), strict=True))
    for i in range(3):
        p = feed[f"head{i}"].reshape(2, 3, 5 + CLASSES, *feed[f"head{i}"].shape[2:])
        for k, part in enumerate(("x", "y", "w", "h", "obj")):
            np.testing.assert_array_equal(got[f"{part}.{i}"], p[:, :, k])
        np.testing.assert_array_equal(got[f"cls.{i}"], p[:, :, 5:].transpose(0, 1, 3, 4, 2))


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("square", [False, True])
def test_box_loss_equals_the_reference_and_is_added(static_mode, kind, square):
    feed = make_feed()
    _, table = build_loss(box_loss=BoxLoss(kind, 2.5, square))
    names = ["loss", "loss_iou", *(f"loss_{part}" for part in PARTS)]
    got = dict(zip(names, map(float, run(only(feed), [table[n] for n in names])), strict=True))
    wanted = sum(box_loss(feed[f"head{i}"], feed[f"target{i}"], i, kind, square) * 2.5 for i in range(3))
    assert got["loss_iou"] == pytest.approx(wanted, rel=1e-5)  # measured: 3e-7
    assert got["loss"] == pytest.approx(sum(v for n, v in got.items() if n != "loss"), rel=1e-6)


def box_loss(head, target, scale, kind, square):
    n, _, g, _ = head.shape
    p, t = head.astype(np.float64).reshape(n, 3, -1, g, g), target.astype(np.float64)
    with np.errstate(divide="ignore"):  # empty cells: their weight is zero
        logit = np.log(t[:, :, :2] / (1 - t[:, :, :2]))
    wanted = support.predicted_boxes(np.concatenate([logit, t[:, :, 2:]], axis=2), scale)
    v = reference_overlap(support.predicted_boxes(p, scale), wanted, kind)
    value = 1 - v * v if square else 1 - v
    return (t[:, :, 4] * t[:, :, 5] * value).sum((1, 2, 3)).mean()


def reference_overlap(a, b, kind):
    value = support.iou(a, b)
    wide = np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    if kind == "giou":
        inter = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0).prod(-1)
        union = size_a.prod(-1) + size_b.prod(-1) - inter
        return value - (wide.prod(-1) - union) / wide.prod(-1)
    if kind in ("diou", "ciou"):
        centre = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
        shape = 4 / np.pi**2 * np.subtract(*(np.arctan(s[..., 0] / s[..., 1]) for s in (size_b, size_a))) ** 2
        distance = (centre**2).sum(-1) / (wide**2).sum(-1)
        extra = shape**2 / (1 - value + shape + 1e-10) if kind == "ciou" else 0
        return value - distance - extra
    return value


def test_box_loss_and_its_gradient_survive_absurd_sizes_in_empty_cells(static_mode):
    feed = make_feed()
    empty = np.repeat(feed["target1"][:, :, 5:6] == 0, 2, axis=2)
    assert not empty.all()
    head = feed["head1"].reshape(2, 3, 5 + CLASSES, 6, 6).copy()
    head[:, :, 2:4][empty] = 200.0  # exp overflows
    feed["head1"] = head.reshape(feed["head1"].shape)
    heads, table = build_loss(box_loss=BoxLoss("ciou", 1.0))
    loss, gradient = run(only(feed), [table["loss_iou"], *static.gradients([table["loss_iou"]], heads[1:2])])
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_label_smoothing_is_ignored_as_published_unless_fixed(static_mode):
    feed = random_batch(7, 2, 64, 3)
    options = {"scale": 0.125, "fine_grained": True}
    values = {}
    for key, extra in {
        "plain": {},
        "ignored": {"label_smooth": True},
        "fixed": {"label_smooth": True, "fix_label_smooth": True},
    }.items():
        with static.program_guard(static.Program(), static.Program()):
            net = build(build_model(detector("mobilenet_v1", 3, **options, **extra), "train"))
            net.fill_by_formula()
            values[key] = {k: float(v) for k, v in net.run(feed, ["loss_cls", "loss_xy"]).items()}
    assert values["plain"] == values["ignored"]
    assert values["fixed"]["loss_xy"] == values["plain"]["loss_xy"]
    assert values["fixed"]["loss_cls"] != pytest.approx(values["plain"]["loss_cls"], rel=1e-3)


def test_golden_targets_and_heads_give_the_reference(static_mode, golden):
    inputs, heads = np.load(golden / "voc_l2" / "inputs.npz"), np.load(golden / "voc_l2" / "heads_student_train.npz")
    shapes = [heads[f"head{i}"].shape for i in range(3)]
    data = [static.data(f"head{i}", [None, *shape[1:]], "float32") for i, shape in enumerate(shapes)]
    wanted = [static.data(f"target{i}", [None, 3, 26, None, None], "float32") for i in range(3)]
    names = Names()
    bbox = static.data("gt_bbox", [None, 50, 4], "float32")
    fine_grained_loss(data, bbox, wanted, names, Anchors(ANCHORS, MASKS), num_classes=20)
    feed = {"gt_bbox": inputs["gt_bbox"], **{f"target{i}": inputs[f"target{i}"] for i in range(3)}}
    feed |= {f"head{i}": heads[f"head{i}"] for i in range(3)}
    table = names.table()
    got = run(feed, [table[f"loss_{part}"] for part in PARTS])
    reference = [fine_loss(heads[f"head{i}"], inputs["gt_bbox"], inputs[f"target{i}"], i) for i in range(3)]
    for part, value in zip(PARTS, got, strict=True):
        assert float(value) == pytest.approx(sum(r[part] for r in reference), rel=1e-5)
