"""What the tests of the models share: building and running networks, and a reference of YOLOv3's loss in numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import static

from slim_distill.common.specs import ModelSpec
from slim_distill.config.schema import BackboneConfig, HeadConfig, LossConfig, ModelConfig
from tests import golden_formula

ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
MASKS = ((6, 7, 8), (3, 4, 5), (0, 1, 2))


@dataclass(frozen=True)
class Built:
    """A network in the current main program."""

    spec: ModelSpec
    variables: Mapping[str, Any]

    @property
    def parameters(self) -> dict[str, Any]:
        """{name: parameter} of the current main program."""
        ops = static.default_main_program().global_block().ops
        return {op.str_attr("parameter_name"): op.result(0) for op in ops if op.name() == "builtin.parameter"}

    def fill_by_formula(self, salted: bool = False) -> None:
        """Give every parameter its golden value."""
        shapes = {name: value.shape for name, value in self.parameters.items()}
        for name, array in golden_formula.all_weights(shapes, salted).items():
            static.global_scope().var(name).get_tensor().set(array, paddle.CPUPlace())

    def initialise(self) -> None:
        """Give every parameter its initial value."""
        static.Executor(paddle.CPUPlace()).run(static.default_startup_program())

    def run(self, feed: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
        """Fetch variables by name."""
        arrays = run({n: feed[n] for n in self.spec.feeds}, [self.variables[n] for n in names])
        return dict(zip(names, arrays, strict=True))


def build(spec: ModelSpec) -> Built:
    """Build a network into the current programs."""
    feeds = {name: static.data(name, list(f.shape), f.dtype) for name, f in spec.feeds.items()}
    return Built(spec, spec.build(feeds))


def run(feed: Mapping[str, np.ndarray], fetch: Sequence[Any]) -> list[np.ndarray]:
    """Run the current main program once."""
    return static.Executor(paddle.CPUPlace()).run(feed=dict(feed), fetch_list=list(fetch))


def set_test_mode() -> None:
    """Put every operator of the current main program into test mode."""
    for op in static.default_main_program().global_block().ops:
        if op.has_attr("is_test"):
            op.set_bool_attr("is_test", True)


def detector(backbone: str = "mobilenet_v1", num_classes: int = 20, **options: Any) -> ModelConfig:
    """A detector's configuration; options are fields of the backbone, head and loss by name."""
    parts = (BackboneConfig, HeadConfig, LossConfig)
    chosen = [{k: v for k, v in options.items() if k in part.__dataclass_fields__ and k != "scale"} for part in parts]
    if "scale" in options:
        chosen[0]["scale"] = chosen[1]["scale"] = options["scale"]
    if backbone == "darknet":
        chosen[0].setdefault("depth", 53)
    return ModelConfig(
        num_classes, BackboneConfig(backbone, **chosen[0]), HeadConfig(**chosen[1]), LossConfig(**chosen[2])
    )


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """L2 of the difference over L2 of what is wanted."""
    wanted = np.asarray(wanted, np.float64)
    return float(np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted))


def random_batch(seed: int, batch: int, size: int, num_classes: int) -> dict[str, np.ndarray]:
    """All that a training network can be fed."""
    bbox, label, score = golden_formula.boxes(seed, batch, num_classes)
    feed = {
        "image": golden_formula.images(seed, batch, size, size),
        "gt_bbox": bbox,
        "gt_class": label,
        "gt_score": score,
        "im_size": np.full((batch, 2), size, np.int32),
    }
    for i in range(3):
        feed[f"target{i}"] = targets(bbox, label, score, i, size, num_classes)
    return feed


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bce(x: np.ndarray, t: np.ndarray | float) -> np.ndarray:
    return np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x)))


def best_anchor(w: float, h: float) -> int:
    """Number of the anchor that overlaps a box of w x h pixels most."""
    inter = [min(w, aw) * min(h, ah) for aw, ah in ANCHORS]
    return int(np.argmax([i / (w * h + aw * ah - i) for i, (aw, ah) in zip(inter, ANCHORS, strict=True)]))


def targets(
    bbox: np.ndarray, label: np.ndarray, score: np.ndarray, scale: int, size: int, num_classes: int
) -> np.ndarray:
    """The reader's targets [N, 3, 6 + C, g, g] of one scale."""
    g = size // (32 >> scale)
    out = np.zeros((len(bbox), 3, 6 + num_classes, g, g))
    for n, rows in enumerate(bbox.astype(np.float64)):
        for b, (cx, cy, w, h) in enumerate(rows):
            if w <= 0 or h <= 0 or score[n, b] <= 0:
                continue
            number = best_anchor(w * size, h * size)
            if number not in MASKS[scale]:
                continue
            i, j, a = int(cx * g), int(cy * g), MASKS[scale].index(number)
            aw, ah = ANCHORS[number]
            out[n, a, :6, j, i] = (
                cx * g - i, cy * g - j, np.log(w * size / aw), np.log(h * size / ah), 2 - w * h, score[n, b]
            )  # fmt: skip
            out[n, a, 6 + label[n, b], j, i] = 1
    return out.astype(np.float32)


def predicted_boxes(p: np.ndarray, scale: int, scale_x_y: float = 1.0) -> np.ndarray:
    """Corners [N, 3, g, g, 4] of the boxes that raw outputs p [N, 3, 5 + C, g, g] stand for, as shares of the image."""
    g = p.shape[-1]
    sizes = np.array([ANCHORS[number] for number in MASKS[scale]], np.float64)
    j, i = np.mgrid[:g, :g]
    shift = 0.5 * (scale_x_y - 1)
    cx, cy = (sigmoid(p[:, :, 0]) * scale_x_y - shift + i) / g, (sigmoid(p[:, :, 1]) * scale_x_y - shift + j) / g
    w = np.exp(p[:, :, 2]) * sizes[None, :, 0, None, None] / (g * (32 >> scale))
    h = np.exp(p[:, :, 3]) * sizes[None, :, 1, None, None] / (g * (32 >> scale))
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of corners [..., 4]; 0 where both boxes are empty."""
    side = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    inter = side.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 0)


def fine_loss(
    head: np.ndarray,
    bbox: np.ndarray,
    target: np.ndarray,
    scale: int,
    *,
    ignore_thresh: float = 0.7,
    smooth: float = 0.0,
    scale_x_y: float = 1.0,
) -> dict[str, float]:
    """The parts of the fine-grained loss of one scale, in float64."""
    n, _, g, _ = head.shape
    p = head.astype(np.float64).reshape(n, 3, -1, g, g)
    t = target.astype(np.float64)
    weight, score = t[:, :, 4] * t[:, :, 5], t[:, :, 5]
    centre, half = bbox[..., :2].astype(np.float64), bbox[..., 2:].astype(np.float64) / 2
    truth = np.concatenate([centre - half, centre + half], axis=-1)[:, None, None, None]
    best = iou(predicted_boxes(p, scale, scale_x_y)[..., None, :], truth).max(-1)
    tc = t[:, :, 6:] * (1 - 2 * smooth) + smooth
    parts = {
        "xy": weight * (bce(p[:, :, 0], t[:, :, 0]) + bce(p[:, :, 1], t[:, :, 1])),
        "wh": weight * (np.abs(p[:, :, 2] - t[:, :, 2]) + np.abs(p[:, :, 3] - t[:, :, 3])),
        "obj": score * bce(p[:, :, 4], 1.0) + (score == 0) * (best <= ignore_thresh) * bce(p[:, :, 4], 0.0),
        "cls": score * bce(p[:, :, 5:], tc).sum(2),
    }
    return {name: float(part.sum((1, 2, 3)).mean()) for name, part in parts.items()}
