"""Every loss by the name it has in a recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from slim_distill.losses.fsp import fsp
from slim_distill.losses.l2 import l2
from slim_distill.losses.soft_label import soft_label
from slim_distill.losses.yolo_objectness import yolo_objectness

__all__ = ["LOSSES"]

LOSSES: Mapping[str, Callable[..., Any]] = {
    "fsp": fsp,
    "l2": l2,
    "soft_label": soft_label,
    "yolo_objectness": yolo_objectness,
}
