"""The few things besides plain values that a pickle of arrays names, as inert stand-ins.

NumPy pickles an array as calls of its own constructors followed by a state. The stand-ins check and keep these
arguments; nothing of NumPy is called before sizes and element types are known to be right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slim_distill.common.weights._cursor import element_count

__all__ = ["CONSTRUCTORS", "Array", "BuildError", "Constructor", "DType"]

ELEMENT_TYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
BYTE_ORDERS = frozenset("<>=|")


class BuildError(Exception):
    """A pickle asks for something that is not an array or a plain container."""


@dataclass(frozen=True)
class Constructor:
    """A callable that a pickle names; `make` is ours."""

    make: Callable[..., Any]


class DType:
    """A NumPy element type under construction: numbers only."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code not in ELEMENT_TYPES:
            asked = repr(code[:20]) if isinstance(code, str) else type(code).__name__
            raise BuildError(f"arrays of element type {asked}; admitted: {', '.join(sorted(ELEMENT_TYPES))}")
        self._code = code
        self._order = "="

    def set_state(self, *state: Any) -> None:
        """Take the state (version, byte order, subtype, names, fields, ...) of `numpy.dtype`."""
        if len(state) < 5 or not isinstance(state[1], str) or state[1] not in BYTE_ORDERS or any(state[2:5]):
            raise BuildError("an element type that is not a plain number")
        self._order = state[1].replace("|", "=")

    def value(self) -> np.dtype:
        """Return the element type."""
        return np.dtype(self._order + self._code)


class Array:
    """An array under construction."""

    def __init__(self) -> None:
        self._value: np.ndarray | None = None

    def set_state(self, *state: Any) -> None:
        """Take the state (version, shape, dtype, Fortran order, bytes) of `numpy.ndarray`."""
        if len(state) != 5:
            raise BuildError(f"an array with a state of {len(state)} entries, must be 5")
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: str) -> None:
        """Become a read-only view of `data`, after checking that its length is what shape and type need."""
        if isinstance(data, str):
            # Python 2 wrote bytes as text, one character a byte.
            data = data.encode("latin-1")
        if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, DType) or not isinstance(shape, tuple):
            raise BuildError("an array whose shape, element type or data is of the wrong kind")
        if not all(type(axis) is int for axis in shape):
            raise BuildError("an array whose shape is not made of whole numbers")
        kind = dtype.value()
        need = element_count(shape, kind.itemsize) * kind.itemsize
        if need != len(data):
            raise BuildError(f"an array of shape {list(shape)} {kind.name} needs {need} bytes, {len(data)} are given")
        self._value = np.frombuffer(data, dtype=kind).reshape(shape, order="F" if order == "F" else "C")

    def transpose(self, axes: Any) -> None:
        """Reorder the axes of a filled array."""
        view = self._filled()
        if not all(type(axis) is int for axis in axes) or sorted(axes) != list(range(view.ndim)):
            raise BuildError("an array with an impossible order of axes")
        self._value = view.transpose(axes)

    @property
    def nbytes(self) -> int:
        """Bytes that `value` will take."""
        return self._filled().nbytes

    def value(self) -> np.ndarray:
        """Return the array as a new one: own memory, C order, the machine's byte order."""
        view = self._filled()
        if view.dtype == np.bool_:
            return view.view(np.uint8) != 0
        return view.astype(view.dtype.newbyteorder("="), order="C", copy=True)

    def _filled(self) -> np.ndarray:
        if self._value is None:
            raise BuildError("an array that was never given its data")
        return self._value


def _reconstruct(*arguments: Any) -> Array:
    if len(arguments) != 3 or not isinstance(arguments[0], Constructor) or arguments[0].make is not _refuse_direct:
        raise BuildError("an array of a class other than numpy.ndarray")
    return Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """Protocol 5: `numpy._core.numeric._frombuffer`; order "K" comes with the order of axes."""
    array = Array()
    if order == "K" and isinstance(axes, tuple):
        array.fill(data, dtype, shape, "C")
        array.transpose(axes)
    else:
        array.fill(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any = b"") -> Array:
    array = Array()
    array.fill(data, dtype, (), "C")
    return array


def _refuse_direct(*_: Any) -> Any:
    raise BuildError("the pickle calls numpy.ndarray itself")


def _encode(text: Any, encoding: Any = None) -> bytes:
    """Protocol 2 under Python 3 writes bytes as `_codecs.encode(text, "latin1")`."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise BuildError("the pickle encodes something other than bytes kept as Latin-1 text")
    return text.encode("latin-1")


def _empty_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise BuildError("the pickle calls bytes() with arguments")
    return b""


def _make_tuple(items: Any = ()) -> tuple[Any, ...]:
    if not isinstance(items, (tuple, list)):
        raise BuildError("the pickle makes a tuple of something that is not a list")
    return tuple(items)


def _make_dict(*arguments: Any) -> dict[Any, Any]:
    """`collections.OrderedDict()`, or with a list of pairs as Python 2 wrote it."""
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise BuildError("an OrderedDict that is not made of pairs")
    if not all(isinstance(key, (str, int)) for key, _ in pairs):
        raise BuildError("an OrderedDict with a key that is neither text nor a whole number")
    return dict(pairs)


def _paddle_tensor(*arguments: Any) -> Any:
    """Paddle pickles a bare DenseTensor as the call `eval("data", {"data": array})`; read as data, evaluated never."""
    if len(arguments) == 2 and arguments[0] == "data" and isinstance(arguments[1], dict):
        array = arguments[1].get("data")
        if isinstance(array, Array) and len(arguments[1]) == 1:
            return array
    raise BuildError("the pickle asks for builtins.eval; nothing was run")


_BUILTINS: Mapping[str, Callable[..., Any]] = {"tuple": _make_tuple, "bytes": _empty_bytes, "eval": _paddle_tensor}
_CORES = ("numpy.core", "numpy._core")

CONSTRUCTORS: Mapping[tuple[str, str], Constructor] = {
    ("numpy", "ndarray"): Constructor(_refuse_direct),
    ("numpy", "dtype"): Constructor(DType),
    ("_codecs", "encode"): Constructor(_encode),
    ("collections", "OrderedDict"): Constructor(_make_dict),
    **{(module, name): Constructor(make) for module in ("builtins", "__builtin__") for name, make in _BUILTINS.items()},
    **{(f"{core}.multiarray", "_reconstruct"): Constructor(_reconstruct) for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): Constructor(_scalar) for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): Constructor(_frombuffer) for core in _CORES},
}
