"""A detector seen through another list of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import paddle

from slim_distill.common.specs import ModelSpec

__all__ = ["select_classes"]

BOX_FIELDS = 5  # x, y, w, h and objectness come before the classes of an anchor


def select_classes(spec: ModelSpec, index: Sequence[int]) -> ModelSpec:
    """The same YOLOv3 detector, its class outputs in another order and number; parameters and all else as they are.

    Changed are `yolo_head.i` [N, A * (5 + C), H, W] and `cls.i` [N, A, H, W, C], under all of their names.

    Args:
        spec: the detector; `info` holds `num_classes` and `anchor_masks`.
        index: for each class of the result its number among the detector's.
    """
    anchors = [len(mask) for mask in spec.info["anchor_masks"]]
    width = BOX_FIELDS + int(spec.info["num_classes"])
    chosen = [*range(BOX_FIELDS), *(BOX_FIELDS + number for number in index)]

    def build(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        outputs = dict(spec.build(feeds))
        for i, count in enumerate(anchors):
            channels = [anchor * width + field for anchor in range(count) for field in chosen]
            for name, picked, axis in ((f"yolo_head.{i}", channels, 1), (f"cls.{i}", list(index), 4)):
                if name not in outputs:
                    continue
                old = outputs[name]
                new = paddle.gather(old, paddle.assign(np.asarray(picked, "int64")), axis=axis)
                outputs |= {other: new for other, value in outputs.items() if value.is_same(old)}
        return outputs

    return replace(spec, build=build, info={**spec.info, "num_classes": len(index)})
