"""Every system call of a save made to fail in turn: what was announced stays, and the error says what and why."""

import builtins
import errno
import io
import os
import pathlib
from pathlib import Path

import numpy as np
import pytest

from slim_distill.common.errors import SlimDistillError, WeightsError
from slim_distill.common.files import atomic_write, clean_folder
from slim_distill.engine import checkpoint as checkpoint_module
from slim_distill.engine.checkpoint import Checkpoint, load_checkpoint, newest_sound, remove_old, save_checkpoint
from slim_distill.engine.status import StatusFile

CALLS = ("mkdir", "rename", "replace", "fsync", "open", "unlink", "rmdir")
CAUSES = (errno.ENOSPC, errno.EIO, errno.EACCES)


def model(value):
    return {"w": np.full((4, 3), value, np.float32), "n": np.array([value], np.int64)}


def save(run, step, value, folder=None):
    where = run / (folder or str(step))
    save_checkpoint(where, Checkpoint(model(value), {"v": np.full(2, value, np.float32)}, step, {"seed": 1}), "a: 1\n")


class Faults:
    """Counts the calls that change the file system, and fails the one of a given number (and all after it, if told)."""

    def __init__(self, monkeypatch, number, cause, lasting=False):
        self.number, self.cause, self.lasting, self.calls = number, cause, lasting, []
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))
        # Files are opened for writing through `open`, and safetensors writes by itself.
        self.real_open = io.open
        monkeypatch.setattr(io, "open", self.open)
        monkeypatch.setattr(builtins, "open", self.open)
        monkeypatch.setattr(pathlib.io, "open", self.open)
        monkeypatch.setattr(checkpoint_module, "save_file", self.wrapped("save_file", checkpoint_module.save_file))

    def due(self, what):
        self.calls.append(what)
        return len(self.calls) == self.number or (self.lasting and len(self.calls) > self.number > 0)

    def error(self, path):
        return OSError(self.cause, os.strerror(self.cause), path)

    def wrapped(self, name, real):
        def call(*args, **kwargs):
            place = str(args[1] if name == "save_file" else args[0])
            if self.due(f"{name} {place}"):
                raise self.error(place)
            return real(*args, **kwargs)

        return call

    def open(self, file, mode="r", *args, **kwargs):
        if not set(mode) & set("wax+") or self.due(f"open {file}") is False:
            handle = self.real_open(file, mode, *args, **kwargs)
            return self.writing(handle, file) if set(mode) & set("wax+") else handle
        raise self.error(str(file))

    def writing(self, handle, file):
        real = handle.write

        def write(data):
            if self.due(f"write {file}"):
                raise self.error(str(file))
            return real(data)

        try:
            handle.write = write
        except AttributeError:  # a binary file written in C; its `open` counts
            return handle
        return handle


def number_of_calls(folder, action):
    """How many calls an action makes that can fail."""
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, 0, 0)
        action(folder)
    return faults.calls


def replace_model_final(run):
    save(run, 3, 3.0, "model_final")


def new_checkpoint(run):
    save(run, 3, 3.0)


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("action", [new_checkpoint, replace_model_final])
def test_whatever_call_of_a_save_fails_nothing_announced_is_lost(tmp_path, action, lasting):
    def begin(name):
        run = tmp_path / name
        save(run, 2, 2.0)
        save(run, 2, 2.0, "model_final")
        return run

    calls = number_of_calls(begin("count"), action)
    assert {call.split()[0] for call in calls} >= {"mkdir", "open", "write", "fsync", "rename", "save_file"}
    assert len(calls) >= 12
    quiet = []
    for number in range(1, len(calls) + 1):
        cause = CAUSES[number % 3]
        run = begin(f"{number}")
        said = ""
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, number, cause, lasting)
            try:
                action(run)
            except SlimDistillError as error:
                said = str(error)
        here = f"call {number}: {calls[number - 1]}"
        path = run / ("3" if action is new_checkpoint else "model_final")
        if not said:
            quiet.append(number)
        else:
            assert os.strerror(cause) in said, here
            assert str(path) in said, here
        clean_folder(run)  # what the next start does
        assert newest_sound(run) is not None, here
        assert load_checkpoint(run / "2").model["w"][0, 0] == 2, here
        found = load_checkpoint(run / "model_final").model["w"][0, 0]
        if action is replace_model_final:
            assert found == 3 or (said and found == 2), here
            assert not said or lasting or found == 2, here
        else:
            assert found == 2, here
            assert said or load_checkpoint(path).model["w"][0, 0] == 3, here
            assert not said or lasting or not path.exists(), here
        assert {p.name for p in run.iterdir()} <= {"2", "3", "model_final"}, here
    # Only what follows the last rename and its sync may fail without an error: the removal of what has been replaced.
    last = max(n for n, call in enumerate(calls, 1) if call.startswith("rename"))
    assert [call.split()[0] for call in calls[last : last + 2]] == ["open", "fsync"]
    assert all(number > last + 2 for number in quiet)
    assert quiet or action is new_checkpoint
    # Four files and their folder are on the disk before it gets its name.
    assert sum(call.startswith("fsync") for call in calls[:last]) == 5


@pytest.mark.parametrize("cause", CAUSES)
def test_the_error_of_a_save_says_what_to_do(tmp_path, monkeypatch, cause):
    Faults(monkeypatch, 1, cause)
    with pytest.raises(WeightsError, match="cannot write folder .*/3: .*; .*; what was there before is unchanged"):
        save(tmp_path, 3, 3.0)


def test_an_old_checkpoint_that_cannot_be_removed_is_whole_or_gone(tmp_path):
    def begin(name):
        for step in (1, 2, 3):
            save(tmp_path / name, step, float(step))
        return tmp_path / name

    def remove(run):
        remove_old(run, 2)

    calls = number_of_calls(begin("count"), remove)
    assert len(calls) >= 5
    for number in range(1, len(calls) + 1):
        run = begin(str(number))
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, number, errno.EIO)
            with pytest.raises(WeightsError, match=f"cannot remove {run}/1: Input/output error"):
                remove(run)
        clean_folder(run)
        left = {p.name for p in run.iterdir()}
        assert left in ({"1", "2", "3"}, {"2", "3"})
        assert all(load_checkpoint(run / name).step == int(name) for name in left)


def test_a_file_is_old_or_new_whatever_call_fails(tmp_path):
    def write(folder):
        with atomic_write(folder / "a", "w") as handle:
            handle.write("new")

    (tmp_path / "count").mkdir()
    calls = number_of_calls(tmp_path / "count", write)
    for number in range(1, len(calls) + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "a").write_text("old")
        said = ""
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, number, errno.ENOSPC)
            try:
                write(folder)
            except SlimDistillError as error:
                said = str(error)
        assert "No space left" in said or not said
        old = "what was there before is unchanged" in said
        assert old or not said or "the new file is there, but a power cut may still undo it" in said
        assert (folder / "a").read_text() == ("old" if old else "new"), calls[number - 1]
        assert [p.name for p in folder.iterdir()] == ["a"]


def test_a_disk_that_takes_no_status_is_logged_once_and_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    status = StatusFile(tmp_path, "x")
    Faults(monkeypatch, 1, errno.ENOSPC, lasting=True)
    for step in range(3):
        status.report(step=step)
    (line,) = [message for message in caplog.messages if "training goes on" in message]
    assert "status.json: No space left on device" in line
    assert not Path(tmp_path / "status.json").exists()
