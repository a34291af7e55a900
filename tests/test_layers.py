"""The import table of docs/architecture.md, enforced on the source text: imports inside functions count too.

The table in the document is the rule; this file only reads it. The packages' `__init__` is not executed here.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "slim_distill"
MODULES = sorted(PACKAGE.rglob("*.py"))
TOOLS = sorted((ROOT / "tools").glob("*.py"))
PADDLE_FREE = ("common", "config", "data", "metrics", "report")
CONFIG_IN_BUILD_ONLY = ("data", "models", "losses")
NO_SIBLINGS = ("data", "models", "metrics", "graph", "losses")
PIR_DOOR = PACKAGE / "graph" / "_pir.py"
PIR_INTERNALS = ("paddle.base", "paddle.pir", "paddle.pir_utils", "paddle.framework.core")
MAX_TOOL_LINES = 80


def read_table() -> dict[str, set[str]]:
    """Return {package: what it may import} from docs/architecture.md; "config" there may be limited to build.py."""
    table: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| `(\w+)` \|.*\| ([^|]+) \|$", line)
        if match:
            name, allowed = match.groups()
            table[name] = set(table) if allowed == "all of the above" else set(re.findall(r"[a-z]+", allowed))
    return table


TABLE = read_table()


def room_of(path: Path) -> str:
    """Return the package a module is in, or its own name if it lies beside the packages; "" for the outermost door."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {"__init__": "", "__main__": "cli"}.get(first, first)


def is_room(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return line and full dotted name of everything imported: `from a import b` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{a.name}") for a in node.names)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` of an attribute chain, "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    head = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{head}.{node.attr}" if head else ""


def imports_by_string(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return line and name of `importlib.import_module("name")` and `__import__("name")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            for text in (a.value for a in ast.walk(node) if isinstance(a, ast.Constant) and isinstance(a.value, str)):
                yield node.lineno, text


def used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Return line and full dotted name of everything imported and of every attribute chain."""
    yield from imported(tree)
    yield from imports_by_string(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node):
            yield node.lineno, dotted(node)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def violations(path: Path, tree: ast.AST) -> list[str]:
    """Return "line: what" for each import of ours that the table does not allow, or that is relative."""
    room = room_of(path)
    if not room:
        return []
    found = []
    allowed = TABLE[room] | {room}
    if room in CONFIG_IN_BUILD_ONLY and path.name != "build.py":
        allowed -= {"config"}
    for line, name in [*imported(tree), *imports_by_string(tree)]:
        if name.startswith("."):
            found.append(f"{line}: relative import {name}")
        parts = name.split(".")
        if len(parts) > 1 and parts[0] == "slim_distill" and is_room(parts[1]) and parts[1] not in allowed:
            found.append(f"{line}: {name} ({room} may import {', '.join(sorted(allowed))})")
        if within(name, "tools") or within(name, "tests"):
            found.append(f"{line}: {name}")
    return found


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_every_room_has_a_row_and_every_row_a_room():
    rooms = {p.parent.name for p in PACKAGE.glob("*/__init__.py")} | {p.stem for p in PACKAGE.glob("[!_]*.py")}
    assert rooms | {"tools"} == set(TABLE)


def test_the_table_says_what_the_design_says():
    assert TABLE["common"] == set()
    assert TABLE["config"] == TABLE["metrics"] == TABLE["graph"] == {"common"}
    assert TABLE["report"] == {"common", "metrics"}
    assert {room for room in TABLE if "engine" in TABLE[room]} == {"api", "cli"}
    for room in NO_SIBLINGS:
        assert not TABLE[room] & set(NO_SIBLINGS)


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_imports_follow_the_table(path):
    assert violations(path, parse(path)) == []


@pytest.mark.parametrize("path", [p for p in MODULES if room_of(p) in PADDLE_FREE], ids=label)
def test_packages_without_paddle_do_not_name_it(path):
    assert [(line, name) for line, name in used(parse(path)) if within(name, "paddle")] == []


@pytest.mark.parametrize("path", [p for p in MODULES if p != PIR_DOOR], ids=label)
def test_only_one_module_touches_the_internals_of_the_ir(path):
    found = {(line, n) for line, n in used(parse(path)) if any(within(n, internal) for internal in PIR_INTERNALS)}
    assert not found
    outside = {(line, n) for line, n in imported(parse(path)) if within(n, "slim_distill.graph._pir")}
    assert room_of(path) == "graph" or not outside


@pytest.mark.parametrize("path", TOOLS, ids=label)
def test_tools_are_short_and_only_call_the_package(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_TOOL_LINES
    allowed = TABLE["tools"] | set().union(*(TABLE[room] for room in TABLE["tools"]))
    for line, name in used(ast.parse(text)):
        assert not within(name, "paddle"), f"line {line}"
        assert name not in ("sys.path", "warnings.filterwarnings", "os.environ"), f"line {line}"
        if within(name, "slim_distill"):
            assert name.split(".")[1] in allowed, f"line {line}: {name}"


def test_importing_the_package_starts_nothing():
    modules = ", ".join(f"slim_distill.{room}" for room in PADDLE_FREE)
    code = (
        "import random, sys, threading, warnings\n"
        "warnings.simplefilter('error')\n"
        "state, before = random.getstate(), threading.active_count()\n"
        "import slim_distill\n"
        "assert not {'numpy', 'paddle', 'yaml'} & set(sys.modules), 'slim_distill alone imports libraries'\n"
        f"import {modules}\n"
        "assert 'paddle' not in sys.modules, 'Paddle is imported'\n"
        "assert random.getstate() == state and threading.active_count() == before\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("path", "code", "fault"),
    [
        ("data/voc.py", "def f():\n    from slim_distill.graph import trace", "2: slim_distill.graph.trace"),
        ("data/voc.py", "import slim_distill.config", "1: slim_distill.config"),
        ("data/voc.py", "from slim_distill import losses", "1: slim_distill.losses"),
        ("data/voc.py", "from ..common import errors", "1: relative import ..common.errors"),
        ("losses/kd.py", "from slim_distill.models.yolo import head", "1: slim_distill.models.yolo.head"),
        ("graph/build.py", "from slim_distill.config import load_config", "1: slim_distill.config.load_config"),
        (
            "report/page.py",
            "import importlib\nimportlib.import_module('slim_distill.engine')",
            "2: slim_distill.engine",
        ),
        ("engine/loop.py", "from tools.train import main", "1: tools.train.main"),
        ("engine/loop.py", "from slim_distill.paddleslim import l2", "1: slim_distill.paddleslim.l2"),
        ("__main__.py", "from slim_distill.graph import trace", "1: slim_distill.graph.trace"),
    ],
)
def test_faults_are_found(path, code, fault):
    assert [v for v in violations(PACKAGE / path, ast.parse(code)) if v.startswith(fault)]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("data/build.py", "from slim_distill.config.schema import ReaderConfig"),
        (
            "data/voc.py",
            "from slim_distill.data.image import read_image\nfrom slim_distill.common.errors import DataError",
        ),
        ("engine/build.py", "from slim_distill.graph import merge\nfrom slim_distill.report import sheet"),
        ("engine/export.py", "from slim_distill import __version__"),
    ],
)
def test_what_the_table_allows_is_no_fault(path, code):
    assert violations(PACKAGE / path, ast.parse(code)) == []


def test_internals_are_found_as_imports_and_as_attributes():
    code = "import paddle\nfrom paddle.base.libpaddle import pir\nx = paddle.pir.core\nfrom paddle import pir"
    found = {line for line, n in used(ast.parse(code)) if any(within(n, i) for i in PIR_INTERNALS)}
    assert found == {2, 3, 4}
