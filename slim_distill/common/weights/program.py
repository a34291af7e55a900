"""Names of the variables in a combined file: from the program beside it, or from a list of names.

Two kinds of program file: ProgramDesc protobuf (`__model__`, `.pdmodel`; Paddle 1.x and 2.x) and PIR JSON (`.json`;
Paddle 3.x). Both are only looked through for persistable variables; nothing is built or run.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights._cursor import read_small
from slim_distill.common.weights._wire import fields, signed

__all__ = ["check_names", "find_shapes", "program_shapes"]

Shapes = dict[str, tuple[int, ...] | None]

MAX_PROTOBUF = 256 << 20
# JSON takes some twenty times its size in memory when it is hostile; real programs have about 1 MB.
MAX_JSON = 16 << 20
MAX_LIST = 16 << 20
# VarType.Type of variables that are never saved: feed_minibatch, fetch_list, reader, raw.
UNSAVED_TYPES = frozenset({9, 10, 15, 17})


def program_shapes(path: Path) -> Shapes:
    """Return the persistable variables of a program file sorted by name (the order Paddle saves them in), with shapes.

    Raises:
        WeightsError: the file is not a program, or has no persistable variable.
    """
    data = read_small(path, MAX_PROTOBUF, "a program file")
    found = _pir_parameters(data, path) if data[:1] == b"{" else dict(_persistables(memoryview(data), str(path)))
    if not found:
        raise WeightsError(f"{path}: a program without persistable variables; is it really a program file?")
    return {name: found[name] for name in sorted(check_names(list(found), str(path)))}


def find_shapes(path: Path) -> tuple[Shapes, str] | None:
    """Look for the names of the combined file `path`: a program beside it, else a list of names (one a line).

    Looked for, in order: `<stem>.pdmodel`, `<stem>.json`, `__model__` in its folder; then `order.txt` and
    `<stem>_order.txt` in its folder, and `order.txt` and `<folder>_order.txt` beside its folder.

    Returns:
        The names with shapes (None where unknown) and the file they are from; None if there is no such file.
    """
    folder = path.parent
    for program in (path.with_suffix(".pdmodel"), path.with_suffix(".json"), folder / "__model__"):
        if program.is_file() and program != path:
            return program_shapes(program), str(program)
    lists = (
        folder / "order.txt",
        folder / f"{path.stem}_order.txt",
        folder.parent / "order.txt",
        folder.parent / f"{folder.name}_order.txt",
    )
    for listing in lists:
        if listing.is_file() and listing != path:
            return dict.fromkeys(_listed(listing)), str(listing)
    return None


def check_names(names: Sequence[str], where: str) -> Sequence[str]:
    """Return `names` after checking that they are distinct, printable text.

    Raises:
        WeightsError: one is empty, occurs twice, or is not printable.
    """
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 1024:
            raise WeightsError(f"{where}: {name!r:.80} is not a variable name")
        if name in seen:
            raise WeightsError(f"{where}: the variable name {name!r} occurs twice")
        seen.add(name)
    return names


def _listed(path: Path) -> Sequence[str]:
    try:
        text = read_small(path, MAX_LIST, "a list of names").decode("utf-8")
    except UnicodeDecodeError as cause:
        raise WeightsError(f"{path}: a list of names must be UTF-8: {cause}") from cause
    return check_names([line.strip() for line in text.splitlines() if line.strip()], str(path))


def _persistables(program: memoryview, where: str) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Walk ProgramDesc.blocks (1) .vars (3) of framework.proto."""
    for number, block in fields(program, where):
        if number != 1 or isinstance(block, int):
            continue
        for inner, variable in fields(block, where):
            if inner == 3 and not isinstance(variable, int):
                yield from _persistable(variable, where)


def _persistable(variable: memoryview, where: str) -> Iterator[tuple[str, tuple[int, ...] | None]]:
    """Yield name and shape of a VarDesc (name 1, type 2, persistable 3) if it is one that is saved."""
    name, kind, persistable, shape = "", -1, False, None
    for number, value in fields(variable, where):
        if number == 1 and not isinstance(value, int):
            name = _text(value, where)
        elif number == 2 and not isinstance(value, int):
            kind, shape = _type(value, where)
        elif number == 3:
            persistable = bool(value)
    if persistable and kind not in UNSAVED_TYPES:
        yield name, shape


def _type(data: memoryview, where: str) -> tuple[int, tuple[int, ...] | None]:
    """Return kind and shape of a VarType: type 1, lod_tensor 3 {tensor 1 {dims 2}}."""
    kind, shape = -1, None
    for number, value in fields(data, where):
        if number == 1 and isinstance(value, int):
            kind = value
        elif number == 3 and not isinstance(value, int):
            for inner, tensor in fields(value, where):
                if inner == 1 and not isinstance(tensor, int):
                    shape = tuple(signed(axis) for n, axis in fields(tensor, where) if n == 2 and isinstance(axis, int))
    return kind, shape


def _text(data: memoryview, where: str) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as cause:
        raise WeightsError(f"{where}: a variable name is not UTF-8: {cause}") from cause


def _pir_parameters(data: bytes, path: Path) -> Shapes:
    """Return the parameters ("#": "p", name last in "A") of a PIR program's first block."""
    if len(data) > MAX_JSON:
        raise WeightsError(f"{path}: a JSON program of {len(data)} bytes; more than {MAX_JSON} is not believable")
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise WeightsError(f"{path}: not a PIR program: {cause}") from cause
    try:
        if root["base_code"]["magic"] != "pir":
            raise WeightsError(f"{path}: not a PIR program: base_code.magic is not 'pir'")
        operations = root["program"]["regions"][0]["blocks"][0]["ops"]
        found = {op["A"][3]: _pir_shape(op["O"]) for op in operations if op["#"] == "p"}
    except (KeyError, IndexError, TypeError, ValueError) as cause:
        raise WeightsError(f"{path}: a PIR program of unknown layout ({type(cause).__name__}: {cause})") from cause
    return found


def _pir_shape(result: Any) -> tuple[int, ...] | None:
    """Return the shape in the type of a parameter's result: TT.D is [element type, dims, layout, LoD, offset]."""
    dims = result["TT"]["D"][1]
    return tuple(int(axis) for axis in dims) if isinstance(dims, list) else None
