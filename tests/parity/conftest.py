"""One run of the published VOC pair, shared by all tests here, and the record of measured errors."""

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.golden_formula import all_weights, boxes, images
from tests.parity.measure import Record

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STUDENT, TEACHER = CONFIGS / "yolov3_mobilenet_v1_voc.yml", CONFIGS / "yolov3_r34_voc.yml"
SCHEDULE = ("LearningRate.base_lr=2e-6", "LearningRate.schedulers.1.steps=4")
SIZE, CLASSES, STEPS = 320, 20, 6
HEADS = [f"yolo_head.{i}" for i in range(3)]
PUBLISHED = ["conv2d_20.tmp_1", "conv2d_28.tmp_1", "conv2d_36.tmp_1"]
PUBLISHED_TEACHER = ["teacher_conv2d_6.tmp_1", "teacher_conv2d_14.tmp_1", "teacher_conv2d_22.tmp_1"]
PARTS = [f"loss_{part}.{i}" for part in ("xy", "wh", "obj", "cls") for i in range(3)]
FETCH = [*PUBLISHED, *PUBLISHED_TEACHER, *(f"yolo_loss{i}.tmp_0" for i in range(3)), *PARTS]
FETCH += [f"teacher_{name}" for name in PARTS]


@contextmanager
def paddle_static():
    """Static mode, also for a fixture that was built in another test."""
    import paddle

    from slim_distill.engine.session import start_static_mode

    was_dynamic = paddle.in_dynamic_mode()
    start_static_mode()
    try:
        yield
    finally:
        if was_dynamic:
            paddle.disable_static()


@pytest.fixture(scope="session")
def record():
    """Measured errors; written as a table to the file that SLIM_DISTILL_PARITY names."""
    found = Record()
    yield found
    if "SLIM_DISTILL_PARITY" in os.environ:
        found.write(Path(os.environ["SLIM_DISTILL_PARITY"]))


@pytest.fixture(scope="session")
def voc(golden):
    """Folder of the golden numbers of the VOC pair."""
    return golden / "voc_l2"


@pytest.fixture(scope="session")
def read_json(voc):
    return lambda name: json.loads((voc / name).read_text())


@pytest.fixture(scope="session")
def inputs(voc):
    """The main batch, targets and eval image sizes included."""
    with np.load(voc / "inputs.npz") as file:
        return dict(file)


def trajectory_batch(seed):
    box, label, score = boxes(seed, 2, CLASSES)
    return {"image": images(seed, 2, SIZE, SIZE), "gt_bbox": box, "gt_class": label, "gt_score": score}


@pytest.fixture(scope="session")
def values():
    """Formula weights of both networks, and the teacher's salted ones, by name without prefix."""
    from slim_distill import api

    with paddle_static():
        student, teacher = api.build(STUDENT).parameter_shapes(), api.build(TEACHER).parameter_shapes()
    return SimpleNamespace(
        student=all_weights(student), teacher=all_weights(teacher), salted=all_weights(teacher, salted=True)
    )


@pytest.fixture(scope="session")
def trainer(golden, values):
    """The merged VOC pair with its losses and optimizer, stock kernels, and a function that starts it anew."""
    from slim_distill import api

    with paddle_static():
        built = api.distillation(STUDENT, TEACHER, SCHEDULE)
        momentum = {
            name: np.zeros(built.shapes()[name], "float32") for name in built.shapes() if name.endswith("_velocity_0")
        }

        def restart(teacher=values.teacher, base_lr=2e-6, state=None, step=0):
            built.set_parameters(teacher, "teacher_")
            built.set_parameters(state if state is not None else {**values.student, **momentum})
            built.cfg = replace(built.cfg, schedule=replace(built.cfg.schedule, base_lr=base_lr))
            built.step_number = step
            return built

        yield restart


@pytest.fixture(scope="session")
def main_step(trainer, inputs):
    """One step on the main batch from formula weights: what was fetched, and all values after it."""
    with paddle_static():
        built = trainer()
        before = built.read()
        out = built.step(inputs, FETCH)
        return SimpleNamespace(out=out, before=before, after=built.read(), training=built.training)


@pytest.fixture(scope="session")
def trajectory(main_step, trainer):
    """Six steps on the batches of seeds 1001 to 1006: what was fetched, and all values before and after."""
    with paddle_static():
        built = trainer()
        run = SimpleNamespace(before=built.read(), steps=[], after_first=None, after=None)
        for k in range(STEPS):
            run.steps.append(built.step(trajectory_batch(1001 + k), FETCH))
            if k == 0:
                run.after_first = {n: v for n, v in built.read().items() if not n.startswith("teacher_")}
        run.after = built.read()
        return run
