"""The variable names that the published programs and tutorials print lead to the same variables here."""

import csv
import re

import pytest
from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.models import build_model
from slim_distill.models._names import Names
from tests.models.support import build, detector

SETUPS = {"voc_l2": (20, False), "coco_l2": (80, False), "coco_fg": (80, True)}
PROGRAMS = {
    "student_train": ("mobilenet_v1", "train"),
    "student_eval": ("mobilenet_v1", "eval"),
    "teacher_train": ("resnet", "train"),
}
# Names of the distillation tutorial: heads of student and teacher, and the parts of each scale.
TUTORIAL = {
    "student_train": ("conv2d_20.tmp_1", "conv2d_28.tmp_1", "conv2d_36.tmp_1"),
    "teacher_train": ("conv2d_6.tmp_1", "conv2d_14.tmp_1", "conv2d_22.tmp_1"),
}
PARTS = ("x", "y", "w", "h", "obj")
# What the published programs compute on the way from image to losses, without temporaries of their arithmetic.
FEATURE_MAP = re.compile(
    r"((depthwise_)?conv2d_\d+\.tmp_[01]|batch_norm_\d+\.tmp_[23]|bn\w+\.output\.1\.tmp_[23]|(res|conv)\w+\.conv2d\.output\.1\.tmp_0"
    r"|(leaky_relu|nearest_interp|pool2d|strided_slice|slice)_\d+\.tmp_0|concat_[01]\.tmp_0|elementwise_add_\d+\.tmp_[01]"
    r"|target\d_slice_\d|reshape2_\d\.tmp_2|yolo_loss\d\.tmp_[01])"
)


def published_shapes(golden, setup, program):
    with open(golden / "names" / f"{setup}.{program}.vars.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {r["name"]: r["shape"] for r in rows}


def shape_text(value):
    return "x".join(map(str, value.shape))


@pytest.mark.parametrize("setup", SETUPS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_published_names_have_the_published_shapes(static_mode, golden, setup, program):
    published = published_shapes(golden, setup, program)
    (num_classes, fine), (backbone, mode) = SETUPS[setup], PROGRAMS[program]
    ours = build(build_model(detector(backbone, num_classes, fine_grained=fine), mode)).variables
    maps = {n: s for n, s in published.items() if FEATURE_MAP.fullmatch(n)}
    assert len(maps) > 140
    maps |= {n: s for n, s in published.items() if re.fullmatch(r"transpose_\d\.tmp_0", n) and mode == "train"}
    assert {n: shape_text(ours[n]) if n in ours else "missing" for n in maps} == maps


@pytest.mark.parametrize("program", TUTORIAL)
def test_names_of_the_tutorial_are_the_heads(static_mode, program):
    backbone, mode = PROGRAMS[program]
    ours = build(build_model(detector(backbone, fine_grained=True), mode)).variables
    for i, name in enumerate(TUTORIAL[program]):
        assert ours[name].is_same(ours[f"yolo_head.{i}"])
    for i in range(3):
        for k, part in enumerate(PARTS):
            assert ours[f"strided_slice_{5 * i + k}.tmp_0"].is_same(ours[f"{part}.{i}"])
        assert ours[f"transpose_{2 * i}.tmp_0"].is_same(ours[f"cls.{i}"])


def test_names_of_the_evaluation_program_are_boxes_scores_and_detections(static_mode):
    ours = build(build_model(detector(), "eval")).variables
    pairs = {"concat_2.tmp_0": "boxes", "concat_3.tmp_0": "scores", "multiclass_nms_0.tmp_0": "dets"}
    for legacy, role in pairs.items():
        assert ours[legacy].is_same(ours[role])


def test_roles_come_first_and_layers_before_counts(static_mode):
    ours = build(build_model(detector(), "train")).variables
    first: dict[str, str] = {}
    for name, value in ours.items():
        first.setdefault(value.id, name)

    def canonical(name):
        return first[ours[name].id]

    assert canonical("conv2d_20.tmp_1") == "yolo_head.0"
    assert canonical("conv2d_20.tmp_0") == "yolo_output.0.conv.tmp_0"
    assert canonical("batch_norm_0.tmp_3") == "conv1_bn.tmp_1"
    assert canonical("leaky_relu_0.tmp_0") == "leaky_relu_0.tmp_0"
    assert canonical("batch_norm_26.tmp_3") == "backbone.c5"
    assert canonical("leaky_relu_5.tmp_0") == "neck.p5"


def test_every_contract_name_is_there_in_every_mode(static_mode):
    roles = {"backbone.c1", "backbone.c5", "neck.p5", "neck.p4", "neck.p3", "yolo_head.0", "yolo_head.2"}
    parts = {"loss", "loss_xy", "loss_wh", "loss_obj", "loss_cls", "loss_xy.0", "loss_cls.2"}
    wanted = {
        ("train", False): roles | parts | {"loss.0", "loss.1", "loss.2"},
        ("train", True): roles | parts | {f"{part}.{i}" for part in (*PARTS, "cls") for i in range(3)},
        ("eval", False): roles | {"boxes", "scores", "dets", "dets_num"},
    }
    for (mode, fine), names in wanted.items():
        with static.program_guard(static.Program(), static.Program()):
            ours = build(build_model(detector("mobilenet_v1", scale=0.25, fine_grained=fine), mode)).variables
            assert names <= set(ours)


def test_refuses_one_name_for_two_variables(static_mode):
    names = Names()
    a, b = static.data("a", [1], "float32"), static.data("b", [1], "float32")
    names.role("map", a)
    names.role("map", a)
    with pytest.raises(GraphError, match="'map' is given to two variables"):
        names.legacy("map", b)
