"""Files and folders appear complete or not at all."""

import errno
import os
import subprocess
import sys
import time

import pytest

from slim_distill.common import files
from slim_distill.common.errors import SlimDistillError, WeightsError
from slim_distill.common.files import atomic_folder, atomic_write, cache_folder, file_lock, recover_folder


def fail(_, error):
    raise error


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path, "w") as handle:
        handle.write("eins ß")
        assert not path.exists()
    assert path.read_bytes() == "eins ß".encode()
    with atomic_write(path) as handle:
        handle.write(b"two")
        assert path.read_bytes() == "eins ß".encode()
    assert path.read_bytes() == b"two"
    assert entries(path.parent) == ["a.txt"]


def test_an_error_inside_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_write(path) as handle:
        fail(handle.write(b"half"), KeyError("x"))
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["a"]


def test_a_full_disk_is_explained_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with (
        pytest.raises(WeightsError, match=rf"cannot write {path}: No space left on device; .* before is unchanged"),
        atomic_write(path, error=WeightsError),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["a"]


def test_a_real_full_device_is_explained(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with (
        pytest.raises(SlimDistillError, match="No space left on device"),
        atomic_write(tmp_path / "a"),
        open("/dev/full", "wb") as full,
    ):
        full.write(b"x" * 100_000)
    assert entries(tmp_path) == []


def test_a_place_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    file = pytest.raises(SlimDistillError, match=r"cannot write .*file/a: (Not a directory|File exists)")
    folder = pytest.raises(SlimDistillError, match=r"cannot write folder .*file/a: (Not a directory|File exists)")
    with file, atomic_write(tmp_path / "file" / "a"):
        pass
    with folder, atomic_folder(tmp_path / "file" / "a"):
        pass


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"old")
    (tmp_path / "a").symlink_to(tmp_path / "real" / "a")
    with atomic_write(tmp_path / "a") as handle:
        handle.write(b"new")
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "real" / "a").read_bytes() == b"new"


def test_modes_other_than_writing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode 'a'"), atomic_write(tmp_path / "a", "a"):
        pass


def test_a_folder_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "run" / "step_1"
    for content in ("one", "two"):
        with atomic_folder(path) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / content).write_text(content)
            assert not (path / "sub" / content).exists()
        assert entries(path / "sub") == [content]
    assert entries(path.parent) == ["step_1"]


def test_an_error_inside_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    (path / "old").mkdir(parents=True)
    with (
        pytest.raises(WeightsError, match=rf"cannot write folder {path}: No space left"),
        atomic_folder(path, error=WeightsError) as folder,
    ):
        fail((folder / "new").mkdir(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert entries(tmp_path) == ["a"]
    assert entries(path) == ["old"]


def test_when_the_new_folder_cannot_be_moved_in_the_old_one_comes_back(tmp_path, monkeypatch):
    path = tmp_path / "a"
    (path / "old").mkdir(parents=True)
    real = os.rename

    def fail_for_new(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(files.os, "rename", fail_for_new)
    with pytest.raises(SlimDistillError, match="Input/output error"), atomic_folder(path) as folder:
        (folder / "new").mkdir()
    assert entries(tmp_path) == ["a"]
    assert entries(path) == ["old"]


def test_a_crash_at_any_system_call_leaves_one_complete_folder(tmp_path):
    # Children replace a folder and die at their n-th call that changes something, for every n until one gets through.
    code = """
import os, sys
from slim_distill.common.files import atomic_folder

def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*args, **kwargs)
    return call

for name in ("rename", "replace", "rmdir", "unlink", "mkdir", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
for number, path in enumerate(sys.argv[1:]):
    child = os.fork()
    if child == 0:
        left = number
        with atomic_folder(path) as folder:
            for name in ("x", "y"):
                (folder / name).write_text("new")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    paths = [tmp_path / str(number) / "a" for number in range(30)]
    for path in paths:
        path.mkdir(parents=True)
        for name in ("x", "y"):
            (path / name).write_text("old")
    run = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    codes = [int(line) for line in run.stdout.split()]
    assert len(codes) == len(paths)
    assert set(codes) == {0, 9}
    assert codes.count(9) >= 8
    found = []
    for path, code in zip(paths, codes, strict=True):
        recover_folder(path)
        assert entries(path) == ["x", "y"]
        (content,) = {(path / name).read_text() for name in ("x", "y")}
        assert content == "new" or code == 9
        found.append(content)
    assert set(found) == {"old", "new"}


def test_recovery_brings_back_or_removes_the_old_folder(tmp_path):
    path = tmp_path / "a"
    assert not recover_folder(path)
    (tmp_path / ".a.old" / "x").mkdir(parents=True)
    assert recover_folder(path)
    assert entries(path) == ["x"]
    (tmp_path / ".a.old" / "y").mkdir(parents=True)
    assert not recover_folder(path)
    assert entries(tmp_path) == ["a"]
    assert entries(path) == ["x"]


def test_a_lock_keeps_another_process_waiting(tmp_path):
    code = """
import sys, time
from slim_distill.common.files import file_lock
with file_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(0.5)
    open(sys.argv[2], "w").close()
"""
    lock, done = tmp_path / "sub" / "x.lock", tmp_path / "done"
    child = subprocess.Popen([sys.executable, "-c", code, str(lock), str(done)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    started = time.monotonic()
    with file_lock(lock):
        assert done.exists()
    assert time.monotonic() - started < 30
    child.stdout.close()
    assert child.wait() == 0


def test_the_cache_is_the_argument_or_the_variable_or_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIM_DISTILL_CACHE", str(tmp_path / "variable"))
    assert cache_folder(tmp_path) == tmp_path
    assert cache_folder() == tmp_path / "variable"
    monkeypatch.delenv("SLIM_DISTILL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "slim_distill" / "weights"
