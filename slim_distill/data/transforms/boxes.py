"""Steps on the boxes alone."""

from dataclasses import dataclass

import numpy as np

from slim_distill.data.transforms.base import Sample, SampleTransform

__all__ = ["BboxXYXY2XYWH", "NormalizeBox", "PadBox"]


@dataclass(frozen=True)
class NormalizeBox(SampleTransform):
    """Divide the corners [n, 4] by the image's width and height."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        size = np.array([sample["w"], sample["h"]] * 2, np.float32)
        return {**sample, "gt_bbox": sample["gt_bbox"] / size}


@dataclass(frozen=True)
class PadBox(SampleTransform):
    """Make the number of boxes `num_max_boxes`: further ones are cut off, missing ones are zeros.

    gt_bbox becomes [num, 4]; gt_class, gt_score and difficult become [num], the last under the name is_difficult.
    """

    num_max_boxes: int = 50

    def __post_init__(self) -> None:
        if self.num_max_boxes < 1:
            raise ValueError(f"num_max_boxes is {self.num_max_boxes}; at least 1 is wanted")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        out = {**sample, "gt_bbox": self._pad(sample["gt_bbox"])}
        for source, name in (("gt_class", "gt_class"), ("gt_score", "gt_score"), ("difficult", "is_difficult")):
            if source in sample:
                out[name] = self._pad(sample[source][:, 0])
        return out

    def _pad(self, rows: np.ndarray) -> np.ndarray:
        padded = np.zeros((self.num_max_boxes, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows[: self.num_max_boxes]
        return padded


@dataclass(frozen=True)
class BboxXYXY2XYWH(SampleTransform):
    """Turn corners x1, y1, x2, y2 into centre x, y, width, height."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        box = sample["gt_bbox"]
        size = box[:, 2:] - box[:, :2]
        return {**sample, "gt_bbox": np.hstack((box[:, :2] + size / 2, size))}
