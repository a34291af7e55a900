"""A thousand flipped bytes in checkpoints and weights files: named, or without effect; never other numbers."""

import random
import shutil
from collections import Counter

import numpy as np
import pytest

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import read_weights, write_weights
from slim_distill.common.weights.sums import write_beside
from slim_distill.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.common.weight_files import gzipped, pir_program, record, tar_file, tar_member, zip_file

ARRAYS = {
    "conv.weights": np.random.default_rng(1).standard_normal((3, 2, 2)).astype(np.float32),
    "bias": np.arange(5, dtype=np.float64),
    "steps": np.array([7], np.int64),
}
STATE = {"velocity": np.ones(4, np.float32)}
FLIPS = 1000


def checkpoint(folder):
    save_checkpoint(folder / "c", Checkpoint(ARRAYS, STATE, 5, {"seed": 3}), "name: x\n")


def as_checkpoint(folder):
    found = load_checkpoint(folder / "c")
    return {**found.model, **found.state, "step": np.array(found.step), "seed": np.array(found.facts["seed"])}


def inference_model(folder):
    (folder / "m.pdiparams").write_bytes(record(ARRAYS["conv.weights"]) + record(ARRAYS["bias"]))
    (folder / "m.json").write_bytes(pir_program({"a": (3, 2, 2), "b": (5,)}))
    for name in ("m.pdiparams", "m.json"):
        write_beside(folder / name)


def archive(name):
    def write(folder):
        data = [("net/w", record(ARRAYS["bias"]))]
        packed = {
            "a.zip": lambda: zip_file(data),
            "a.tar.gz": lambda: gzipped(tar_file([tar_member(*entry) for entry in data])),
            "a.tar": lambda: tar_file([tar_member(*entry) for entry in data]),
        }[name]()
        (folder / name).write_bytes(packed)
        if name == "a.tar":  # the one without a checksum of its own
            write_beside(folder / name)

    return write, lambda folder: read_weights(folder / name, cache_dir=folder / "cache")


def weights(name):
    return lambda folder: write_weights(folder / name, ARRAYS), lambda folder: read_weights(folder / name)


KINDS = {
    "checkpoint": (checkpoint, as_checkpoint),
    "checkpoint as weights": (checkpoint, lambda folder: read_weights(folder / "c")),
    "safetensors": weights("w.safetensors"),
    "pdparams": weights("w.pdparams"),
    "folder": weights("w"),
    "inference model": (inference_model, lambda folder: read_weights(folder / "m.pdiparams")),
    "zip": archive("a.zip"),
    "tar.gz": archive("a.tar.gz"),
    "tar": archive("a.tar"),
}


def same(a, b):
    return set(a) == set(b) and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()
        for name in a
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_named_or_has_no_effect(tmp_path, kind):
    write, read = KINDS[kind]
    write(tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    expected = read(tmp_path)
    lot, seen = random.Random(kind), Counter()
    for _ in range(FLIPS // len(KINDS) + 1):
        path = lot.choice(files)
        good = path.read_bytes()
        bad = bytearray(good)
        at = lot.randrange(len(bad))
        bad[at] ^= lot.randrange(1, 256)
        path.write_bytes(bytes(bad))
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        found, said = None, ""
        try:
            found = read(tmp_path)
        except WeightsError as error:
            said = str(error)
        owner = path.name.removesuffix(".sha256") or path.parent.name
        assert owner in said if found is None else same(found, expected), (path, at, said)
        seen["detected" if found is None else "harmless"] += 1
        path.write_bytes(good)
    assert same(read(tmp_path), expected)
    assert seen["detected"] > seen["harmless"] or kind in ("checkpoint as weights", "tar.gz", "zip"), seen


def test_a_flip_in_numbers_is_always_found(tmp_path):
    for name in ("w.safetensors", "w.pdparams"):
        write_weights(tmp_path / name, ARRAYS)
        path, needle = tmp_path / name, ARRAYS["conv.weights"].tobytes()
        data = bytearray(path.read_bytes())
        at = data.index(needle)
        data[at + 5] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(WeightsError, match=f"{name}.*damaged"):
            read_weights(path)


def test_a_safetensors_file_of_others_is_read_without_a_checksum_and_ours_by_others(tmp_path):
    from safetensors.numpy import load_file, save_file

    save_file(ARRAYS, tmp_path / "theirs.safetensors", {"format": "np"})
    assert same(read_weights(tmp_path / "theirs.safetensors"), ARRAYS)
    write_weights(tmp_path / "ours.safetensors", ARRAYS)
    assert same(load_file(tmp_path / "ours.safetensors"), ARRAYS)


def test_writing_again_leaves_no_old_checksum_behind(tmp_path):
    for name in ("w.safetensors", "w.pdparams"):
        (tmp_path / f"{name}.sha256").write_text("0" * 64 + f"  {name}\n")
        for factor in (1, 2):
            write_weights(tmp_path / name, {"a": np.ones(3) * factor})
            assert read_weights(tmp_path / name)["a"][0] == factor


def test_a_file_added_to_a_folder_of_variables_is_refused_until_the_list_is_removed(tmp_path):
    write_weights(tmp_path / "w", ARRAYS)
    (tmp_path / "w" / "more").write_bytes(record(np.ones(2, np.float32)))
    with pytest.raises(WeightsError, match=r"w/more is not in .*\.sha256; remove that file"):
        read_weights(tmp_path / "w")
    (tmp_path / "w" / ".sha256").unlink()
    assert "more" in read_weights(tmp_path / "w")


def test_a_manifest_that_is_not_ours_is_left_alone(tmp_path):
    write_weights(tmp_path / "w.safetensors", ARRAYS)
    (tmp_path / "manifest.json").write_text("not even JSON")
    assert same(read_weights(tmp_path / "w.safetensors"), ARRAYS)
