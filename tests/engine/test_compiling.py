"""The compile keys: every combination gives the same numbers, on the kernels that were asked for."""

import dataclasses
import logging
import re
from itertools import product

import numpy as np
import pytest

from slim_distill.config import load_config
from slim_distill.engine import build, compiling, measure, precision
from slim_distill.engine.compiling import (
    fixed_step,
    initial_values,
    place,
    show_precision,
    training_step,
    usual_step,
    wants_own_kernels,
)
from slim_distill.engine.session import Session
from slim_distill.engine.training import LEARNING_RATE
from slim_distill.graph import SplitGradients, convolution_layers, dtype_of, run_passes
from slim_distill.losses.build import terms_from_config
from tests.graph.nets import op_names, runs_bfloat16
from tests.tiny import run_config, write_config

pytestmark = pytest.mark.usefixtures("static_mode")

CONVOLUTIONS = ("pd_op.conv2d", "pd_op.depthwise_conv2d", "pd_op.conv2d_grad", "pd_op.depthwise_conv2d_grad")


@pytest.fixture
def job(tmp_path):
    """A student's run, its teacher with values, and the terms."""
    teacher_run = run_config(tmp_path, tmp_path, name="teacher")
    cfg = load_config(write_config(tmp_path / "student.yml", run_config(tmp_path, tmp_path)))
    its = load_config(write_config(tmp_path / "teacher.yml", teacher_run))
    teacher = build.Teacher(its, initial_values(build.build_teacher(its, cfg)).values)
    return cfg, {"teacher_": teacher}, terms_from_config(cfg.distill)


def compiled(job, placement="auto", teacher="auto", kernels="auto"):
    cfg, teachers, terms = job
    keys = dataclasses.replace(cfg.compile, teacher=teacher, placement=placement, kernels=kernels)
    cfg = dataclasses.replace(cfg, compile=keys)
    training = fixed_step(cfg, teachers, terms, size_px=64, batch=2, on_cpu=True)
    result = place(training.program, placement, on_cpu=True, fixed=lambda: training.program, kernels=kernels)
    return dataclasses.replace(training, program=result.program)


def losses(training, sizes=(64,), rate=0.0001):
    """All losses of a step for each size; over several steps so small a network makes much of a rounding error."""
    session = Session("cpu")
    session.start(training.program, seed=0)
    session.write({LEARNING_RATE: np.asarray(rate, "float32")})
    rng = np.random.RandomState(0)
    found = {}
    for size in sizes:
        shapes = {"image": (2, 3, size, size), "gt_bbox": (2, 50, 4), "gt_class": (2, 50), "gt_score": (2, 50)}
        batch = {n: rng.uniform(0.2, 0.8, shape).astype("float32") for n, shape in shapes.items()}
        batch["image"] = rng.randn(*shapes["image"]).astype("float32")
        batch["gt_class"] = batch["gt_class"].astype("int32")
        out = session.run(training.program, batch, list(training.losses.values()))
        found |= {(n, size) if len(sizes) > 1 else n: float(v) for n, v in out.items()}
    return found


def test_images_of_random_sizes_are_trained_on_by_one_compiled_program(job):
    """Another size at every step, and back to one seen before, with kernels that remember what they were made for."""
    cfg, teachers, terms = job
    found = []
    for teacher, placement in (("auto", "auto"), ("off", "stock")):
        keys = dataclasses.replace(cfg.compile, teacher=teacher)
        run = dataclasses.replace(cfg, compile=keys)
        training = training_step(build.build_student(run), teachers, terms, run, on_cpu=True)
        placed = place(training.program, placement, on_cpu=True, fixed=lambda: None)
        training = dataclasses.replace(training, program=placed.program)
        found.append(losses(training, sizes=(64, 96, 32, 64, 128), rate=0.0))
    compiled, stock = found
    assert len(stock) == 4 * len(training.losses)
    assert compiled == pytest.approx(stock, rel=1e-4)


def test_every_combination_computes_the_same_losses(job, monkeypatch, tmp_path):
    monkeypatch.setenv("SLIM_DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure, "ROUNDS", 1)
    expected = losses(compiled(job, "stock", "off"))
    for teacher in ("auto", "off"):
        for placement in ("auto", "onednn", "measure"):
            assert losses(compiled(job, placement, teacher)) == pytest.approx(expected, rel=1e-4)
    assert list((tmp_path / "cache" / "kernels").glob("*.json"))


@pytest.mark.parametrize("avx512", [True, False])
def test_the_rules_for_either_kind_of_cpu_compute_the_same_losses(job, monkeypatch, avx512):
    monkeypatch.setattr(compiling, "has_avx512", lambda: avx512)
    monkeypatch.setattr(compiling, "_ONE_PRODUCT_FROM", 1 << 8)  # this network is small
    auto = compiled(job)
    # Where oneDNN has only AVX2, the gradients of the weights of the largest layers are one product each.
    assert ("pd_op.unfold" in op_names(auto.program)) != avx512
    assert "pd_op.unfold" not in op_names(compiled(job, "onednn").program)
    assert losses(auto) == pytest.approx(losses(compiled(job, "stock", "off")), rel=1e-4)


def test_stock_leaves_every_operator_and_onednn_leaves_no_convolution(job):
    stock = op_names(compiled(job, "stock", "off").program)
    assert not [name for name in stock if name.startswith("onednn_op.")]
    fast = op_names(compiled(job, "onednn", "off").program)
    assert not set(fast) & set(CONVOLUTIONS)
    assert "onednn_op.fused_conv2d" not in fast
    assert "onednn_op.fused_conv2d" in op_names(compiled(job, "stock").program)


def test_kernels_of_our_own_are_used_by_auto_and_measure_unless_they_are_off(job, own_kernels):
    training = compiled(job, "stock", "off")

    def own(placement, kernels):
        result = place(training.program, placement, on_cpu=True, fixed=lambda: None, kernels=kernels)
        return any(name.startswith("custom_op.") for name in op_names(result.program))

    used = {(p, k) for p in ("auto", "measure", "onednn", "stock") for k in ("auto", "off") if own(p, k)}
    assert used == {("auto", "auto"), ("measure", "auto")}


def test_a_run_says_that_it_wants_kernels_of_our_own_where_its_student_or_its_teacher_gets_them(job, own_kernels):
    """What checkpoints say of a run follows from its configuration; here it is held against the programs."""
    for placement, teacher, kernels in product(("auto", "onednn", "stock"), ("auto", "off"), ("auto", "off")):
        keys = dataclasses.replace(job[0].compile, placement=placement, teacher=teacher, kernels=kernels)
        names = op_names(compiled(job, placement, teacher, kernels).program)
        assert wants_own_kernels(keys) == any(name.startswith("custom_op.") for name in names), keys


def test_measured_layers_are_placed_and_no_others(job, own_kernels, monkeypatch, caplog):
    training = compiled(job, "stock")
    halves = run_passes(training.program, [SplitGradients()]).program
    names = [layer.name for layer in convolution_layers(halves)]
    assert any(name.endswith("@INPUT@GRAD") for name in names)
    depthwise = next(name for name in names if "_dw" in name)
    chosen = dict.fromkeys(names, "stock") | {names[0]: "onednn", depthwise: "own"}
    monkeypatch.setattr(compiling, "choose_kernels", lambda layers, own: chosen if own else {})
    with caplog.at_level(logging.INFO):
        result = place(training.program, "measure", on_cpu=True, fixed=lambda: training.program)
    left = [name for name in names if name not in (names[0], depthwise)]
    assert [layer.name for layer in convolution_layers(result.program)] == left
    assert op_names(result.program).count("custom_op.slim_depthwise_conv2d") == 1
    line = f"measured: of {len(names)} convolutions and gradients 1 are faster on oneDNN, 1 on kernels of our own"
    assert line in caplog.messages


def test_without_a_usual_size_measure_goes_by_the_rules_of_auto(job, caplog):
    training = compiled(job, "stock")
    with caplog.at_level(logging.INFO):
        measured = place(training.program, "measure", on_cpu=True, fixed=lambda: None)
    assert caplog.messages == ["compile.placement: measure needs images of a known size; the rules of auto are used"]
    auto = place(training.program, "auto", on_cpu=True, fixed=lambda: None)
    assert op_names(measured.program) == op_names(auto.program)


def test_the_usual_step_has_the_readers_batch_and_size(job, caplog):
    cfg, teachers, terms = job
    with caplog.at_level(logging.INFO):
        program = usual_step(cfg, teachers, terms, on_cpu=True)
    assert tuple(program.feeds["image"].shape) == (2, 3, 64, 64)
    assert "kernels are compared for batches of 2 images of 64 px" in caplog.messages
    reader = dataclasses.replace(cfg.data.train, batch_transforms=())
    plain = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, train=reader))
    assert usual_step(plain, teachers, terms, on_cpu=True) is None


def test_another_device_keeps_its_program_and_is_told_why(job):
    training = compiled(job, "stock", "off")
    for placement in ("auto", "onednn", "measure"):
        result = place(training.program, placement, on_cpu=False, fixed=lambda: None)
        assert not result.changed
        assert result.summary().endswith("only CPUs run these kernels, not gpu")


def with_precision(job, dtype, **keys):
    cfg, teachers, terms = job
    compile_ = dataclasses.replace(cfg.compile, teacher_precision=dtype, **keys)
    return dataclasses.replace(cfg, compile=compile_), teachers, terms


@runs_bfloat16
def test_a_reduced_teacher_is_close_and_its_error_is_shown(job, caplog, monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    cfg, teachers, terms = with_precision(job, "bfloat16")
    training = fixed_step(cfg, teachers, terms, size_px=64, batch=2, on_cpu=True)
    assert "onednn_op.quantize" in op_names(training.program)
    expected = losses(compiled(job, "stock"))
    found = losses(training)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for i in range(3):
        assert found[f"distill.{i}.l2"] == pytest.approx(expected[f"distill.{i}.l2"], rel=0.05)
    batch = {"image": np.random.RandomState(0).randn(2, 3, 64, 64).astype("float32")}
    with caplog.at_level(logging.INFO):
        show_precision(cfg, teachers, terms, lambda: batch, on_cpu=True)
    (line,) = caplog.messages
    start, _, rest = line.partition(" by up to ")
    assert start == "teacher_: convolutions in bfloat16 change what the losses read"
    assert 1e-4 < float(rest.split()[0]) < 0.05
    caplog.clear()
    show_precision(job[0], teachers, terms, lambda: batch, on_cpu=True)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("dtype", "keys", "flags", "why"),
    [
        ("bfloat16", {}, (), r"this CPU \(.*\) has neither amx_bf16 nor avx512_bf16"),
        ("float16", {}, ("avx512_bf16",), "a CPU has no kernels for float16"),
        ("bfloat16", {"teacher": "off"}, ("avx512_bf16",), "bfloat16 needs compile.teacher: auto, .*"),
    ],
)
def test_where_precision_cannot_be_reduced_a_line_says_why(job, monkeypatch, dtype, keys, flags, why):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    cfg, teachers, terms = with_precision(job, dtype, **keys)
    lines = []
    program, _ = build.build_frozen("teacher_", teachers["teacher_"], terms, cfg, on_cpu=True, report=lines.append)
    assert re.fullmatch(rf"teacher_: compile\.teacher_precision: {why}; it stays in float32", lines[0])
    assert "onednn_op.quantize" not in op_names(program)


def test_the_students_precision_reaches_what_trains_and_a_cpu_says_why_it_does_not(job):
    cfg, teachers, terms = job
    other = dataclasses.replace(cfg, compile=dataclasses.replace(cfg.compile, student_precision="float64"))

    def step(run, on_cpu):
        lines = []
        student = build.build_student(run, 64, 2)
        made = training_step(student, teachers, terms, run, on_cpu=on_cpu, size_px=64, batch=2, report=lines.append)
        return made, [line for line in lines if "student_precision" in line or "what trains" in line]

    plain, lines = step(cfg, on_cpu=False)
    assert not lines
    found, lines = step(other, on_cpu=False)
    assert re.fullmatch(r"what trains: \d+ convolutions in float64", lines[0])
    wide = [op for op in found.program.main.global_block().ops if "conv2d" in op.name() and "float64" in types(op)]
    weights = {name for name in found.student if name.endswith((".weights", ".conv.weight"))}
    assert len(wide) == 2 * int(lines[0].split()[2]) >= 2 * len(weights)
    assert losses(found) == pytest.approx(losses(plain), rel=1e-4)
    same, lines = step(other, on_cpu=True)
    assert lines == ["compile.student_precision: a CPU does not train in float64; the student stays in float32"]
    assert not any("float64" in types(op) for op in same.program.main.global_block().ops if "conv2d" in op.name())


def types(op):
    return {dtype_of(op.operand_source(i)) for i in (0, 1)}
