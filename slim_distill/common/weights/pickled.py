"""Pickled dictionaries of arrays (`.pdparams`, `.pdopt`), read without Python's unpickler.

A pickle is a program for a small stack machine. Ours has instructions for plain values and containers only, and builds
arrays itself from the few constructor calls that NumPy's own pickles contain; there is nothing in it that could import
a module or call a function, so a hostile file has nothing to run. Every byte count is checked against the file.
Layouts: Paddle 1.x, 2.x and 3.x, pickle protocols 2 to 5, written under Python 2 or 3 and NumPy 1 or 2.
"""

import pickletools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights._cursor import Cursor, element_count, open_cursor, widen_bfloat16
from slim_distill.common.weights._pickled_arrays import CONSTRUCTORS, Array, BuildError, Constructor, DType
from slim_distill.common.weights.program import check_names

__all__ = ["read_pickle"]

MAX_OPERATIONS = 200_000
MAX_DEPTH = 8
MAX_ENTRIES = 20_000
MAX_NAME = 1025
# What arrays may take together, in file sizes: each byte of the file is normally used once, tied weights share theirs.
MAX_GROWTH = 4

STRUCTURED_NAMES = "StructuredToParameterName@@"
SPLIT_TENSORS = "UnpackBigParamInfor@@"

# Bytes an element takes in what a constructor returns.
COPY_COSTS: Mapping[type, int] = {bytes: 1, tuple: 8, dict: 100}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = frozenset(
    [
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ]
)
EMPTIES: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = frozenset({"BINPUT", "LONG_BINPUT"})
GETS = frozenset({"BINGET", "LONG_BINGET"})


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a pickled dictionary.

    Entries that are arrays, or Paddle's (name, array) pairs, are returned under their key; those of nested dictionaries
    under `outer/inner`. Tensors that Paddle split for size are joined. Other entries (epoch numbers, the table of
    parameter names, ...) are left out. uint16 is what Paddle makes of bfloat16; it comes as float32.

    Raises:
        WeightsError: damaged; not a dictionary of arrays; or it asks for anything but arrays and plain containers.
    """
    with open_cursor(path) as cursor:
        machine = _Machine(cursor)
        root = machine.run()
        if cursor.left:
            raise cursor.error(f"{cursor.left} bytes follow the end of the pickle")
    if isinstance(root, tuple) and _is_pair(root):
        root = {root[0]: root[1]}
    if not isinstance(root, dict):
        raise WeightsError(f"{path}: the pickle holds a {_kind(root)}; a dictionary of arrays is needed")
    arrays: dict[str, np.ndarray] = {}
    for count, (name, entry) in enumerate(_walk(root, "", 0, str(path))):
        if count >= MAX_ENTRIES:
            raise WeightsError(f"{path}: more than {MAX_ENTRIES} entries")
        if isinstance(entry, Array):
            check_names([name], str(path))
            arrays[name] = machine.copy(entry, name)
    split = root.get(SPLIT_TENSORS)
    return arrays if split is None else _join(arrays, split, str(path))


class _Machine:
    """Runs one pickle over a cursor; `spend` accounts for memory that arrays take beyond the bytes of the file."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._budget = MAX_GROWTH * cursor.size + (1 << 16)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the pickle builds."""
        try:
            for count, (operation, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], self._cursor))):
                if count >= MAX_OPERATIONS:
                    raise BuildError(f"more than {MAX_OPERATIONS} pickle operations")
                if operation.name == "STOP":
                    return self._finish()
                self._step(operation.name, argument)
        except (BuildError, ValueError, IndexError, TypeError, OverflowError) as cause:
            raise self._cursor.error(f"refused: {cause}") from cause
        raise self._cursor.error("truncated: the pickle has no end")

    def spend(self, count: int) -> None:
        """Take `count` bytes from the memory that this file may use."""
        self._budget -= count
        if self._budget < 0:
            raise self._cursor.error("refused: its arrays would take many times the size of the file")

    def copy(self, array: Array, name: str) -> np.ndarray:
        """Return the array in memory of its own, counted by `spend`; bfloat16 as float32."""
        try:
            self.spend(array.nbytes)
            value = array.value()
        except BuildError as cause:
            raise WeightsError(f"{self._cursor.where}: {name}: {cause}") from cause
        return widen_bfloat16(value) if value.dtype == np.uint16 else value

    def _finish(self) -> Any:
        if len(self._stack) != 1 or self._marks:
            raise BuildError(f"{len(self._stack)} values are left at the end of the pickle, must be 1")
        return self._stack[0]

    def _step(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self._stack.append(argument)
        elif name in CONSTANTS:
            self._stack.append(CONSTANTS[name])
        elif name in EMPTIES:
            self._stack.append(EMPTIES[name]())
        elif name in TUPLES:
            self._push_tuple(self._pop_many(TUPLES[name]))
        elif name in PUTS:
            self._memo[argument] = self._top()
        elif name in GETS:
            self._stack.append(self._remembered(argument))
        else:
            handler = _HANDLERS.get(name)
            if handler is None:
                raise BuildError(f"pickle operation {name} has no place in a dictionary of arrays; nothing was run")
            handler(self, argument)

    def _push_tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(items))

    def _top(self) -> Any:
        self._need(1)
        return self._stack[-1]

    def _need(self, count: int) -> None:
        floor = self._marks[-1] if self._marks else 0
        if len(self._stack) - floor < count:
            raise BuildError("a pickle operation finds too few values on the stack")

    def _pop_many(self, count: int) -> list[Any]:
        self._need(count)
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise BuildError("a pickle operation finds no mark on the stack")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _remembered(self, key: int) -> Any:
        if key not in self._memo:
            raise BuildError(f"the pickle refers to value {key}, which it has not stored")
        return self._memo[key]

    def _protocol(self, argument: int) -> None:
        if not 2 <= argument <= 5:
            raise BuildError(f"pickle protocol {argument}; read are 2 to 5")

    def _frame(self, argument: int) -> None:
        if argument > self._cursor.left:
            raise BuildError(f"truncated: a frame of {argument} bytes, {self._cursor.left} are left")

    def _memoize(self, _: None) -> None:
        self._memo[len(self._memo)] = self._top()

    def _mark(self, _: None) -> None:
        self._marks.append(len(self._stack))

    def _pop(self, _: None) -> None:
        self._pop_many(1)

    def _tuple(self, _: None) -> None:
        self._push_tuple(self._pop_to_mark())

    def _append(self, _: None) -> None:
        self._extend(self._pop_many(1))

    def _appends(self, _: None) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise BuildError(f"the pickle appends to a {_kind(target)}")
        target.extend(items)

    def _set_item(self, _: None) -> None:
        self._update(self._pop_many(2))

    def _set_items(self, _: None) -> None:
        self._update(self._pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise BuildError(f"the pickle sets {len(items)} items of a {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a hostile nested tuple can take for ever, so keys are plain.
            if not isinstance(key, (str, int)):
                raise BuildError(f"a dictionary key is a {_kind(key)}, must be text or a whole number")
            target[key] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push_constructor(module, name)

    def _stack_global(self, _: None) -> None:
        module, name = self._pop_many(2)
        self._push_constructor(module, name)

    def _push_constructor(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BuildError("the name of a constructor is not text")
        if (module, name) not in CONSTRUCTORS:
            raise BuildError(
                f"the pickle asks for {f'{module[:60]}.{name[:60]}'!r}, which is neither an array nor a plain "
                "container; nothing was imported or run"
            )
        self._stack.append(CONSTRUCTORS[module, name])

    def _reduce(self, _: None) -> None:
        function, arguments = self._pop_many(2)
        if not isinstance(function, Constructor) or not isinstance(arguments, tuple):
            raise BuildError(f"the pickle calls a {_kind(function)}; nothing was run")
        made = function.make(*arguments)
        # A stored argument may be copied by a thousand calls.
        if isinstance(made, (bytes, tuple, dict)):
            self.spend(COPY_COSTS[type(made)] * len(made))
        self._stack.append(made)

    def _build(self, _: None) -> None:
        target, state = self._pop_many(2)
        if not isinstance(target, (Array, DType)) or not isinstance(state, tuple):
            raise BuildError(f"the pickle sets the state of a {_kind(target)}")
        target.set_state(*state)
        self._stack.append(target)


_HANDLERS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._protocol,
    "FRAME": _Machine._frame,
    "MEMOIZE": _Machine._memoize,
    "MARK": _Machine._mark,
    "POP": _Machine._pop,
    "TUPLE": _Machine._tuple,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}


def _is_pair(value: Any) -> bool:
    """Whether this is the (name, array) that Paddle 2.1 and later make of a tensor."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Array)


def _walk(table: dict[Any, Any], prefix: str, depth: int, where: str) -> Iterator[tuple[str, Any]]:
    """Yield every entry of nested dictionaries under its joined key, (name, array) pairs as their array.

    Entries that are no arrays are yielded too, so that the caller can stop a walk that has no end.
    """
    if depth > MAX_DEPTH:
        raise WeightsError(f"{where}: dictionaries nested more than {MAX_DEPTH} deep")
    for key, value in table.items():
        name = f"{prefix}{str(key)[:MAX_NAME]}"
        yield name, value[1] if _is_pair(value) else value
        if isinstance(value, dict) and key not in (STRUCTURED_NAMES, SPLIT_TENSORS):
            yield from _walk(value, f"{name}/", depth + 1, where)


def _join(arrays: dict[str, np.ndarray], split: Any, where: str) -> dict[str, np.ndarray]:
    """Join the tensors that Paddle cut because protocols 2 and 3 cannot hold more than 4 GB in one object."""
    joined = dict(arrays)
    problem = f"{where}: the table of split tensors, {SPLIT_TENSORS}, is damaged"
    if not isinstance(split, dict) or not all(isinstance(entry, dict) for entry in split.values()):
        raise WeightsError(problem)
    for name, entry in split.items():
        parts, shape = entry.get("slices"), entry.get("OriginShape")
        if not isinstance(parts, (list, tuple)) or not isinstance(shape, (list, tuple)):
            raise WeightsError(f"{problem}: {name!r:.80} has no slices or no shape")
        if not all(isinstance(part, str) and part in joined for part in parts):
            raise WeightsError(f"{problem}: {name!r:.80} lacks a slice")
        slices = [joined.pop(part).reshape(-1) for part in dict.fromkeys(parts)]
        if not all(type(axis) is int for axis in shape) or sum(map(len, slices)) != element_count(shape, 1):
            raise WeightsError(f"{problem}: the slices of {name!r:.80} do not make up its shape")
        joined[name] = np.concatenate(slices).reshape(shape)
    return joined


def _kind(value: Any) -> str:
    return "constructor" if isinstance(value, Constructor) else type(value).__name__.lower()
