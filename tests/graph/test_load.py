"""Inference models of old Paddle: their numbers, their names, and that they serve as teachers."""

import shutil

import numpy as np
import pytest

from slim_distill.common.errors import GraphError, WeightsError
from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import OptimizerConfig
from slim_distill.engine.session import Session
from slim_distill.engine.training import build_training
from slim_distill.graph import Freeze, load_inference_program, merge, run_passes, trace
from slim_distill.losses.terms import Term

pytestmark = pytest.mark.usefixtures("static_mode")


@pytest.mark.golden
def test_old_names_are_kept(golden):
    loaded = load_inference_program(golden / "legacy_ckpt" / "infer_combined")
    assert list(loaded.feeds) == ["image"]
    assert len(loaded.parameters()) == len(loaded.values) == 24
    for name in ("conv2d_0.tmp_0", "batch_norm_0.tmp_2", "image", "conv1_weights", *loaded.info["outputs"]):
        assert name in loaded
    assert loaded["conv2d_0.tmp_0"].get_defining_op().name() == "pd_op.conv2d"
    assert loaded.canonical("image") == "image"


@pytest.mark.golden
def test_a_loaded_model_teaches(golden):
    """Its output map is reached by a linear student, and its parameters stay."""
    teacher = run_passes(load_inference_program(golden / "legacy_ckpt" / "infer_separate"), [Freeze()]).program
    shape = tuple(teacher["conv2d_0.tmp_0"].shape)

    def build(feeds):
        import paddle

        return {"map": paddle.nn.Conv2D(3, shape[1], 5, stride=16 // shape[2], padding=2)(feeds["image"])}

    student = trace(ModelSpec({"image": FeedSpec((None, 3, 16, 16))}, build))
    merged = merge(student, teacher)
    term = Term("l2", ("map",), ("teacher_conv2d_0.tmp_0",), 1.0)
    training = build_training(merged, [term], OptimizerConfig(weight_decay=0.0), task_loss="")
    session = Session("cpu")
    session.start(training.program, 0)
    session.write({"learning_rate_0": np.float32(0.02)})
    with np.load(golden / "legacy_ckpt" / "infer_io.npz") as sample:
        batch = {"image": sample["image"]}
    losses = [float(session.run(training.program, batch, ["distill"])["distill"]) for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]
    kept = session.read(f"teacher_{name}" for name in teacher.values)
    assert all(np.array_equal(kept[f"teacher_{name}"], array) for name, array in teacher.values.items())


@pytest.mark.golden
def test_a_parameter_without_a_file_is_named(golden, tmp_path):
    shutil.copytree(golden / "legacy_ckpt" / "infer_separate", tmp_path / "model")
    (tmp_path / "model").chmod(0o755)
    (tmp_path / "model" / "conv1_weights").unlink()
    with pytest.raises((GraphError, WeightsError), match="conv1_weights"):
        load_inference_program(tmp_path / "model")


@pytest.mark.golden
@pytest.mark.parametrize("size", [0, 1, 40, 3000])
def test_a_truncated_program_is_refused(golden, tmp_path, size):
    whole = (golden / "legacy_ckpt" / "infer_separate" / "__model__").read_bytes()
    assert size < len(whole)
    (tmp_path / "__model__").write_bytes(whole[:size])
    with pytest.raises((GraphError, WeightsError)):
        load_inference_program(tmp_path)


def test_noise_is_refused(tmp_path):
    (tmp_path / "model.pdmodel").write_bytes(np.random.RandomState(0).bytes(500))
    with pytest.raises(GraphError, match="cannot read or translate"):
        load_inference_program(tmp_path / "model.pdmodel")


def test_a_folder_without_a_program_is_refused(tmp_path):
    with pytest.raises(GraphError, match="__model__"):
        load_inference_program(tmp_path)
