"""Steps on a whole batch: a common size, padding, YOLO targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from slim_distill.data.image import resize
from slim_distill.data.transforms.base import BatchTransform, Sample
from slim_distill.data.transforms.geometry import INTERPOLATIONS

__all__ = ["Gt2YoloTarget", "PadBatch", "RandomShape", "yolo_targets"]


@dataclass(frozen=True)
class RandomShape(BatchTransform):
    """Resize all images [H, W, C] of a batch to one square size drawn from `sizes`.

    With `random_inter` the interpolation is drawn too, or else it is nearest. With `resize_box` boxes in pixels are
    scaled and clipped to the new image.
    """

    sizes: tuple[int, ...]
    random_inter: bool = False
    resize_box: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes is {self.sizes!r}; a list of numbers of pixels is wanted")

    def __call__(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        size = int(rng.choice(self.sizes))
        interpolation = int(rng.choice(INTERPOLATIONS)) if self.random_inter else cv2.INTER_NEAREST
        return [self._resize(sample, size, interpolation) for sample in samples]

    def _resize(self, sample: Sample, size: int, interpolation: int) -> Sample:
        height, width = sample["image"].shape[:2]
        out = {**sample, "image": resize(sample["image"], size, size, interpolation)}
        if self.resize_box:
            scale = np.array([size / width, size / height] * 2, np.float32)
            out["gt_bbox"] = np.clip(sample["gt_bbox"] * scale, 0, size - 1)
        return out


@dataclass(frozen=True)
class PadBatch(BatchTransform):
    """Pad images [C, H, W] right and below with zeros to a size that `pad_to_stride` divides (0: do nothing)."""

    pad_to_stride: int = 0

    def __call__(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        if self.pad_to_stride <= 0:
            return samples
        stride = self.pad_to_stride
        height, width = (-(-max(s["image"].shape[axis] for s in samples) // stride) * stride for axis in (1, 2))
        padded = []
        for sample in samples:
            channels, h, w = sample["image"].shape
            canvas = np.zeros((channels, height, width), np.float32)
            canvas[:, :h, :w] = sample["image"]
            padded.append({**sample, "image": canvas})
        return padded


@dataclass(frozen=True)
class Gt2YoloTarget(BatchTransform):
    """Add target0, target1, ... [len(mask), 6 + num_classes, h / stride, w / stride] of each scale; see `yolo_targets`.

    Works on padded, normalised centre boxes and [C, H, W] images of one size.

    Args:
        anchors: (width, height) in pixels.
        anchor_masks: the anchors of each scale.
        downsample_ratios: the stride of each scale.
        num_classes: length of the one-hot part.
        iou_thresh: anchors that overlap a box more than this are targets too, besides the best one; 1 for none.
    """

    anchors: tuple[tuple[float, float], ...]
    anchor_masks: tuple[tuple[int, ...], ...]
    downsample_ratios: tuple[int, ...]
    num_classes: int = 80
    iou_thresh: float = 1.0

    def __post_init__(self) -> None:
        if len(self.anchor_masks) != len(self.downsample_ratios):
            raise ValueError(
                f"{len(self.anchor_masks)} anchor_masks but {len(self.downsample_ratios)} downsample_ratios"
            )
        wrong = [i for mask in self.anchor_masks for i in mask if not 0 <= i < len(self.anchors)]
        if wrong:
            raise ValueError(f"anchor_masks name anchor {wrong[0]}; there are {len(self.anchors)} anchors")

    def __call__(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        if not samples:
            return samples
        box, number, score = (np.stack([s[key] for s in samples]) for key in ("gt_bbox", "gt_class", "gt_score"))
        if number.size and number.max() >= self.num_classes:
            raise ValueError(f"class {number.max()} does not fit into num_classes {self.num_classes}")
        targets = yolo_targets(
            box,
            number,
            score,
            samples[0]["image"].shape[1:],
            anchors=self.anchors,
            anchor_masks=self.anchor_masks,
            downsample_ratios=self.downsample_ratios,
            num_classes=self.num_classes,
            iou_thresh=self.iou_thresh,
        )
        return [
            {**sample, **{f"target{i}": target[n] for i, target in enumerate(targets)}}
            for n, sample in enumerate(samples)
        ]


def yolo_targets(
    box: np.ndarray,
    number: np.ndarray,
    score: np.ndarray,
    size: Sequence[int],
    *,
    anchors: Sequence[Sequence[float]],
    anchor_masks: Sequence[Sequence[int]],
    downsample_ratios: Sequence[int],
    num_classes: int,
    iou_thresh: float = 1.0,
) -> list[np.ndarray]:
    """Return the training targets of YOLOv3's scales, each [N, len(mask), 6 + num_classes, grid h, grid w] float32.

    A box belongs to the anchor that overlaps it most when both are centred on one point, and to the cell of its centre.
    There the channels are: x and y within the cell, log of width and height over the anchor's, 2 - width * height
    (small boxes weigh more), score, one-hot class. Of several boxes on one place the last gives the first six, and the
    class becomes multi-hot, as published. Boxes without size or score are left out. float64 inside.

    Args:
        box: [N, n, 4] normalised centre x, y, width, height.
        number: [N, n] class numbers.
        score: [N, n].
        size: height and width of the images in pixels.
    """
    height, width = int(size[0]), int(size[1])
    anchor = np.asarray(anchors, np.float64)
    image, row = np.nonzero((box[..., 2] > 0) & (box[..., 3] > 0) & (score > 0))
    cx, cy, w, h = box[image, row].astype(np.float64).T
    iou = _centred_iou(w, h, anchor / (width, height))
    best = iou.argmax(axis=1)
    wanted = (iou > iou_thresh) if iou_thresh < 1 else np.zeros(iou.shape, bool)
    wanted[np.arange(len(best)), best] = True
    targets = []
    for mask, stride in zip(anchor_masks, downsample_ratios, strict=True):
        grid_h, grid_w = int(height / stride), int(width / stride)
        target = np.zeros((len(box), len(mask), 6 + num_classes, grid_h, grid_w), np.float32)
        k, slot = np.nonzero(wanted[:, list(mask)])  # in order of the boxes, so the last one wins below
        x, y = cx[k] * grid_w, cy[k] * grid_h
        i, j = np.minimum(x.astype(int), grid_w - 1), np.minimum(y.astype(int), grid_h - 1)
        chosen = anchor[np.asarray(mask)[slot]]
        log_w, log_h = np.log(w[k] * width / chosen[:, 0]), np.log(h[k] * height / chosen[:, 1])
        values = (x - i, y - j, log_w, log_h, 2.0 - w[k] * h[k], score[image[k], row[k]])
        for channel, value in enumerate(values):
            target[image[k], slot, channel, j, i] = value
        target[image[k], slot, 6 + number[image[k], row[k]], j, i] = 1.0
        targets.append(target)
    return targets


def _centred_iou(w: np.ndarray, h: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """IoU [n, A] of boxes [n] and anchors [A, 2] that share a corner."""
    overlap = np.minimum(w[:, None], anchor[:, 0]) * np.minimum(h[:, None], anchor[:, 1])
    return overlap / ((w * h)[:, None] + anchor[:, 0] * anchor[:, 1] - overlap)
