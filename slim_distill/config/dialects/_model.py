"""The network of a PaddleDetection 0.4 file: backbone, head and loss of YOLOv3."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slim_distill.config.dialects._section import Section, open_section
from slim_distill.config.schema import BackboneConfig, HeadConfig, LossConfig, ModelConfig, NmsConfig

__all__ = ["translate_model"]

NORM_TYPES = ("bn", "sync_bn")


def translate_model(run: Section, num_classes: int, fine_grained: bool) -> ModelConfig:
    """Translate the section YOLOv3 and the classes that it names.

    Args:
        run: the top level of the file.
        num_classes: number of classes.
        fine_grained: the top-level `use_fine_grained_loss`.

    Raises:
        ConfigError: a class, key or value that is not supported.
    """
    model = open_section("YOLOv3", run.top.get("YOLOv3"), run.root.at("YOLOv3"), run.top, run.root)
    backbone = _part(model, "backbone", tuple(BACKBONES))
    head = _part(model, "yolo_head", ("YOLOv3Head",))
    if head.get("num_classes", int | None) not in (None, num_classes):
        head.place.at("num_classes").fail(f"contradicts the top-level num_classes, {num_classes}; state it only there")
    return ModelConfig(
        num_classes=num_classes,
        backbone=BACKBONES[backbone.kind](backbone),
        head=_translate_head(head),
        loss=_translate_loss(head, fine_grained),
    )


def _part(section: Section, key: str, kinds: Sequence[str], inline: str = "") -> Section:
    part = section.component(key, kinds, inline)
    return part if part is not None else section.place.at(key).fail(f"is null; supported: {', '.join(kinds)}")


def _translate_mobilenet_v1(section: Section) -> BackboneConfig:
    return BackboneConfig(
        type="mobilenet_v1",
        scale=section.get("conv_group_scale", float),
        norm_type=section.choose("norm_type", NORM_TYPES),
        norm_decay=section.get("norm_decay", float),
        conv_decay=section.get("conv_decay", float | None),
        prefix=section.get("weight_prefix_name", str),
    )


def _translate_mobilenet_v3(section: Section) -> BackboneConfig:
    return BackboneConfig(
        type="mobilenet_v3",
        scale=section.get("scale", float),
        model_name=section.choose("model_name", ("small", "large")),
        norm_type=section.choose("norm_type", NORM_TYPES),
        norm_decay=section.get("norm_decay", float),
        conv_decay=section.get("conv_decay", float | None),
        freeze_norm=section.get("freeze_norm", bool),
    )


def _translate_resnet(section: Section) -> BackboneConfig:
    return BackboneConfig(
        type="resnet",
        depth=section.choose("depth", (18, 34, 50)),
        variant=section.choose("variant", ("b", "d")),
        norm_type=section.choose("norm_type", NORM_TYPES),
        norm_decay=section.get("norm_decay", float),
        prefix=section.get("weight_prefix_name", str),
        freeze_at=section.choose("freeze_at", (0, 1, 2, 3, 4)),
        freeze_norm=section.get("freeze_norm", bool),
    )


def _translate_darknet(section: Section) -> BackboneConfig:
    return BackboneConfig(
        type="darknet",
        depth=section.choose("depth", (53,)),
        norm_type=section.choose("norm_type", NORM_TYPES),
        norm_decay=section.get("norm_decay", float),
        prefix=section.get("weight_prefix_name", str),
    )


BACKBONES: Mapping[str, Callable[[Section], BackboneConfig]] = {
    "MobileNet": _translate_mobilenet_v1,
    "MobileNetV3": _translate_mobilenet_v3,
    "ResNet": _translate_resnet,
    "DarkNet": _translate_darknet,
}


def _translate_head(head: Section) -> HeadConfig:
    nms = _part(head, "nms", ("MultiClassNMS",), inline="MultiClassNMS")
    return HeadConfig(
        anchors=head.get("anchors", tuple[tuple[float, float], ...]),
        anchor_masks=head.get("anchor_masks", tuple[tuple[int, ...], ...]),
        norm_decay=head.get("norm_decay", float),
        prefix=head.get("weight_prefix_name", str),
        clip_bbox=head.get("clip_bbox", bool),
        scale_x_y=head.get("scale_x_y", float),
        nms=NmsConfig(
            background_label=nms.get("background_label", int),
            keep_top_k=nms.get("keep_top_k", int),
            nms_threshold=nms.get("nms_threshold", float),
            nms_top_k=nms.get("nms_top_k", int),
            normalized=nms.get("normalized", bool),
            score_threshold=nms.get("score_threshold", float),
        ),
    )


def _translate_loss(head: Section, fine_grained: bool) -> LossConfig:
    loss = _part(head, "yolo_loss", ("YOLOv3Loss",))
    if loss.get("scale_x_y", float) != head.get("scale_x_y", float):
        loss.place.at("scale_x_y").fail(f"must equal YOLOv3Head.scale_x_y, {head.get('scale_x_y', float)}")
    return LossConfig(
        ignore_thresh=_of_loss(head, loss, "ignore_thresh").get("ignore_thresh", float),
        label_smooth=_of_loss(head, loss, "label_smooth").get("label_smooth", bool),
        fine_grained=fine_grained,
        iou_loss=_translate_iou_loss(loss),
    )


def _of_loss(head: Section, loss: Section, key: str) -> Section:
    """Return the section that a key of the loss stands in: until release 0.2 it belonged to the head."""
    if key not in head.values:
        return loss
    if key in loss.values:
        head.place.at(key).fail("is given in YOLOv3Loss as well; leave it out here")
    return head


def _translate_iou_loss(loss: Section) -> dict[str, Any] | None:
    iou = loss.component("iou_loss", ("IouLoss", "DiouLossYolo"))
    if iou is None:
        return None
    weight = iou.get("loss_weight", float)
    if iou.kind == "DiouLossYolo":
        return {"type": "diou", "weight": weight, "square": False}
    kind = "ciou" if iou.get("ciou_term", bool) else "iou"
    return {"type": kind, "weight": weight, "square": iou.get("loss_square", bool)}
