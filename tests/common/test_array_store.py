"""The store of arrays: bounded, checksummed, one writer."""

import logging
import os

import numpy as np
import pytest

from slim_distill.common.array_store import ArrayStore, digest_arrays
from slim_distill.common.errors import SlimDistillError

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
ARRAYS = {"head.0": np.arange(12, dtype="float32").reshape(3, 4), "empty": np.zeros((0, 2), "int64")}


def same(a, b):
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a)


def entry(folder, group="g", key=KEY):
    return folder / group / key[:2] / key


@pytest.fixture
def store(tmp_path):
    opened = ArrayStore(tmp_path, ["g"], 1_000_000)
    yield opened
    opened.close()


def test_gives_back_what_was_put_in_and_none_for_the_rest(store):
    assert store.put("g", KEY, ARRAYS)
    assert same(store.get("g", KEY), ARRAYS)
    assert store.get("g", OTHER) is None
    assert store.get("h", KEY) is None


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros((2, 3), "float32")},
        {"a": np.zeros((3, 2), "float32")},
        {"a": np.zeros((2, 3), "int32")},
        {"a": np.eye(2, 3, dtype="float32")},
        {"a": np.zeros((2, 3), "float32"), "c": np.zeros(0, "float32")},
    ],
)
def test_the_digest_changes_with_name_shape_type_and_numbers(other):
    array = np.zeros((2, 3), "float32")
    assert digest_arrays({"a": array}) == digest_arrays({"a": np.asfortranarray(array)})
    assert digest_arrays({"a": array}) != digest_arrays(other)


def test_every_flipped_or_missing_byte_is_found_and_costs_one_line(store, tmp_path, caplog):
    store.put("g", KEY, ARRAYS)
    path = entry(tmp_path)
    sound = path.read_bytes()
    flipped = [sound[:i] + bytes([sound[i] ^ 1]) + sound[i + 1 :] for i in range(len(sound))]
    cut = [sound[:i] for i in range(len(sound))]
    for damaged in flipped + cut:
        path.write_bytes(damaged)
        caplog.clear()
        assert store.get("g", KEY) is None
        assert len(caplog.messages) == 1
        assert f"the entry {path} cannot be used (its checksum is wrong)" in caplog.messages[0]
        assert not path.exists()
    store.put("g", KEY, ARRAYS)
    assert same(store.get("g", KEY), ARRAYS)


def test_stops_at_the_bound_with_one_line_and_keeps_what_is_there(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    arrays = {"a": np.zeros(1000, "uint8")}
    store = ArrayStore(tmp_path, ["g"], 3500)
    stored = [store.put("g", f"{i:016x}", arrays) for i in range(6)]
    assert stored == [True] * 3 + [False] * 3
    assert not store.storing
    assert sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == store.used_bytes <= 3500
    assert [m for m in caplog.messages if "full" in m] == [
        f"{tmp_path}: full: {store.used_bytes / 1e9:.3g} of at most 3.5e-06 GB; nothing more is stored"
    ]
    assert store.get("g", f"{2:016x}") is not None


def test_an_entry_that_replaces_another_counts_once(store):
    store.put("g", KEY, ARRAYS)
    used = store.used_bytes
    store.put("g", KEY, ARRAYS)
    assert store.used_bytes == used


def test_groups_that_are_not_in_use_make_room_the_oldest_first(tmp_path):
    arrays = {"a": np.zeros(1000, "uint8")}
    for age, group in enumerate(("newest", "oldest", "mine")):
        with_group = ArrayStore(tmp_path, [group], 10_000)
        with_group.put(group, KEY, arrays)
        with_group.close()
        os.utime(tmp_path / group, (1000 - age, 1000 - age))
    store = ArrayStore(tmp_path, ["mine"], 3500)
    assert store.put("mine", OTHER, arrays)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["mine", "newest"]
    assert store.put("mine", f"{1:016x}", arrays)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["mine"]
    assert store.get("mine", KEY) is not None
    store.close()


def test_a_second_run_only_reads_until_the_first_one_ends(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store.put("g", KEY, ARRAYS)
    second = ArrayStore(tmp_path, ["g"], 1_000_000)
    assert f"{tmp_path}: another run stores in it; this one only reads" in caplog.messages
    assert same(second.get("g", KEY), ARRAYS)
    assert not second.put("g", OTHER, ARRAYS)
    store.close()
    third = ArrayStore(tmp_path, ["g"], 1_000_000)
    assert third.put("g", OTHER, ARRAYS)
    third.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SlimDistillError, match=r"cannot use the folder .*file/store: Not a directory"):
        ArrayStore(tmp_path / "file" / "store", ["g"], 1000)


def test_a_disk_that_refuses_ends_storing_with_one_line(store, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "g" / KEY[:2]).write_text("no folder")
    assert not store.put("g", KEY, ARRAYS)
    assert not store.put("g", OTHER, ARRAYS)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("nothing more is stored")
