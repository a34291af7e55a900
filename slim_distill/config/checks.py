"""What the values of a configuration may be: choices, ranges, and keys that must agree with each other."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any

from slim_distill.common.names import nearest
from slim_distill.config import schema
from slim_distill.config._place import Place, show
from slim_distill.config.convert import FORMS, Form
from slim_distill.config.schema import ReaderConfig, RunConfig

__all__ = ["check"]

LOGGER = logging.getLogger("slim_distill.config")


@dataclass(frozen=True)
class Rule:
    """A test of one value and the words for what would be right."""

    test: Callable[[Any], bool]
    wanted: str
    choices: tuple[Any, ...] = ()


def _one_of(*choices: Any) -> Rule:
    return Rule(lambda value: value in choices, "one of " + ", ".join(str(choice) for choice in choices), choices)


def _at_least(low: float) -> Rule:
    return Rule(lambda value: value >= low, f"at least {low}")


def _between(low: float, high: float) -> Rule:
    return Rule(lambda value: low <= value <= high, f"between {low} and {high}")


_POSITIVE = Rule(lambda value: value > 0, "more than 0")
_COUNT_OR_ALL = Rule(lambda value: value == -1 or value >= 1, "at least 1, or -1 for all")
_NAME = Rule(
    # The run's folder is called so: "." and ".." are folders of others.
    lambda value: re.fullmatch(r"(?!\.+$)[\w.+-]{1,200}", value) is not None,
    "letters, digits, '_', '-', '+' and '.' only, not dots alone, at most 200",
)
# Far beyond any use; a larger one overflows the sizes in Paddle's operators.
_WIDTH = Rule(lambda value: 0 < value <= 100, "more than 0 and at most 100")
_DEVICE = Rule(lambda value: re.fullmatch(r"auto|cpu|gpu(:\d+)?", value) is not None, "auto, cpu, gpu or gpu:N")
_RISING = Rule(lambda steps: all(a < b for a, b in pairwise((0, *steps))), "whole numbers above 0 that rise")
_EACH_POSITIVE = Rule(lambda values: all(value > 0 for value in values), "numbers above 0")
_GIVEN = Rule(bool, "given, not empty")

RULES: Mapping[type, Mapping[str, Rule]] = {
    schema.BackboneConfig: {
        "type": _one_of("mobilenet_v1", "mobilenet_v3", "resnet", "darknet"),
        "variant": _one_of("b", "d"),
        "scale": _WIDTH,
        "model_name": _one_of("small", "large"),
        "norm_type": _one_of("bn", "sync_bn"),
        "norm_decay": _at_least(0),
        "freeze_at": _between(0, 4),
        "conv_decay": Rule(lambda value: value is None or value >= 0, "at least 0, or null"),
    },
    schema.NmsConfig: {
        "background_label": _at_least(-1),
        "keep_top_k": _COUNT_OR_ALL,
        "nms_threshold": _between(0, 1),
        "nms_top_k": _COUNT_OR_ALL,
        "score_threshold": _between(0, 1),
    },
    schema.HeadConfig: {
        "anchors": Rule(
            lambda v: len(v) > 0 and all(w > 0 and h > 0 for w, h in v), "pairs of width and height above 0"
        ),
        "anchor_masks": Rule(lambda v: len(v) > 0 and all(v), "lists of the numbers of anchors, none of them empty"),
        "norm_decay": _at_least(0),
        "objectness_prior": Rule(lambda value: 0 < value < 1, "more than 0 and less than 1"),
        "scale": _WIDTH,
        "scale_x_y": _at_least(1),
    },
    schema.LossConfig: {"ignore_thresh": _between(0, 1)},
    schema.ModelConfig: {"num_classes": _between(1, 100_000), "architecture": _one_of("yolov3")},
    schema.TransformConfig: {"type": _GIVEN},
    schema.DatasetConfig: {
        "format": _one_of("voc", "coco", "images"),
        "sample_num": _COUNT_OR_ALL,
        "max_bad_share": _between(0, 1),
    },
    schema.ReaderConfig: {"batch_size": _at_least(1), "workers": _at_least(0), "mixup_epochs": _at_least(-1)},
    schema.OptimizerConfig: {
        "type": _one_of("momentum", "sgd", "adamw"),
        "momentum": Rule(lambda value: 0 <= value < 1, "at least 0 and below 1"),
        "weight_decay": _at_least(0),
        "ema": Rule(lambda value: 0 <= value < 1, "at least 0 and below 1"),
        "clip_norm": _at_least(0),
    },
    schema.ScheduleConfig: {
        "base_lr": _POSITIVE,
        "type": _one_of("constant", "piecewise", "cosine"),
        "gamma": _POSITIVE,
        "milestones": _RISING,
        "factors": _EACH_POSITIVE,
        "cosine_steps": _at_least(0),
        "warmup_steps": _at_least(0),
        "warmup_start_factor": _between(0, 1),
    },
    schema.TrainConfig: {
        "max_iters": _at_least(1),
        "log_iter": _at_least(1),
        "snapshot_iter": _at_least(1),
        "eval_iter": _at_least(0),
        "keep": _at_least(1),
        "pretrain_exclude": Rule(lambda values: all(_is_pattern(value) for value in values), "regular expressions"),
    },
    schema.EvalConfig: {
        "metric": _one_of("voc", "coco"),
        "map_type": _one_of("11point", "integral"),
        "iou_threshold": Rule(lambda value: 0 < value <= 1, "above 0 and at most 1"),
        "skip_empty_batches": _at_least(0),
    },
    schema.RampConfig: {name: _at_least(0) for name in ("start", "to", "first_step", "last_step")},
    schema.StepsConfig: {
        "milestones": Rule(lambda v: bool(v) and _RISING.test(v), _RISING.wanted),
        "gamma": _at_least(0),
    },
    schema.TermScheduleConfig: {
        "constant": Rule(lambda value: value is None or value >= 0, "at least 0"),
        **{name: _at_least(0) for name in ("warmup_steps", "start_step", "stop_step", "stop_epoch")},
    },
    schema.TermConfig: {
        "loss": _GIVEN,
        "student": _GIVEN,
        "teacher": _GIVEN,
        "source": _GIVEN,
        **{name: _at_least(0) for name in ("weight", "balance")},
    },
    schema.TeacherConfig: {
        "classes": _one_of("same", "by_name"),
        "ema": Rule(lambda value: value is None or 0 <= value <= 1, "between 0 and 1, or null"),
    },
    schema.DistillConfig: {"min_teacher_metric": _between(0, 1)},
    schema.CacheConfig: {"max_gb": _at_least(0)},
    schema.CompileConfig: {
        "teacher": _one_of("auto", "off"),
        "teacher_precision": _one_of("float32", "bfloat16", "float16"),
        "student_precision": _one_of("float32", "bfloat16"),
        "placement": _one_of("auto", "stock", "onednn", "measure"),
        "kernels": _one_of("auto", "off"),
        "overlap": _one_of("auto", "off"),
    },
    schema.ParallelConfig: {
        "accumulate": _at_least(1),
        "bucket_mb": _at_least(0),
        "timeout_s": _at_least(1),
        "drift_every": _at_least(0),
    },
    schema.RunConfig: {"name": _NAME, "output_dir": _GIVEN, "device": _DEVICE, "seed": _between(0, 2**63 - 1)},
}

TARGETS = "Gt2YoloTarget"
RESNET_DEPTH = _one_of(18, 34, 50)

IOU_LOSS: Mapping[str, Rule] = {
    "type": _one_of("iou", "giou", "diou", "ciou"),
    "weight": Rule(lambda value: type(value) in (int, float) and value >= 0, "a number of at least 0"),
    "square": _one_of(True, False),
}


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def check(cfg: RunConfig, place: Place) -> RunConfig:
    """Return `cfg` unchanged if every value is allowed and the keys agree with each other.

    Args:
        cfg: the configuration, of the right types already.
        place: the root of its keys, for messages.

    Raises:
        ConfigError: the first value that is not allowed: dotted path, value, and what would be right.
    """
    _check_values(cfg, place)
    backbone = cfg.model.backbone
    if backbone.type == "resnet":
        _apply(RESNET_DEPTH, backbone.depth, place.at("model", "backbone", "depth"))
    _check_head(cfg, place.at("model", "head"))
    _check_iou_loss(cfg, place.at("model", "loss", "iou_loss"))
    for name in ("train", "eval", "test"):
        _check_reader(getattr(cfg.data, name), cfg, place.at("data", name))
    _check_targets(cfg, place.at("data", "train", "batch_transforms"))
    _check_schedule(cfg, place.at("schedule"))
    _check_prefixes(cfg, place.at("distill", "teachers"))
    return cfg


def _check_values(record: Any, place: Place) -> None:
    rules = RULES.get(type(record), {})
    form = FORMS.get(type(record), Form())
    for field in fields(record):
        value = getattr(record, field.name)
        here = place.at(form.key(field.name))
        if field.name in rules:
            _apply(rules[field.name], value, here)
        inner: Sequence[tuple[Any, Any]] = ()
        if is_dataclass(value):
            _check_values(value, here)
        elif isinstance(value, Mapping):
            inner = list(value.items())
        elif isinstance(value, tuple):
            inner = list(enumerate(value))
        for key, item in inner:
            if is_dataclass(item):
                _check_values(item, here.at(key))


def _apply(rule: Rule, value: Any, place: Place) -> None:
    if rule.test(value):
        return
    near = nearest(value, [str(choice) for choice in rule.choices]) if isinstance(value, str) else []
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    place.fail(f"must be {rule.wanted}{hint}, found {show(list(value) if isinstance(value, tuple) else value)}")


def _check_head(cfg: RunConfig, place: Place) -> None:
    count = len(cfg.model.head.anchors)
    for i, mask in enumerate(cfg.model.head.anchor_masks):
        for j, number in enumerate(mask):
            if not 0 <= number < count:
                place.at("anchor_masks", i, j).fail(
                    f"must be the number of an anchor, 0 to {count - 1}, found {number}"
                )


def _check_iou_loss(cfg: RunConfig, place: Place) -> None:
    loss = cfg.model.loss
    if loss.iou_loss is None:
        return
    for key, value in loss.iou_loss.items():
        if key not in IOU_LOSS:
            place.fail_unknown(key, IOU_LOSS)
        _apply(IOU_LOSS[key], value, place.at(key))
    for key in ("type", "weight"):
        if key not in loss.iou_loss:
            place.at(key).fail("is missing; it is required")
    if not loss.fine_grained:
        LOGGER.warning("model.loss.iou_loss has no effect: it needs model.loss.fine_grained")


def _check_reader(reader: ReaderConfig, cfg: RunConfig, place: Place) -> None:
    data = reader.dataset
    if data.labels and data.classes:
        place.at("dataset", "classes").fail(f"cannot be given beside labels ({data.labels!r}); leave one of them out")
    if data.classes and len(data.classes) != cfg.model.num_classes:
        classes = ", ".join(data.classes)
        place.at("dataset", "classes").fail(
            f"must be as many as model.num_classes, {cfg.model.num_classes}, found {len(data.classes)}: {classes}"
        )
    if len(set(data.classes)) < len(data.classes):
        place.at("dataset", "classes").fail(f"must not name a class twice, found {', '.join(data.classes)}")


def _check_targets(cfg: RunConfig, place: Place) -> None:
    """The fine-grained loss and the transform making its targets need each other, and equal anchors and classes."""
    transforms = cfg.data.train.batch_transforms
    found = [i for i, transform in enumerate(transforms) if transform.type == TARGETS]
    fine_grained = cfg.model.loss.fine_grained
    if found and not fine_grained:
        place.at(found[0]).fail(
            f"{TARGETS} is of use with model.loss.fine_grained only; leave it out or switch that on"
        )
    if transforms and fine_grained and not found:
        place.fail(f"model.loss.fine_grained needs {TARGETS} at their end, with num_classes: {cfg.model.num_classes}")
    head = cfg.model.head
    wanted = {
        "num_classes": cfg.model.num_classes,
        "anchors": [list(pair) for pair in head.anchors],
        "anchor_masks": [list(mask) for mask in head.anchor_masks],
    }
    for i in found:
        args = {"num_classes": 80, **transforms[i].args}
        for key, value in wanted.items():
            if args.get(key, value) != value:
                where = "model.num_classes" if key == "num_classes" else f"model.head.{key}"
                place.at(i, key).fail(f"must equal {where}, {show(value)}, found {show(args[key])}")


def _check_schedule(cfg: RunConfig, place: Place) -> None:
    schedule = cfg.schedule
    if schedule.factors and len(schedule.factors) != len(schedule.milestones):
        place.at("factors").fail(
            f"must be one for each of the {len(schedule.milestones)} milestones, found {len(schedule.factors)}"
        )


def _check_prefixes(cfg: RunConfig, place: Place) -> None:
    """A variable's name must say whose it is, so no prefix may begin with another one."""
    prefixes = list(cfg.distill.teachers)
    if "" in prefixes:
        place.fail("a teacher's prefix cannot be empty; call it 'teacher_'")
    for prefix in prefixes:
        others = [other for other in prefixes if other != prefix and prefix.startswith(other)]
        if others:
            place.at(prefix).fail(f"begins with {others[0]!r}, the prefix of another teacher; choose one that does not")
