"""Bad environments: each in a process of its own, because they are read when it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.world import SCREEN_LINES, snapshot
from tests.tiny import run_config, write_config

ROOT = Path(__file__).resolve().parents[2]
LIST = ("list-vars", "-c", "run.yml", "--grep", "yolo_head.0$")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of the process, with a configuration and a home folder."""
    monkeypatch.chdir(tmp_path)
    write_config(Path("run.yml"), run_config(Path("data"), Path("out")))
    Path("home").mkdir()
    return tmp_path


def start(arguments: tuple[str, ...], environ: dict[str, str | None], **options) -> subprocess.Popen:
    """Start a command with these variables set, or taken out."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(Path("home").resolve()), **environ}
    env = {name: value for name, value in variables.items() if value is not None}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, "-m", "slim_distill", *arguments], env=env, text=True, **streams)


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Wait for its end: exit code, output and errors."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out or "", err or ""


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "abc"), ("OMP_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "99999999"), ("MKL_NUM_THREADS", "-2")],
)
def test_numbers_of_threads_that_are_none(folder, name, value):
    before = snapshot(folder)
    code, _, err = ended(start(LIST, {name: value}))
    assert code == 2
    assert f"error: {name}: must be a number of threads, 1 to 9999, found '{value}'" in err
    assert len(err.splitlines()) == 1
    assert snapshot(folder) == before


def test_a_home_folder_that_is_none(folder):
    code, _, err = ended(start(LIST, {"HOME": "/dev/null"}))
    assert code == 2
    assert "error: HOME: Paddle keeps a cache there and cannot be loaded: Not a directory (/dev/null/.cache)" in err
    assert len(err.splitlines()) < SCREEN_LINES


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"HOME": None}, id="no_home"),
        pytest.param({"MPLBACKEND": "nonsense", "FLAGS_nonsense": "1", "FLAGS_check_nan_inf": "perhaps"}, id="garbage"),
        pytest.param({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, id="plain_c"),
        pytest.param({"TMPDIR": "/nonexistent", "CUDA_VISIBLE_DEVICES": "x", "TERM": "none"}, id="nowhere"),
    ],
)
def test_environments_that_do_no_harm(folder, environ):
    code, out, err = ended(start(LIST, environ))
    assert code == 0, err
    assert "yolo_head.0" in out
    assert err == ""


def test_flags_that_paddle_takes_for_something_else_are_named(folder):
    arguments = ("train", "-c", "run.yml")
    code, _, err = ended(start(arguments, {"FLAGS_new_executor_serial_run": "perhaps"}))
    assert code == 2
    assert "FLAGS_new_executor_serial_run=perhaps is kept as set: operators run in any order" in err
    assert "error: data/ImageSets/Main/train.txt" in err


def test_names_that_the_terminal_cannot_show(folder):
    environ = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    code, _, err = ended(start(("train", "-c", "caf\u00e9.yml"), environ))
    assert code == 2
    assert "there is no such configuration file" in err
    assert "Traceback" not in err


def test_a_full_disk_behind_the_output(folder):
    with Path("/dev/full").open("w") as full:
        code, _, err = ended(start(("losses",), {}, stdout=full))
    assert code == 2
    assert "error: No space left on device; free space there" in err


def test_a_reader_that_has_enough_is_no_error(folder):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        code, _, err = ended(start(("losses", "--json"), {}, stdout=pipe))
    assert (code, err) == (141, "")


def test_no_output_at_all(folder):
    code, _, err = ended(start(("losses", "l2"), {}, stdout=None, preexec_fn=lambda: os.close(1)))
    assert (code, err) == (0, "")


def test_a_working_folder_that_is_gone(folder):
    gone = folder / "gone"
    gone.mkdir()
    code, _, err = ended(start(("eval", "-c", "run.yml"), {}, preexec_fn=lambda: (os.chdir(gone), gone.rmdir())))
    assert code == 2
    assert "error: " in err
    assert "Traceback" not in err
