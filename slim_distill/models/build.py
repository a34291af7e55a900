"""From a model's configuration to a ModelSpec."""

from collections.abc import Callable, Mapping
from typing import Any

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import pick
from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import BackboneConfig, HeadConfig, ModelConfig
from slim_distill.models._layers import Layers
from slim_distill.models._names import Names, Value
from slim_distill.models.darknet import darknet
from slim_distill.models.mobilenet_v1 import mobilenet_v1
from slim_distill.models.mobilenet_v3 import mobilenet_v3
from slim_distill.models.resnet import resnet
from slim_distill.models.yolo_fine_loss import BoxLoss, fine_grained_loss
from slim_distill.models.yolo_loss import GroundTruth, operator_loss
from slim_distill.models.yolov3 import COARSEST_STRIDE, Anchors, Suppression, detect, yolo_head

__all__ = ["BACKBONES", "MODES", "build_model"]

MODES = ("train", "eval", "infer")
MOST_SCALES = 3
NORM_TYPES = ("bn", "sync_bn")  # one and the same in a single process

# Network, and the fields of its configuration that it takes beside the scale.
BACKBONES: Mapping[str, tuple[Callable[..., dict[str, Value]], tuple[str, ...]]] = {
    "mobilenet_v1": (mobilenet_v1, ()),
    "mobilenet_v3": (mobilenet_v3, ("model_name",)),
    "resnet": (resnet, ("depth", "variant")),
    "darknet": (darknet, ("depth",)),
}
# The published L2 decay of a backbone's convolutions, where it is not left to the optimizer.
CONV_DECAY = {"mobilenet_v1": 0.0, "mobilenet_v3": 0.0}


def build_model(
    cfg: ModelConfig, mode: str, size: int | None = None, batch: int | None = None, max_boxes: int | None = 50
) -> ModelSpec:
    """Return a YOLOv3 detector as data: what it is fed, and the function that builds it.

    Args:
        cfg: the detector.
        mode: "train" has batch norms in training mode and the loss; "eval" and "infer" are in test mode and detect.
        size: height and width of the input in pixels, a multiple of 32; None for any.
        batch: number of images; None for any.
        max_boxes: rows of `gt_bbox`, `gt_class` and `gt_score`; None for any.

    Raises:
        ConfigError: an unknown mode, backbone or argument, or a head that does not fit; shape errors of Paddle never
            come before these checks.
    """
    if mode not in MODES:
        raise ConfigError(f"mode: {mode!r} is not known; known: {', '.join(MODES)}")
    if size is not None and (size < COARSEST_STRIDE or size % COARSEST_STRIDE):
        raise ConfigError(f"size: the input must be a multiple of {COARSEST_STRIDE} pixels, found {size}")
    _check(cfg)

    def build(feeds: Mapping[str, Any]) -> dict[str, Value]:
        names = Names()
        heads = _network(cfg, feeds["image"], names, training=mode == "train")
        (_loss if mode == "train" else _detections)(cfg, heads, feeds, names)
        return names.table()

    info = {
        "architecture": cfg.architecture,
        "mode": mode,
        "num_classes": cfg.num_classes,
        "anchors": tuple(tuple(size) for size in cfg.head.anchors),
        "anchor_masks": tuple(tuple(mask) for mask in cfg.head.anchor_masks),
        "strides": tuple(COARSEST_STRIDE >> i for i in range(len(cfg.head.anchor_masks))),
        "fine_grained": cfg.loss.fine_grained,
    }
    return ModelSpec(feeds=_feeds(cfg, mode, size, batch, max_boxes), build=build, info=info)


def _check(cfg: ModelConfig) -> None:
    if cfg.architecture != "yolov3":
        raise ConfigError(f"model.architecture: {cfg.architecture!r} is not known; known: yolov3")
    backbone, masks = cfg.backbone, cfg.head.anchor_masks
    pick(BACKBONES, backbone.type, "model.backbone.type: backbone", ConfigError)
    if backbone.norm_type not in NORM_TYPES:
        known = ", ".join(NORM_TYPES)
        raise ConfigError(f"model.backbone.norm_type: {backbone.norm_type!r} is not known; known: {known}")
    if backbone.args:
        unknown = ", ".join(sorted(backbone.args))
        raise ConfigError(f"model.backbone.args: {backbone.type} takes no further arguments, found {unknown}")
    if not 1 <= len(masks) <= MOST_SCALES:
        raise ConfigError(f"model.head.anchor_masks: 1 to {MOST_SCALES} scales are possible, found {len(masks)}")
    count = len(cfg.head.anchors)
    for i, mask in enumerate(masks):
        if not mask or not all(0 <= number < count for number in mask):
            raise ConfigError(f"model.head.anchor_masks[{i}]: numbers of anchors, 0 to {count - 1}, found {list(mask)}")
    if cfg.num_classes < 1:
        raise ConfigError(f"model.num_classes: at least 1, found {cfg.num_classes}")


def _feeds(
    cfg: ModelConfig, mode: str, size: int | None, batch: int | None, max_boxes: int | None
) -> dict[str, FeedSpec]:
    feeds = {"image": FeedSpec((batch, 3, size, size))}
    if mode != "train":
        return {**feeds, "im_size": FeedSpec((batch, 2), "int32")}
    feeds["gt_bbox"] = FeedSpec((batch, max_boxes, 4))
    feeds["gt_class"] = FeedSpec((batch, max_boxes), "int32")
    feeds["gt_score"] = FeedSpec((batch, max_boxes))
    if cfg.loss.fine_grained:
        for i, mask in enumerate(cfg.head.anchor_masks):
            cells = None if size is None else size // (COARSEST_STRIDE >> i)
            feeds[f"target{i}"] = FeedSpec((batch, len(mask), 6 + cfg.num_classes, cells, cells))
    return feeds


def _network(cfg: ModelConfig, image: Value, names: Names, *, training: bool) -> list[Value]:
    stages = _backbone(cfg.backbone, image, names, training=training)
    for name, feature in stages.items():
        names.role(f"backbone.{name}", feature)
    head: HeadConfig = cfg.head
    layers = Layers(names, training, prefix=head.prefix, norm_decay=head.norm_decay)
    features = [stages[f"c{5 - i}"] for i in range(len(head.anchor_masks))]
    return yolo_head(
        features,
        layers,
        num_classes=cfg.num_classes,
        masks=head.anchor_masks,
        scale=head.scale,
        objectness_prior=head.objectness_prior,
    )


def _backbone(cfg: BackboneConfig, image: Value, names: Names, *, training: bool) -> dict[str, Value]:
    network, fields = BACKBONES[cfg.type]
    layers = Layers(
        names,
        training,
        prefix=cfg.prefix,
        conv_decay=cfg.conv_decay if cfg.conv_decay is not None else CONV_DECAY.get(cfg.type),
        norm_decay=cfg.norm_decay,
        freeze_at=cfg.freeze_at,
        freeze_norm=cfg.freeze_norm,
    )
    return network(image, layers, scale=cfg.scale, **{field: getattr(cfg, field) for field in fields})


def _loss(cfg: ModelConfig, heads: list[Value], feeds: Mapping[str, Value], names: Names) -> None:
    loss, anchors = cfg.loss, Anchors(cfg.head.anchors, cfg.head.anchor_masks)
    common: dict[str, Any] = {
        "num_classes": cfg.num_classes,
        "ignore_thresh": loss.ignore_thresh,
        "scale_x_y": cfg.head.scale_x_y,
    }
    if not loss.fine_grained:
        truth = GroundTruth(feeds["gt_bbox"], feeds["gt_class"], feeds["gt_score"])
        operator_loss(heads, truth, names, anchors, label_smooth=loss.label_smooth, prefix=cfg.head.prefix, **common)
        return
    box_loss = None
    if loss.iou_loss is not None:
        box_loss = BoxLoss(loss.iou_loss["type"], loss.iou_loss["weight"], bool(loss.iou_loss.get("square", False)))
    fine_grained_loss(
        heads,
        feeds["gt_bbox"],
        [feeds[f"target{i}"] for i in range(len(heads))],
        names,
        anchors,
        # The published system ignores label smoothing here, whatever its configuration says.
        label_smooth=loss.label_smooth and loss.fix_label_smooth,
        box_loss=box_loss,
        **common,
    )


def _detections(cfg: ModelConfig, heads: list[Value], feeds: Mapping[str, Value], names: Names) -> None:
    nms = cfg.head.nms
    suppression = Suppression(
        score_threshold=nms.score_threshold,
        nms_top_k=nms.nms_top_k,
        keep_top_k=nms.keep_top_k,
        nms_threshold=nms.nms_threshold,
        normalized=nms.normalized,
        background_label=nms.background_label,
    )
    detect(
        heads,
        feeds["im_size"],
        names,
        Anchors(cfg.head.anchors, cfg.head.anchor_masks),
        num_classes=cfg.num_classes,
        suppression=suppression,
        clip_bbox=cfg.head.clip_bbox,
        scale_x_y=cfg.head.scale_x_y,
        prefix=cfg.head.prefix,
    )
