"""Every loss by the name it has in a recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from slim_distill.losses.dist import dist
from slim_distill.losses.dkd import dkd
from slim_distill.losses.dml import dml
from slim_distill.losses.fsp import fsp
from slim_distill.losses.function_matching import function_matching
from slim_distill.losses.hard import hard
from slim_distill.losses.js import js
from slim_distill.losses.kd import kd
from slim_distill.losses.kd_bernoulli import kd_bernoulli
from slim_distill.losses.l2 import l2
from slim_distill.losses.logit_std import logit_std
from slim_distill.losses.skd import skd
from slim_distill.losses.soft_label import soft_label
from slim_distill.losses.symmetric_kl import symmetric_kl
from slim_distill.losses.tf_kd import tf_kd
from slim_distill.losses.wsld import wsld
from slim_distill.losses.yolo_objectness import yolo_objectness

__all__ = ["LOSSES"]

LOSSES: Mapping[str, Callable[..., Any]] = {
    "dist": dist,
    "dkd": dkd,
    "dml": dml,
    "fsp": fsp,
    "function_matching": function_matching,
    "hard": hard,
    "js": js,
    "kd": kd,
    "kd_bernoulli": kd_bernoulli,
    "l2": l2,
    "logit_std": logit_std,
    "skd": skd,
    "soft_label": soft_label,
    "symmetric_kl": symmetric_kl,
    "tf_kd": tf_kd,
    "wsld": wsld,
    "yolo_objectness": yolo_objectness,
}
