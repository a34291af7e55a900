"""Every backbone builds and runs in every mode; what does not fit is refused."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import ConfigError
from slim_distill.config.schema import BackboneConfig, HeadConfig, LossConfig, ModelConfig
from slim_distill.models import MODES, build_model
from slim_distill.models._layers import scaled_channels
from tests.models.support import build, detector, random_batch

TINY = {"scale": 0.125}
NETWORKS = {
    "mobilenet_v1": detector("mobilenet_v1", 3, **TINY),
    "mobilenet_v3_large": detector("mobilenet_v3", 3, **TINY),
    "mobilenet_v3_small": detector("mobilenet_v3", 3, model_name="small", **TINY),
    "resnet18": detector("resnet", 3, depth=18, **TINY),
    "resnet34_vd": detector("resnet", 3, depth=34, variant="d", **TINY),
    "resnet50": detector("resnet", 3, depth=50, **TINY),
    "resnet50_vd": detector("resnet", 3, depth=50, variant="d", norm_type="sync_bn", **TINY),
    "darknet53": detector("darknet", 3, **TINY),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_network_builds_and_runs_in_every_mode(static_mode, network):
    feed = random_batch(1, 2, 64, 3)
    for mode in MODES:
        with static.program_guard(static.Program(), static.Program()), paddle.utils.unique_name.guard():
            net = build(build_model(NETWORKS[network], mode))
            if mode == "infer":  # the same operators as in eval
                continue
            net.initialise()
            stages = [f"backbone.c{k}" for k in range(1, 6)]
            heads = [f"yolo_head.{i}" for i in range(3)]
            results = ["loss"] if mode == "train" else ["boxes", "scores", "dets", "dets_num"]
            got = net.run(feed, [*stages, *heads, *results])
        assert [got[name].shape[2] for name in stages] == [32, 16, 8, 4, 2]
        assert [got[name].shape for name in heads] == [(2, 24, 2, 2), (2, 24, 4, 4), (2, 24, 8, 8)]
        if mode == "train":
            assert np.isfinite(got["loss"])
            assert got["loss"] > 0
            continue
        assert got["boxes"].shape == (2, 252, 4)
        assert got["scores"].shape == (2, 3, 252)
        assert got["dets"].shape == (got["dets_num"].sum(), 6)


@pytest.mark.parametrize("network", ["mobilenet_v3_small", "resnet50_vd"])
def test_every_trainable_parameter_gets_a_gradient(static_mode, network):
    net = build(build_model(NETWORKS[network], "train"))
    pairs = paddle.optimizer.SGD(0.01).minimize(net.variables["loss"])[1]
    trainable = {name for name, value in net.parameters.items() if value.trainable}
    assert {p.name for p, g in pairs if g is not None} == trainable
    assert not any(name.endswith(("mean", "variance", ".var")) for name in trainable)


def test_feeds_follow_mode_size_and_batch():
    cfg = detector("mobilenet_v1", 7, fine_grained=True)
    feeds = build_model(cfg, "train").feeds
    assert feeds["image"].shape == (None, 3, None, None)
    assert feeds["gt_class"].dtype == "int32"
    assert feeds["gt_bbox"].shape == (None, 50, 4)
    assert feeds["target2"].shape == (None, 3, 13, None, None)
    fixed = build_model(cfg, "train", size=96, batch=4, max_boxes=None).feeds
    assert [fixed[f"target{i}"].shape for i in range(3)] == [(4, 3, 13, g, g) for g in (3, 6, 12)]
    assert fixed["gt_bbox"].shape == (4, None, 4)
    assert {n: f.shape for n, f in build_model(cfg, "eval").feeds.items()} == {
        "image": (None, 3, None, None),
        "im_size": (None, 2),
    }


def test_a_fixed_size_gives_fixed_maps_and_the_same_numbers(static_mode):
    cfg, feed, values = detector("mobilenet_v1", 3, fine_grained=True, **TINY), random_batch(2, 2, 64, 3), []
    for size, batch in ((None, None), (64, 2)):
        with static.program_guard(static.Program(), static.Program()):
            net = build(build_model(cfg, "train", size, batch))
            net.fill_by_formula()
            if size is not None:
                assert tuple(net.variables["yolo_head.2"].shape) == (2, 24, 8, 8)
                assert tuple(net.variables["cls.0"].shape) == (2, 3, 2, 2, 3)
            values.append(float(net.run(feed, ["loss"])["loss"]))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_info_states_the_facts():
    info = build_model(detector("mobilenet_v1", 7), "eval").info
    assert (info["architecture"], info["num_classes"], info["mode"]) == ("yolov3", 7, "eval")
    assert info["strides"] == (32, 16, 8)
    assert info["anchors"][info["anchor_masks"][0][2]] == (373, 326)


@pytest.mark.parametrize(("channels", "scale", "wanted"), [(64, 1, 64), (16, 0.25, 8), (72, 0.5, 40), (24, 1.25, 32)])
def test_scaled_channels_are_multiples_of_eight(channels, scale, wanted):
    assert scaled_channels(channels, scale) == wanted


def test_scale_makes_a_network_narrow_and_keeps_its_names(static_mode):
    shapes = {}
    for scale in (1.0, 0.25):
        with static.program_guard(static.Program(), static.Program()):
            built = build(build_model(detector("mobilenet_v1", 3, scale=scale), "eval"))
            shapes[scale] = {n: tuple(v.shape) for n, v in built.parameters.items()}
    assert shapes[1.0].keys() == shapes[0.25].keys()
    assert shapes[0.25]["conv6_sep_weights"] == (256, 256, 1, 1)
    assert shapes[0.25]["yolo_block.0.tip.conv.weights"] == (256, 128, 3, 3)
    assert shapes[0.25]["yolo_output.0.conv.weights"] == (24, 256, 1, 1)


def test_frozen_stages_do_not_train(static_mode):
    net = build(build_model(detector("resnet", 3, depth=18, freeze_at=2, **TINY), "train"))
    frozen = {name for name in net.parameters if name.startswith(("conv1_", "bn_conv1", "res2", "bn2"))}
    pairs = paddle.optimizer.SGD(0.01).minimize(net.variables["loss"])[1]
    reached = {p.name for p, g in pairs if g is not None}
    assert frozen
    assert not frozen & reached
    assert {"res3a_branch1_weights", "bn5b_branch2b_offset", "yolo_output.2.conv.bias"} <= reached


def test_frozen_norms_neither_train_nor_move(static_mode):
    net = build(build_model(detector("resnet", 3, depth=18, freeze_norm=True, **TINY), "train"))
    pairs = paddle.optimizer.SGD(0.01).minimize(net.variables["loss"])[1]
    reached = {p.name for p, g in pairs if g is not None}
    norms = {n for n in net.parameters if n.startswith("bn")}
    assert norms
    assert not norms & reached
    assert "conv1_weights" in reached
    assert "yolo_block.0.2.bn.scale" in reached
    net.initialise()
    scope = static.global_scope()
    names = ("bn2a_branch1_mean", "bn2a_branch1_variance", "yolo_block.0.2.bn.mean")
    before = [np.array(scope.find_var(n).get_tensor()) for n in names]
    net.run(random_batch(3, 2, 64, 3), ["loss"])
    moved = [
        not np.array_equal(b, np.array(scope.find_var(n).get_tensor())) for n, b in zip(names, before, strict=True)
    ]
    assert moved == [False, False, True]


def test_two_scales_build_from_two_masks(static_mode):
    head = HeadConfig(anchors=((10, 14), (23, 27), (37, 58), (81, 82)), anchor_masks=((2, 3), (0, 1)), scale=0.125)
    net = build(build_model(ModelConfig(4, BackboneConfig("mobilenet_v1", scale=0.125), head), "eval"))
    net.initialise()
    feed = {"image": np.zeros((1, 3, 64, 64), np.float32), "im_size": np.array([[64, 64]], np.int32)}
    got = net.run(feed, ["yolo_head.0", "yolo_head.1", "boxes"])
    assert got["yolo_head.1"].shape == (1, 18, 4, 4)
    assert got["boxes"].shape == (1, 2 * (4 + 16), 4)


def refused(match, mode="train", size=None, architecture="yolov3", num_classes=3, head=None, loss=None, **backbone):
    cfg = ModelConfig(
        num_classes,
        BackboneConfig(**{"type": "resnet", **backbone}),
        head or HeadConfig(),
        loss or LossConfig(),
        architecture,
    )
    with pytest.raises(ConfigError, match=match):
        build(build_model(cfg, mode, size))


def test_refusals_say_what_would_be_right(static_mode):
    refused(
        r"model.backbone.type: backbone 'mobilenet_v2' is not known; did you mean 'mobilenet_v", type="mobilenet_v2"
    )
    refused(r"model.backbone.depth: ResNet '101' is not known; .*known: 18, 34, 50", depth=101)
    refused(r"model.backbone.depth: DarkNet '34' is not known; .*known: 53", type="darknet")
    refused(r"model.backbone.variant: ResNet variant 'c' is not known; .*known: b, d", variant="c")
    refused(r"model_name: size of MobileNetV3 'medium' is not known", type="mobilenet_v3", model_name="medium")
    refused(r"norm_type: 'affine_channel' is not known; known: bn, sync_bn", norm_type="affine_channel")
    refused(r"model.backbone.args: resnet takes no further arguments, found dcn, groups", args={"groups": 2, "dcn": 1})
    refused(r"mode: 'test' is not known; known: train, eval, infer", mode="test")
    refused(r"size: the input must be a multiple of 32 pixels, found 100", size=100)
    refused(r"architecture: 'ssd' is not known; known: yolov3", architecture="ssd")
    refused(r"anchor_masks\[1\]: numbers of anchors, 0 to 8, found \[9\]", head=HeadConfig(anchor_masks=((0,), (9,))))
    refused(r"anchor_masks: 1 to 3 scales are possible, found 4", head=HeadConfig(anchor_masks=((0,),) * 4))
    refused(r"num_classes: at least 1, found 0", num_classes=0)
    bad = LossConfig(fine_grained=True, iou_loss={"type": "eiou", "weight": 1.0})
    refused(r"model.loss.iou_loss.type: overlap 'eiou' is not known; .*known: ciou, diou, giou, iou", loss=bad)
