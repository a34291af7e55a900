"""Choices, ranges, and keys that must agree with each other."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.config import load_config
from slim_distill.config.checks import RULES
from tests.config.samples import OWN, write_own

TARGETS = (
    "data.train.batch_transforms=[{type: Gt2YoloTarget, num_classes: 3, downsample_ratios: [32, 16, 8],"
    " anchors: [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]}]"
)


def test_every_rule_is_of_a_field_that_exists():
    for cls, rules in RULES.items():
        assert rules.keys() <= {field.name for field in fields(cls)}, cls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "eval.metric=vocc",
            r"^eval\.metric: must be one of voc, coco \(did you mean 'voc'\?\), found the text 'vocc' \(in",
        ),
        ("eval.metric=VOC", r"^eval\.metric: must be one of voc, coco, found the text 'VOC'|did you mean"),
        ("eval.map_type=13point", r"^eval\.map_type: must be one of 11point, integral \(did you mean '11point'\?\)"),
        ("eval.iou_threshold=0", r"^eval\.iou_threshold: must be above 0 and at most 1, found 0\.0"),
        ("model.backbone.type=resnett", r"^model\.backbone\.type: must be one of .* \(did you mean 'resnet'\?\)"),
        (
            "model.backbone.norm_type=gn",
            r"^model\.backbone\.norm_type: must be one of bn, sync_bn.*, found the text 'gn'",
        ),
        ("model.backbone.depth=35", r"^model\.backbone\.depth: must be one of 18, 34, 50, found 35"),
        ("model.backbone.variant=c", r"^model\.backbone\.variant: must be one of b, d"),
        ("model.backbone.scale=0", r"^model\.backbone\.scale: must be more than 0 and at most 100, found 0\.0"),
        ("model.backbone.conv_decay=-1", r"^model\.backbone\.conv_decay: must be at least 0, or null, found -1\.0"),
        (
            "distill.teachers={t_: {}, t_b_: {}}",
            r"^distill\.teachers\.t_b_: begins with 't_', the prefix of another teacher; choose one that does not",
        ),
        ("distill.teachers={'': {}}", r"^distill\.teachers: a teacher's prefix cannot be empty"),
        ("distill.teachers={t_: {classes: names}}", r"^distill\.teachers\.t_\.classes: must be one of same, by_name"),
        ("distill.teachers={t_: {ema: 1.5}}", r"^distill\.teachers\.t_\.ema: must be between 0 and 1, or null"),
        ("model.num_classes=0", r"^model\.num_classes: must be between 1 and 100000, found 0"),
        ("model.architecture=ssd", r"^model\.architecture: must be one of yolov3"),
        (
            "model.head.nms.score_threshold=1.5",
            r"^model\.head\.nms\.score_threshold: must be between 0 and 1, found 1\.5",
        ),
        ("model.head.nms.nms_top_k=0", r"^model\.head\.nms\.nms_top_k: must be at least 1, or -1 for all, found 0"),
        (
            "model.head.anchors=[]",
            r"^model\.head\.anchors: must be pairs of width and height above 0, found the list \[\]",
        ),
        ("model.head.anchor_masks=[[]]", r"^model\.head\.anchor_masks: must be lists of the numbers of anchors, none"),
        ("model.head.anchor_masks=[[0, 9]]", r"^model\.head\.anchor_masks\[0\]\[1\]: must be .*, 0 to 8, found 9"),
        ("data.train.batch_size=0", r"^data\.train\.batch_size: must be at least 1, found 0"),
        ("data.eval.workers=-1", r"^data\.eval\.workers: must be at least 0, found -1"),
        ("data.train.dataset.format=yolo", r"^data\.train\.dataset\.format: must be one of voc, coco, images"),
        (
            "data.train.dataset.classes=[a, b]",
            r"^data\.train\.dataset\.classes: must be as many as model\.num_classes, 3",
        ),
        (
            "data.train.dataset.classes=[a, b, a]",
            r"^data\.train\.dataset\.classes: must not name a class twice, found a, b, a",
        ),
        ("data.train.dataset.labels=voc", r"^data\.train\.dataset\.classes: cannot be given beside labels \('voc'\)"),
        ("data.train.transforms.0.type=''", r"^data\.train\.transforms\[0\]\.type: must be given, not empty"),
        ("optimizer.type=adam", r"^optimizer\.type: must be one of momentum"),
        ("optimizer.momentum=1", r"^optimizer\.momentum: must be at least 0 and below 1, found 1\.0"),
        (
            "schedule.type=cosin",
            r"^schedule\.type: must be one of constant, piecewise, cosine \(did you mean 'cosine'\?\)",
        ),
        ("schedule.base_lr=0", r"^schedule\.base_lr: must be more than 0"),
        (
            "schedule.milestones=[20, 10]",
            r"^schedule\.milestones: must be whole numbers above 0 that rise, found the list",
        ),
        ("schedule.factors=[0.1]", r"^schedule\.factors: must be one for each of the 2 milestones, found 1"),
        ("train.max_iters=0", r"^train\.max_iters: must be at least 1, found 0"),
        ("train.pretrain_exclude=['(']", r"^train\.pretrain_exclude: must be regular expressions, found the list"),
        ("distill.terms.0.weight=-1", r"^distill\.terms\[0\]\.weight: must be at least 0, found -1\.0"),
        ("distill.terms.0.student=[]", r"^distill\.terms\[0\]\.student: must be given, not empty"),
        ("compile.overlap=on", r"^compile\.overlap: must be one of auto, off"),
        ("compile.placement=gpu", r"^compile\.placement: must be one of auto, stock, onednn, measure"),
        ("device=tpu", r"^device: must be auto, cpu, gpu or gpu:N, found the text 'tpu'"),
        ("device=gpu:x", r"^device: must be auto"),
        ("name=../up", r"^name: must be letters, digits, .* at most 200, found the text '\.\./up'"),
        ("seed=-1", r"^seed: must be between 0 and 9223372036854775807, found -1"),
        ("model.loss.iou_loss={type: iuo, weight: 1}", r"^model\.loss\.iou_loss\.type: must be one of iou, .*'iou'"),
        ("model.loss.iou_loss={type: iou}", r"^model\.loss\.iou_loss\.weight: is missing; it is required"),
        (
            "model.loss.iou_loss={type: iou, wieght: 1}",
            r"^model\.loss\.iou_loss\.wieght: unknown key; did you mean 'weight'",
        ),
        (
            "model.loss.iou_loss={type: iou, weight: true}",
            r"^model\.loss\.iou_loss\.weight: must be a number of at least 0",
        ),
    ],
)
def test_refuses_values_out_of_range(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(write_own(tmp_path), [text])


@pytest.mark.parametrize("device", ["auto", "cpu", "gpu", "gpu:0", "gpu:12"])
def test_accepts_devices(tmp_path: Path, device: str):
    assert load_config(write_own(tmp_path), [f"device={device}"]).device == device


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [TARGETS],
            r"^data\.train\.batch_transforms\[0\]: Gt2YoloTarget is of use with model\.loss\.fine_grained only",
        ),
        (
            ["model.loss.fine_grained=true", "data.train.batch_transforms=[{type: Permute}]"],
            r"^data\.train\.batch_transforms: model\.loss\.fine_grained needs Gt2YoloTarget at their end, .*: 3",
        ),
        (
            [TARGETS, "model.loss.fine_grained=true", "data.train.batch_transforms.0.num_classes=4"],
            r"^data\.train\.batch_transforms\[0\]\.num_classes: must equal model\.num_classes, 3, found 4",
        ),
        (
            ["model.loss.fine_grained=true", "data.train.batch_transforms=[{type: Gt2YoloTarget}]"],
            r"^data\.train\.batch_transforms\[0\]\.num_classes: must equal model\.num_classes, 3, found 80",
        ),
        (
            [TARGETS, "model.loss.fine_grained=true", "data.train.batch_transforms.0.anchors.0=[9, 9]"],
            r"^data\.train\.batch_transforms\[0\]\.anchors: must equal model\.head\.anchors",
        ),
    ],
)
def test_fine_grained_loss_and_its_targets_must_agree(tmp_path: Path, overrides: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(write_own(tmp_path), overrides)


def test_fine_grained_loss_with_its_targets_loads(tmp_path: Path):
    cfg = load_config(write_own(tmp_path), [TARGETS, "model.loss.fine_grained=true"])
    assert cfg.model.loss.fine_grained


@pytest.mark.parametrize(("fine_grained", "warnings"), [("false", 1), ("true", 0)])
def test_warns_of_an_iou_loss_without_effect(tmp_path: Path, caplog, fine_grained: str, warnings: int):
    overrides = ["model.loss.iou_loss={type: diou, weight: 5}", f"model.loss.fine_grained={fine_grained}"]
    with caplog.at_level(logging.WARNING, logger="slim_distill.config"):
        iou_loss = load_config(write_own(tmp_path), overrides).model.loss.iou_loss
    assert isinstance(iou_loss, Mapping)
    assert [r.getMessage() for r in caplog.records] == [
        "model.loss.iou_loss has no effect: it needs model.loss.fine_grained"
    ] * warnings


def test_darknet_needs_no_depth(tmp_path: Path):
    text = OWN.replace("{type: resnet, depth: 18}", "{type: darknet}")
    assert load_config(write_own(tmp_path, text)).model.backbone.type == "darknet"
