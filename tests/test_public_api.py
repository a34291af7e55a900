"""Every module says what is public, says it truly, documents it, and stays small."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "slim_distill"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 400, 50  # fewer than so many


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def public_names(tree: ast.Module) -> list[str] | None:
    """Return the literal `__all__`; None if there is none."""
    node = all_statement(tree)
    return None if node is None or node.value is None else list(ast.literal_eval(node.value))


def all_statement(tree: ast.Module) -> ast.Assign | ast.AnnAssign | None:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and [getattr(t, "id", "") for t in targets] == ["__all__"]:
            return node
    return None


def undocumented(tree: ast.Module) -> list[str]:
    """Return the public functions, classes and methods (`__all__` and what its classes define) without a docstring."""
    missing = []
    public = set(public_names(tree) or ())
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
            members = [m for m in getattr(node, "body", []) if isinstance(m, ast.FunctionDef)]
            inherits = isinstance(node, ast.ClassDef) and bool(node.bases)  # overriding takes over the base's docstring
            own = [] if isinstance(node, ast.FunctionDef) or inherits else members
            missing += [d.name for d in [node, *(m for m in own if not m.name.startswith("_"))] if not has_words(d)]
    return missing


def has_words(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return len((ast.get_docstring(node) or "").split()) >= 2


def unannotated(tree: ast.Module) -> list[str]:
    """Return "line: name" of functions with an argument or result that has no annotation."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = [
                *node.args.posonlyargs,
                *node.args.args,
                *node.args.kwonlyargs,
                node.args.vararg,
                node.args.kwarg,
            ]
            bare = [a.arg for a in arguments if a is not None and a.annotation is None and a.arg not in ("self", "cls")]
            if bare or node.returns is None:
                found.append(f"{node.lineno}: {node.name}")
    return found


def long_functions(tree: ast.Module) -> list[str]:
    """Return functions whose body, the docstring aside, has too many lines."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1] if ast.get_docstring(node) is not None and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines >= MAX_FUNCTION_LINES:
                found.append(f"{node.name}: {lines} lines")
    return found


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_module_says_what_it_is_and_what_is_public(path):
    tree = parse(path)
    assert len((ast.get_docstring(tree) or "").split()) >= 2, "no docstring that says something"
    if path.name == "__init__.py" and len(tree.body) == 1:
        return  # a folder, not a door
    names = public_names(tree)
    assert names is not None, "no __all__"
    assert len(names) == len(set(names))
    assert [n for n in names if n.startswith("_") and n != "__version__"] == []
    first = min((n.lineno for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))), default=10**9)
    assert all_statement(tree).lineno < first, "__all__ comes after the first definition"


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_public_names_exist(path):
    module = importlib.import_module(module_name(path))
    assert [n for n in getattr(module, "__all__", ()) if not hasattr(module, n)] == []


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_public_things_are_documented(path):
    assert undocumented(parse(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_functions_are_annotated(path):
    assert unannotated(parse(path)) == []


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_modules_and_functions_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_MODULE_LINES
    assert long_functions(parse(path)) == []


def test_checks_find_faults():
    tree = ast.parse(
        '__all__ = ["A", "f"]\n'
        "def f(x) -> int:\n    return 1\n"
        'class A:\n    """A class."""\n    def g(self) -> None:\n        return None\n'
        "def _h(x: int):\n" + "    x = x\n" * 50
    )
    assert undocumented(tree) == ["f", "g"]
    assert unannotated(tree) == ["2: f", "8: _h"]
    assert long_functions(tree) == ["_h: 50 lines"]
    assert public_names(tree) == ["A", "f"]
    assert public_names(ast.parse("x = 1")) is None
    assert public_names(ast.parse("__all__: list[str] = []")) == []
