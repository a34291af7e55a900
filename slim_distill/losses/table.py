"""Every loss by the name it has in a recipe."""

from collections.abc import Callable, Mapping
from typing import Any

from slim_distill.losses.ab import ab
from slim_distill.losses.at import at
from slim_distill.losses.cc import cc
from slim_distill.losses.cosine import cosine
from slim_distill.losses.crd import crd
from slim_distill.losses.ctc_dkd import ctc_dkd
from slim_distill.losses.ctc_dml import ctc_dml
from slim_distill.losses.ctc_mean_kl import ctc_mean_kl
from slim_distill.losses.cwd import cwd
from slim_distill.losses.db_map import db_map
from slim_distill.losses.dfl import dfl
from slim_distill.losses.dist import dist
from slim_distill.losses.dkd import dkd
from slim_distill.losses.dml import dml
from slim_distill.losses.fbkd import fbkd
from slim_distill.losses.fgd import fgd
from slim_distill.losses.fsp import fsp
from slim_distill.losses.ft import ft
from slim_distill.losses.function_matching import function_matching
from slim_distill.losses.giou import giou
from slim_distill.losses.hard import hard
from slim_distill.losses.ickd import ickd
from slim_distill.losses.js import js
from slim_distill.losses.kd import kd
from slim_distill.losses.kd_bernoulli import kd_bernoulli
from slim_distill.losses.l1 import l1
from slim_distill.losses.l2 import l2
from slim_distill.losses.ld import ld
from slim_distill.losses.logit_std import logit_std
from slim_distill.losses.mgd import mgd
from slim_distill.losses.multi_teacher_kd import multi_teacher_kd
from slim_distill.losses.nst import nst
from slim_distill.losses.ofd import ofd
from slim_distill.losses.pkd import pkd
from slim_distill.losses.pkt import pkt
from slim_distill.losses.pseudo_label import pseudo_label
from slim_distill.losses.qfl import qfl
from slim_distill.losses.reviewkd import reviewkd
from slim_distill.losses.rkd import rkd
from slim_distill.losses.skd import skd
from slim_distill.losses.smooth_l1 import smooth_l1
from slim_distill.losses.soft_label import soft_label
from slim_distill.losses.sp import sp
from slim_distill.losses.symmetric_kl import symmetric_kl
from slim_distill.losses.tf_kd import tf_kd
from slim_distill.losses.vid import vid
from slim_distill.losses.wsld import wsld
from slim_distill.losses.yolo_objectness import yolo_objectness

__all__ = ["GROUPS", "LOSSES", "WHOLE_BATCH"]

LOSSES: Mapping[str, Callable[..., Any]] = {
    "ab": ab,
    "at": at,
    "cc": cc,
    "cosine": cosine,
    "crd": crd,
    "ctc_dkd": ctc_dkd,
    "ctc_dml": ctc_dml,
    "ctc_mean_kl": ctc_mean_kl,
    "cwd": cwd,
    "db_map": db_map,
    "dfl": dfl,
    "dist": dist,
    "dkd": dkd,
    "dml": dml,
    "fbkd": fbkd,
    "fgd": fgd,
    "fsp": fsp,
    "ft": ft,
    "function_matching": function_matching,
    "giou": giou,
    "hard": hard,
    "ickd": ickd,
    "js": js,
    "kd": kd,
    "kd_bernoulli": kd_bernoulli,
    "l1": l1,
    "l2": l2,
    "ld": ld,
    "logit_std": logit_std,
    "mgd": mgd,
    "multi_teacher_kd": multi_teacher_kd,
    "nst": nst,
    "ofd": ofd,
    "pkd": pkd,
    "pkt": pkt,
    "pseudo_label": pseudo_label,
    "qfl": qfl,
    "reviewkd": reviewkd,
    "rkd": rkd,
    "skd": skd,
    "smooth_l1": smooth_l1,
    "soft_label": soft_label,
    "sp": sp,
    "symmetric_kl": symmetric_kl,
    "tf_kd": tf_kd,
    "vid": vid,
    "wsld": wsld,
    "yolo_objectness": yolo_objectness,
}

# What a loss is made for; the order is that of the documentation.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "logits": (
        "kd",
        "soft_label",
        "dkd",
        "skd",
        "dist",
        "wsld",
        "logit_std",
        "multi_teacher_kd",
        "dml",
        "js",
        "symmetric_kl",
        "kd_bernoulli",
        "function_matching",
        "hard",
        "tf_kd",
    ),
    "features": (
        "l1",
        "l2",
        "smooth_l1",
        "cosine",
        "fsp",
        "at",
        "ab",
        "ft",
        "ofd",
        "rkd",
        "sp",
        "cc",
        "pkt",
        "nst",
        "vid",
        "crd",
        "cwd",
        "mgd",
        "pkd",
        "fgd",
        "fbkd",
        "reviewkd",
        "ickd",
    ),
    "detection": ("yolo_objectness", "ld", "dfl", "qfl", "giou", "pseudo_label"),
    "text": ("ctc_dml", "ctc_mean_kl", "ctc_dkd", "db_map"),
}

WHOLE_BATCH = frozenset(
    {"cc", "crd", "ctc_dml", "db_map", "dfl", "dist", "dkd", "fbkd", "giou"}
    | {"ld", "ofd", "pkd", "pkt", "qfl", "reviewkd", "rkd", "sp"}
)
"""Losses whose value over a batch is not, with all arguments, the mean of their values over equal parts of it.

They compare images with each other, divide by something counted over the whole batch (positives, frames), or use a
statistic of it. Where a batch is shared by several devices or taken in several pieces, each part goes by itself.
"""
