"""The cost of a training step: published totals, what a teacher costs, measured times, the three forms of output."""

import json
import logging
import re
from dataclasses import replace

import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.config import load_config
from slim_distill.config.schema import TermScheduleConfig
from slim_distill.engine import build, costs
from slim_distill.engine.compiling import usual_size
from slim_distill.engine.costs import render_costs, step_cost
from slim_distill.engine.profile import match_times, profile
from slim_distill.graph import Slice, operator_costs, run_passes
from tests.tiny import run_config, write_config

pytestmark = pytest.mark.usefixtures("static_mode")


@pytest.fixture
def pair(tmp_path):
    """Run configurations of a tiny student and its teacher; no data set is needed."""
    student = run_config(tmp_path, tmp_path)
    teacher = run_config(tmp_path, tmp_path, name="teacher")
    teacher["model"]["backbone"] = {"type": "resnet", "depth": 18, "scale": 0.125}
    return tuple(load_config(write_config(tmp_path / f"{i}.yml", d)) for i, d in enumerate((student, teacher)))


def one(result, **wanted):
    (row,) = [r for r in result.rows if all(getattr(r, key) == value for key, value in wanted.items())]
    return row


@pytest.mark.parametrize(
    ("config", "multiply_adds"),
    [
        # MobileNetV1 at 224: 568.74 million with its classifier of 1024 x 1000.
        ("configs/yolov3_mobilenet_v1.yml", 568_740_352 - 1024 * 1000),
        # ResNet34 at 224: 3.664 thousand million with its classifier of 512 x 1000; the published detector's backbone
        # has one convolution more, the 1x1 shortcut of the first stage.
        ("configs/yolov3_r34.yml", 3_663_761_408 - 512 * 1000 + 64 * 64 * 56 * 56),
    ],
)
def test_convolutions_of_the_backbones_are_those_of_the_literature(config, multiply_adds):
    program = build.build_student(load_config(config), 224, 1)
    costs = operator_costs(run_passes(program, [Slice(("backbone.c5",))]).program)
    assert sum(c.flops for c in costs if "conv2d" in c.kind) == 2 * multiply_adds


def test_the_teacher_counts_as_it_runs_in_the_step(pair):
    student, teacher = pair
    alone = step_cost(student)
    together = step_cost(student, teacher)
    assert {r.program for r in alone.rows} == {"student"}
    assert (together.size_px, together.batch) == (64, 1)
    forward = one(together, level="phase", program="teacher", name="forward")
    assert one(together, level="phase", program="teacher", name="step") == type(forward)(
        **{**vars(forward), "name": "step"}
    )
    kinds = {r.name for r in together.rows if r.level == "kind" and r.program == "teacher"}
    assert "onednn.fused_conv2d" in kinds
    assert not {k for k in kinds if "batch_norm" in k or k.endswith("_grad")}
    mine = one(together, level="phase", program="student", name="step")
    assert mine.parameters == one(alone, level="phase", program="student", name="step").parameters
    assert mine.operators > one(alone, level="phase", program="student", name="step").operators


def test_a_schedule_is_measured_by_the_run_and_needs_no_data(pair):
    student, teacher = pair
    late = TermScheduleConfig(start_step=1500, stop_epoch=1)
    terms = tuple(replace(term, schedule=late) for term in student.distill.terms)
    student = replace(
        student, distill=replace(student.distill, terms=terms), train=replace(student.train, max_iters=2000)
    )
    assert one(step_cost(student, teacher), level="phase", program="teacher", name="step").flops > 0


def test_flops_grow_with_batch_and_area(pair):
    def convolutions(**sizes):
        rows = step_cost(pair[0], **sizes).rows
        return sum(r.flops for r in rows if r.level == "kind" and "conv2d" in r.name)

    assert convolutions(size_px=64, batch=3) == 3 * convolutions(size_px=64)
    assert convolutions(size_px=128) == 4 * convolutions(size_px=64)


def test_groups_add_up_to_the_step(pair):
    result = step_cost(*pair, grep="")
    for side in ("student", "teacher"):
        step = one(result, level="phase", program=side, name="step")
        kinds = [r for r in result.rows if r.level == "kind" and r.program == side]
        for field in ("operators", "parameters", "weight_bytes", "activation_bytes"):
            assert sum(getattr(r, field) for r in kinds) == getattr(step, field)
        assert sum(r.flops or 0 for r in kinds) == step.flops


def test_measured_times_belong_to_operators_and_fit_into_the_step(pair):
    result = step_cost(*pair, time=True, grep="onednn.fused_conv2d|momentum")
    total = sum(r.ms for r in result.rows if r.level == "phase" and r.name == "step")
    assert 0 < total <= result.step_ms
    counted = step_cost(*pair)
    for row in counted.rows:
        measured = one(result, level=row.level, program=row.program, name=row.name)
        assert measured.operators == row.operators
        assert measured.ms > 0
    single = [r for r in result.rows if r.level == "operator"]
    assert len(single) == sum(r.operators for r in result.rows if r.name in ("onednn.fused_conv2d", "momentum"))
    assert all(r.ms > 0 for r in single)


def test_each_operator_has_its_time_where_nothing_runs_on_onednn(pair):
    """Paddle's executor then has an order of its own, in which the records would be taken for other operators'."""
    student, teacher = pair
    student = replace(student, compile=replace(student.compile, teacher="off", placement="stock"))
    rows = [r for r in step_cost(student, teacher, time=True).rows if r.level == "kind"]
    assert all(r.ms > 0 for r in rows)
    assert {r.name for r in rows if r.operators == 0} == {"added fetch"}


def test_operators_without_a_time_are_named(pair, monkeypatch, caplog):
    def cut(run, **options):
        whole = profile(run, **options)
        return replace(whole, kernels=tuple(k for k in whole.kernels if k[0] != "momentum"))

    step_cost(pair[0], time=True)
    assert "were not found" not in caplog.text
    monkeypatch.setattr(costs, "profile", cut)
    with caplog.at_level(logging.WARNING):
        missed = one(step_cost(pair[0], time=True), level="kind", name="momentum")
    assert missed.ms == 0
    found = re.search(r"(\d+) operators were not found among those that ran, and count 0 ms: \S", caplog.text)
    assert int(found[1]) >= missed.operators > 0


def test_times_are_matched_in_order_and_additions_are_set_apart():
    planned = ["conv2d", "onednn_to_paddle_layout", "relu", "constant", "relu"]
    ran = [
        ("conv2d", 1.0),
        ("onednn_to_paddle_layout", 2.0),
        ("onednn_to_paddle_layout", 3.0),
        ("relu", 4.0),
        ("relu", 5.0),
        ("fetch", 6.0),
    ]
    times, extra = match_times(planned, ran)
    assert times == [1.0, 2.0, 4.0, None, 5.0]
    assert extra == [(1, "onednn_to_paddle_layout", 3.0), (4, "fetch", 6.0)]


def test_the_three_forms_hold_the_same_figures(pair):
    result = step_cost(*pair, grep="yolo_head.0")
    rows = json.loads(render_costs(result, "json"))["rows"]
    assert len(rows) == len(result.rows)
    lines = render_costs(result, "tsv").splitlines()
    assert lines[0].split("\t")[:5] == ["level", "program", "name", "kind", "operators"]
    assert [line.split("\t")[2] for line in lines[1:]] == [row["name"] for row in rows]
    text = render_costs(result, "text")
    assert text.startswith("one training step, 1 x 3 x 64 x 64")
    assert "FLOPs not counted: yolo_loss, yolo_loss_grad" in text
    assert "teacher: ops" in text
    assert "teacher_yolo_head.0" in text


def test_the_usual_size_is_the_middle_one(pair):
    assert usual_size(pair[0].data.train) == 64
    assert usual_size(load_config("configs/yolov3_mobilenet_v1_voc.yml").data.train) == 480
    assert usual_size(load_config("configs/yolov3_mobilenet_v1_voc.yml").data.eval) == 608


def test_refusals(pair, tmp_path):
    student, teacher = pair
    with pytest.raises(ConfigError, match="--batch: at least 1 image, found 0"):
        step_cost(student, batch=0)
    with pytest.raises(ConfigError, match=r"--grep: '\(' is no regular expression"):
        step_cost(student, grep="(")
    plain = run_config(tmp_path, tmp_path)
    plain["data"]["train"]["batch_transforms"] = []
    with pytest.raises(ConfigError, match="--size: the training reader gives images no fixed size"):
        step_cost(load_config(write_config(tmp_path / "plain.yml", plain)))
    plain["distill"]["terms"] = []
    with pytest.raises(ConfigError, match="no term reads the teacher 'teacher_'"):
        step_cost(load_config(write_config(tmp_path / "none.yml", plain)), teacher, size_px=64)
