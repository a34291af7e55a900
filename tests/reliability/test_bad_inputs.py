"""Whatever a command is given: one screen that says what is wrong, exit code 2, and no file touched but its output.

The cases are in `cases_*.py`: by name, a command, the files that make it a bad one, and what must be said. Each runs in
this process in a world of its own (`world.py`). docs/errors.md is the contract.
"""

import importlib
import json
import os
import pkgutil
import re
import shutil
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from slim_distill import cli
from slim_distill.cli import COMMANDS
from slim_distill.cli._screen import SCREEN_CHARACTERS, one_screen
from slim_distill.engine import distributed
from tests.reliability import cases_config, cases_data, cases_options, cases_weights, serve
from tests.reliability.cases_data import COCO, TEST_JSON, VOC, XML
from tests.reliability.world import SCREEN_LINES, Outcome, attempt, make_world

TABLES = {
    "config": cases_config.CASES,
    "weights": cases_weights.CASES,
    "data": cases_data.CASES,
    "options": cases_options.CASES,
}
CASES = {f"{kind}-{name}": case for kind, table in TABLES.items() for name, case in table.items()}

GENERATED = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The world before anything is broken in it, with first weights of its detector."""
    root = tmp_path_factory.mktemp("base")
    make_world(root)
    was = Path.cwd()
    os.chdir(root)
    try:
        save_file(_first_weights(), "model.safetensors")
    finally:
        os.chdir(was)
    return root


def _first_weights() -> dict[str, np.ndarray]:
    from slim_distill.config import load_config
    from slim_distill.engine.build import build_student
    from slim_distill.engine.session import Session, start_static_mode

    start_static_mode()
    student, session = build_student(load_config("run.yml")), Session("cpu")
    session.start(student, 0)
    return {name: np.ascontiguousarray(array) for name, array in session.read(student.parameters()).items()}


@pytest.fixture
def world(base, tmp_path, monkeypatch):
    """A copy of the world, which is the working folder and holds the home folder, cache and temporary files."""
    import matplotlib.pyplot  # noqa: F401  it and visualdl write to the home folder when they are first imported
    import visualdl  # noqa: F401

    root = tmp_path / "w"
    shutil.copytree(base, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root / "home"))
    monkeypatch.setenv("SLIM_DISTILL_CACHE", "cache")
    monkeypatch.setattr(tempfile, "tempdir", str(root / "tmp"))
    return root


@pytest.fixture(scope="module")
def server():
    return serve.start()


def check(outcome: Outcome) -> None:
    """What holds however a command is used."""
    if outcome.raised is not None:
        raise AssertionError("a traceback would be shown") from outcome.raised
    assert "Traceback" not in outcome.err
    assert outcome.screen_lines <= SCREEN_LINES, outcome.err
    assert not outcome.changed


def names_it_or_reads_it(command: str, what: str) -> None:
    """Check that a command names the damaged file, or can read it and comes to the next question: there is no finished
    run to report of.
    """
    outcome = attempt(tuple(command.split()))
    check(outcome)
    assert outcome.code == 2
    assert re.search(f"{what}|no run of out/tiny is finished", outcome.message), outcome.err


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_explained_on_one_screen_and_touches_nothing(world, server, name):
    case = CASES[name]
    for path, content in case.files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Path(path).unlink()
        else:
            Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())
    if case.prepare is not None:
        case.prepare()
    outcome = attempt(tuple(argument.replace("{server}", server) for argument in case.command))
    check(outcome)
    assert outcome.code == 2
    for expression in case.say:
        assert re.search(expression, outcome.message), outcome.err


def test_there_are_enough_cases_and_some_for_every_command():
    distinct = {(case.command, str(case.files), name if case.prepare else "") for name, case in CASES.items()}
    by_command = {name: sum(case.command[:1] == (name,) for case in CASES.values()) for name in COMMANDS}
    print(f"{len(CASES)} bad inputs: {by_command}")  # noqa: T201  shown by -s
    assert len(distinct) == len(CASES) >= 150
    assert min(by_command.values()) >= 2, by_command


def test_every_exit_code_is_in_the_table():
    text = (Path(__file__).resolve().parents[2] / "docs/errors.md").read_text()
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    modules = [
        cli,
        distributed,
        *(importlib.import_module(f"slim_distill.cli.{m.name}") for m in pkgutil.iter_modules(cli.__path__)),
    ]
    used = {value for m in modules for name, value in vars(m).items() if name.endswith("_EXIT")}
    assert {0} | used == listed


def test_long_messages_keep_their_beginning_and_end():
    message = "train: " + "x" * 10_000 + "\n" * 50 + "is wrong\x1b[31m"
    shown = one_screen(message)
    assert shown.startswith("train: xxx")
    assert shown.endswith("is wrong\\x1b[31m")
    assert "left out" in shown
    assert len(shown) < SCREEN_CHARACTERS + 100
    assert one_screen("one\ntwo") == "one\ntwo"


def test_a_folder_of_variables_is_replaced_as_before(world):
    for _ in range(2):
        assert attempt(("convert-weights", "model.safetensors", "out/folder")).code == 0
    assert (world / "out/folder/yolo_output.0.conv.bias").is_file()


def test_debug_adds_the_traceback_and_changes_nothing_else(world):
    plain, debug = (attempt(("train", "-c", "gone.yml", *extra)) for extra in ((), ("--debug",)))
    assert plain.code == debug.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback (most recent call last)" in debug.err
    assert debug.message == plain.message


@st.composite
def _mutated(draw, good):
    """Plain data with one value, anywhere in it, replaced by another kind of value or taken out."""
    data = json.loads(json.dumps(good))
    at = data
    while True:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or draw(st.integers(0, 3)) == 0:
            break
        at = at[key]
    odd = [None, True, 0, -1, 10**30, 1e308, float("nan"), float("-inf"), "", "x", "\0", "9" * 400, [], {}, [[1]]]
    new = draw(st.sampled_from(["out", *odd]))
    if new == "out":
        del at[key]
    else:
        at[key] = new
    return data


@pytest.fixture(scope="module")
def good_coco(base):
    return json.loads((base / TEST_JSON).read_text())


@GENERATED
@given(data=st.data())
def test_a_coco_file_with_any_value_replaced(world, good_coco, data):
    Path(TEST_JSON).write_text(json.dumps(data.draw(_mutated(good_coco))))
    names_it_or_reads_it(COCO, r"test\.json")


@GENERATED
@given(data=st.data())
def test_a_voc_annotation_with_any_text_replaced(world, base, data):
    tree = ET.fromstring((base / XML).read_text())
    element = data.draw(st.sampled_from(list(tree.iter())))
    element.text = data.draw(st.sampled_from(["", " ", "-1", "nan", "inf", "1e999", "9" * 400, "disc", "\u0661"]))
    element.tag = data.draw(st.sampled_from([element.tag, "annotation", "object", "size", "bndbox"]))
    Path(XML).write_bytes(ET.tostring(tree))
    names_it_or_reads_it(VOC, "im008")


@GENERATED
@given(data=st.data())
def test_an_image_with_any_bytes_damaged(world, base, data):
    image = bytearray((base / "data/JPEGImages/im008.jpg").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 300) | st.integers(0, len(image) - 1))
        image[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    Path("data/JPEGImages/im008.jpg").write_bytes(image)
    Path(XML).write_text(Path(base / XML).read_text().replace("<size>", "<no>").replace("</size>", "</no>"))
    names_it_or_reads_it(VOC, r"im008\.jpg")


TEXTS = st.text(max_size=20) | st.sampled_from(
    ["-1", "0", "nan", "1e999", "a" * 3000, "\x1b[2J", "\ud800", "../..", "--"]
)
OPTIONS = {
    "train": ["-c", "-o", "-r"],
    "distill": ["-c", "-t", "--teacher_pretrained", "--plugin"],
    "compare": ["-c", "--recipes", "--seeds", "--models", "--eval_opt"],
    "eval": ["-c", "-o"],
    "infer": ["-c", "--infer_img", "--draw_threshold"],
    "export": ["-c", "--size"],
    "list-vars": ["-c", "-t", "--shape", "--size", "--batch", "--format"],
    "convert-weights": ["--sha256", "--names", "--format", "--cache-dir"],
    "losses": [""],
    "status": [""],
    "demo": ["--seed", "--iters"],
}


@GENERATED
@given(command=st.sampled_from(sorted(OPTIONS)), data=st.data())
def test_options_with_any_text(world, command, data):
    option = data.draw(st.sampled_from(OPTIONS[command]))
    value = data.draw(TEXTS).replace("\0", "")
    # A configuration that is not there ends a command whose option was no mistake.
    rest = {"-c": [], "": []}.get(option, ["-c", "gone.yml"])
    if command == "convert-weights":
        rest = ["gone", "out/x"]
    if command == "demo":
        rest = ["--output_dir", "run.yml"]
    outcome = attempt((command, *rest, *([f"{option}={value}"] if option else [value])))
    check(outcome)
    assert outcome.code == (0 if (command, value) == ("losses", "") else 2)
