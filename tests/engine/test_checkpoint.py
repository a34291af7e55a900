"""Checkpoints: complete or absent, verified when read."""

import json

import numpy as np
import pytest

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import read_weights
from slim_distill.engine.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint, remove_old, save_checkpoint

MODEL = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([3], np.int64)}
STATE = {"w_velocity_0": np.ones((2, 3), np.float32)}


def save(folder, step=1, state=STATE):
    save_checkpoint(folder, Checkpoint(MODEL, state, step, {"seed": 5}), "name: x\n")
    return folder


def test_round_trip_keeps_every_bit_and_fact(tmp_path):
    loaded = load_checkpoint(save(tmp_path / "7", step=7))
    assert loaded.step == 7
    assert loaded.facts["seed"] == 5
    for want, got in ((MODEL, loaded.model), (STATE, loaded.state)):
        assert set(want) == set(got)
        assert all(want[n].tobytes() == got[n].tobytes() and want[n].dtype == got[n].dtype for n in want)
    assert (tmp_path / "7" / "config.yml").read_text() == "name: x\n"


def test_the_model_can_be_read_as_weights(tmp_path):
    arrays = read_weights(save(tmp_path / "best_model", state={}))
    assert set(arrays) == set(MODEL)
    assert np.array_equal(arrays["w"], MODEL["w"])


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "config.yml"])
def test_a_flipped_bit_anywhere_is_found_and_the_file_named(tmp_path, name):
    path = save(tmp_path / "1") / name
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 4
    path.write_bytes(bytes(blob))
    with pytest.raises(WeightsError, match=f"{name} is damaged"):
        load_checkpoint(tmp_path / "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"step": 1, "files": {}, "format": 99}', "format 99")],
)
def test_a_broken_manifest_is_refused(tmp_path, text, message):
    (save(tmp_path / "1") / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(tmp_path / "1")


def test_a_missing_file_is_named(tmp_path):
    (save(tmp_path / "1") / "state.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"state\.safetensors is missing"):
        load_checkpoint(tmp_path / "1")


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"is no checkpoint: it has no manifest\.json"):
        load_checkpoint(tmp_path)


def test_the_newest_sound_one_is_taken(tmp_path):
    for step in (2, 10, 9):
        save(tmp_path / str(step), step)
    (tmp_path / "best_model").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "10"
    (tmp_path / "10" / "model.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) == tmp_path / "9"
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_only_the_newest_are_kept_and_other_folders_never_touched(tmp_path):
    for step in (1, 2, 3, 10):
        save(tmp_path / str(step), step)
    save(tmp_path / "best_model")
    remove_old(tmp_path, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"3", "10", "best_model"}


def test_saving_again_replaces_the_whole_folder(tmp_path):
    save(tmp_path / "1")
    save_checkpoint(tmp_path / "1", Checkpoint(MODEL, {}, 4, {}), "name: y\n")
    assert not (tmp_path / "1" / "state.safetensors").exists()
    assert json.loads((tmp_path / "1" / "manifest.json").read_text())["step"] == 4
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
