"""The recipes of the golden numbers: weights from a parameter's name alone, images and boxes from a seed.

Every function draws from numpy's legacy `RandomState`, whose streams are frozen, so the arrays are the same everywhere.
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["all_weights", "boxes", "images", "weights"]


def weights(name: str, shape: Sequence[int], salted: bool = False) -> np.ndarray:
    """Value of one parameter, float32.

    Args:
        name: the parameter's name without any prefix.
        shape: its shape.
        salted: the teacher's value in the salted run: drawn with the seed of the name with the prefix `teacher_`.
    """
    seed = zlib.crc32(("teacher_" + name if salted else name).encode()) & 0xFFFFFFFF
    r = np.random.RandomState(seed).randn(*shape)
    if len(shape) == 4:
        v = r * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith(("variance", ".var")):
        v = 1 + 0.2 * np.abs(r)
        v = v * 0.7 if "_dw_bn_" in name else v
    elif name.endswith("mean"):
        v = 0.1 * r
        v = v + 1.0 if name.endswith(("_bn_mean", ".bn.mean")) else v
    elif name.endswith("scale"):
        v = 1 + 0.1 * r
        v = v * 0.25 if name.endswith("_branch2b_scale") else v
    elif name.endswith(("offset", "bias")):
        v = 0.05 * r
        v = v + 1.0 if name.endswith(("_bn_offset", ".bn.offset")) else v
    else:
        raise ValueError(f"the recipe has no rule for a parameter called {name!r} of shape {tuple(shape)}")
    return v.astype(np.float32)


def all_weights(shapes: Mapping[str, Sequence[int]], salted: bool = False) -> dict[str, np.ndarray]:
    """Values of all parameters of a network, {name: array}."""
    return {name: weights(name, shape, salted) for name, shape in shapes.items()}


def images(seed: int, batch: int, h: int, w: int) -> np.ndarray:
    """[batch, 3, h, w] float32, every value a multiple of 1/32; h and w are multiples of 8."""
    coarse = np.random.RandomState(seed).randint(-64, 65, size=(batch, 3, h // 8, w // 8))
    fine = np.random.RandomState(seed + 500000).randint(-16, 17, size=(batch, 3, h, w))
    return ((coarse.repeat(8, axis=2).repeat(8, axis=3) + fine) / 32.0).astype(np.float32)


def boxes(seed: int, batch: int, num_classes: int, rows: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(gt_bbox [batch, rows, 4] normalised centre xywh, gt_class [batch, rows] int32, gt_score [batch, rows]).

    The last box of each image nearly coincides with its first one.
    """
    r = np.random.RandomState(seed + 900000)
    bbox = np.zeros((batch, rows, 4), np.float32)
    label = np.zeros((batch, rows), np.int32)
    score = np.zeros((batch, rows), np.float32)
    for b in range(batch):
        n = r.randint(5, 12)
        for k in range(n):
            w, h = np.exp(r.uniform(np.log(0.03), np.log(0.7), size=2))
            cx = r.uniform(w / 2, 1 - w / 2)
            cy = r.uniform(h / 2, 1 - h / 2)
            bbox[b, k] = (cx, cy, w, h)
            label[b, k] = r.randint(0, num_classes)
            score[b, k] = 1.0 if r.uniform() < 0.5 else r.uniform(0.2, 0.95)
        bbox[b, n] = bbox[b, 0] * np.array((1, 1, 1.02, 0.98), np.float32)
        label[b, n] = (label[b, 0] + 1) % num_classes
        score[b, n] = 0.6
    return bbox, label, score
