"""Six training steps of the published VOC pair, and what weight decay and larger rates do."""

import csv
import math

import numpy as np
import pytest

from tests.parity.conftest import FETCH, SCHEDULE, STEPS, STUDENT, TEACHER, paddle_static, trajectory_batch
from tests.parity.measure import summary, summary_error

pytestmark = pytest.mark.golden

LOSSES = {"loss": "total_loss", "distill_loss": "distill_loss", "student_loss": "student_loss", "lr": "lr"}
LOSSES |= {"teacher_loss": "teacher_loss"}


def check_steps(record, what, steps, published, limit=1e-3):
    assert steps
    for out, want in zip(steps, published, strict=True):
        for key, name in LOSSES.items():
            record.check(f"{what}: {key}", out[name], want[key], limit)


def test_losses_and_rates(trajectory, read_json, record):
    assert len(trajectory.steps) == STEPS
    check_steps(record, "traj.json", trajectory.steps, read_json("traj.json")["steps"])


def test_parameters_after_the_last_step(trajectory, read_json, record):
    published = read_json("traj.json")
    assert len(published["params_before"]) == 27
    for name, want in published["params_before"].items():
        if not name.startswith("VELOCITY:"):
            record.statistics("traj.json: parameters before", trajectory.before[name], want, 1e-6)
    for name, want in published["params_after_step6"].items():
        if not name.startswith("VELOCITY:"):
            record.statistics("traj.json: parameters after step 6", trajectory.after[name], want, 1e-3)


def test_momentum_after_the_last_step(trajectory, read_json, record):
    """Gradients of the first layers are chaotic: the bound is what a change of the images by 1e-6 did there."""
    published = read_json("traj.json")
    names = [name for name in published["params_after_step6"] if name.startswith("VELOCITY:")]
    assert len(names) == 4
    for name in names:
        want = published["params_after_step6"][name]
        noise = summary_error(published["params_after_step6_noise_1e-6"][name], want)
        assert noise < 0.02
        found = summary_error(summary(trajectory.after[name.removeprefix("VELOCITY:")]), want)
        record.note(f"traj.json: {name.removeprefix('VELOCITY:')} after step 6", found, max(1e-3, 2 * noise))


def test_how_far_every_parameter_moved(trajectory, read_json, record):
    moved = read_json("traj.json")["delta_l2_and_l2_all_student_params"]
    assert len(moved) == 241
    for name, (delta, size) in moved.items():
        own = np.linalg.norm(trajectory.after[name].astype("f8") - trajectory.before[name])
        record.note("traj.json: L2 of each parameter", abs(np.linalg.norm(trajectory.after[name]) - size) / size, 1e-3)
        record.note("traj.json: L2 of each parameter's change", abs(own - delta) / delta, 1e-2)


def test_small_tensors_after_the_last_step(voc, trajectory, record):
    with np.load(voc / "params_after_step6_small.npz") as file:
        assert len(file.files) == 11
        for name in file.files:
            record.check("params_after_step6_small.npz", trajectory.after[name], file[name], 1e-3)


def test_no_bit_of_the_teacher_moves(trajectory):
    names = [name for name in trajectory.before if name.startswith("teacher_")]
    assert len(names) == 291
    for name in names:
        assert trajectory.before[name].tobytes() == trajectory.after[name].tobytes(), name


@pytest.mark.parametrize(("name", "rate", "steps"), [("traj_lr1e-4.json", 1e-4, 3), ("traj_lr1e-3.json", 1e-3, 3)])
def test_the_first_steps_at_larger_rates(trajectory, trainer, read_json, record, name, rate, steps):
    """The first step has rate 0, so these runs leave the main one after it."""
    published = read_json(name)["steps"][:steps]
    with paddle_static():
        built = trainer(base_lr=rate, state=trajectory.after_first, step=1)
        runs = [built.step(trajectory_batch(1001 + k), FETCH) for k in range(1, steps)]
    check_steps(record, name, [{**trajectory.steps[0]}, *runs], published)


@pytest.fixture(scope="module")
def decayed(values, golden):
    """Six steps with a decay of 500, compiled as a real run is."""
    from slim_distill import api

    overrides = [*SCHEDULE, "OptimizerBuilder.regularizer.factor=500"]
    with paddle_static():
        built = api.distillation(STUDENT, TEACHER, overrides, teacher_values=values.teacher, compile=True)
        built.set_parameters(values.student)
        steps = [built.step(trajectory_batch(1001 + k)) for k in range(STEPS)]
        return steps, built.read()


def test_decay_and_the_compiled_program(decayed, read_json, record):
    published = read_json("traj_wd.json")
    steps, after = decayed
    check_steps(record, "traj_wd.json (compiled)", steps, published["steps"])
    for name, want in published["params_after_step6"].items():
        if not name.startswith(("VELOCITY:", "teacher_")):
            record.statistics("traj_wd.json (compiled): parameters after step 6", after[name], want, 1e-3)


def test_only_the_head_convolutions_decay(golden, decayed, values, trajectory):
    with open(golden / "names" / "voc_l2.weight_decay.tsv", newline="") as file:
        published = {row["param"]: float(row["l2_coefficient"]) for row in csv.DictReader(file, delimiter="\t")}
    assert len(published) == 147
    assert sum(value > 0 for value in published.values()) == 23
    _, after = decayed
    # 500 * (rates of steps 1..5 with their momentum): what the decay alone takes off a weight.
    for name, coefficient in published.items():
        ratio = np.linalg.norm(after[name]) / np.linalg.norm(trajectory.after[name])
        assert math.isclose(ratio, 0.987 if coefficient else 1.0, abs_tol=3e-3), (name, ratio)
