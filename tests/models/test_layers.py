"""Single layers and operators against the stored numbers of the published system."""

import json

import numpy as np
import pytest
from paddle import static

from slim_distill.models._layers import Layers
from slim_distill.models._names import Names
from slim_distill.models.yolov3 import Anchors, Suppression, detect
from tests.models.support import run


def test_batch_norm_upsample_leaky_relu_and_pooling(static_mode, golden):
    import paddle
    import paddle.nn.functional as F

    stored = np.load(golden / "ops" / "small_layers.npz")
    x = static.data("x", [None, *stored["x"].shape[1:]], "float32")
    layers = Layers(Names(), training=True)
    outputs = [layers.norm(x, "bn_{}"), layers.upsample(x), layers.leaky(x), F.max_pool2d(x, 3, stride=2, padding=1)]
    static.Executor(paddle.CPUPlace()).run(static.default_startup_program())
    norm, up, leaky, pool = run({"x": stored["x"]}, outputs)
    np.testing.assert_allclose(norm, stored["bn_out_train"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(up, stored["resize_nearest_x2"])
    np.testing.assert_array_equal(leaky, stored["leaky_relu_01"])
    np.testing.assert_array_equal(pool, stored["maxpool_k3_s2_p1"])
    for name, key in (("bn_mean", "bn_mean_after1"), ("bn_variance", "bn_var_after1")):
        value = np.array(static.global_scope().find_var(name).get_tensor())
        np.testing.assert_allclose(value, stored[key], rtol=1e-5, atol=1e-7)


class OneScale(Anchors):
    """Anchors of a single scale of any stride."""

    def stride(self, scale):
        return int(self.masks[0][-1])

    def of_scale(self, scale):
        return list(self.sizes)


@pytest.mark.parametrize("case", range(3))
def test_boxes_and_scores(static_mode, golden, case):
    meta = json.loads((golden / "ops" / "ops.json").read_text())["yolo_box"][case]
    stored = np.load(golden / "ops" / meta["file"])
    sizes = np.array(meta["anchors"]).reshape(-1, 2).tolist()
    names = Names()
    detect(
        [static.data("x", [None, *stored["x"].shape[1:]], "float32")],
        static.data("im_size", [None, 2], "int32"),
        names,
        OneScale(sizes, [[meta["downsample"]]]),
        num_classes=meta["class_num"],
        suppression=Suppression(score_threshold=meta["conf_thresh"]),
        clip_bbox=meta["clip_bbox"],
        scale_x_y=meta["scale_x_y"],
    )
    table = names.table()
    boxes, scores = run({"x": stored["x"], "im_size": stored["im_size"]}, [table["boxes"], table["scores"]])
    np.testing.assert_allclose(boxes, stored["boxes"], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(scores.transpose(0, 2, 1), stored["scores"], rtol=1e-5, atol=1e-7)


def build_suppression(monkeypatch, boxes, scores, suppression):
    """`detect` with the decoding replaced by given boxes and scores."""
    import paddle

    monkeypatch.setattr(paddle.vision.ops, "yolo_box", lambda *_args, **_options: (boxes, scores))
    names = Names()
    anchors = Anchors(((10, 10),), ((0,),))
    detect([boxes], boxes, names, anchors, num_classes=scores.shape[-1], suppression=suppression)
    return names.table()


@pytest.mark.parametrize("case", range(4))
def test_suppression(static_mode, golden, monkeypatch, case):
    meta = json.loads((golden / "ops" / "ops.json").read_text())["multiclass_nms"][case]
    stored = np.load(golden / "ops" / meta["file"])
    boxes = static.data("boxes", [None, *stored["boxes"].shape[1:]], "float32")
    scores = static.data("scores", [None, *stored["scores"].transpose(0, 2, 1).shape[1:]], "float32")
    fields = Suppression.__dataclass_fields__
    table = build_suppression(monkeypatch, boxes, scores, Suppression(**{k: v for k, v in meta.items() if k in fields}))
    feed = {"boxes": stored["boxes"], "scores": np.ascontiguousarray(stored["scores"].transpose(0, 2, 1))}
    dets, counts = run(feed, [table["dets"], table["dets_num"]])
    np.testing.assert_array_equal(counts, np.diff(stored["lod"]))
    np.testing.assert_array_equal(dets[:, 0], stored["dets"][:, 0])
    np.testing.assert_allclose(dets, stored["dets"], rtol=1e-6)


def test_no_detection_at_all_gives_no_rows(static_mode, monkeypatch):
    boxes, scores = static.data("boxes", [None, 6, 4], "float32"), static.data("scores", [None, 6, 2], "float32")
    table = build_suppression(monkeypatch, boxes, scores, Suppression())
    feed = {"boxes": np.ones((3, 6, 4), np.float32), "scores": np.zeros((3, 6, 2), np.float32)}
    dets, counts = run(feed, [table["dets"], table["dets_num"]])
    assert dets.shape == (0, 6)
    np.testing.assert_array_equal(counts, [0, 0, 0])
