"""What a transform is, and how its arguments are checked."""

import contextlib
import dataclasses
import types
import typing
from typing import Any

import numpy as np

from slim_distill.common.names import nearest

__all__ = ["BatchTransform", "Sample", "SampleTransform", "create"]

Sample = dict[str, Any]


class SampleTransform:
    """A step on one sample. Subclasses are frozen dataclasses whose fields are the arguments.

    A sample is a record of the data set, from DecodeImage on with `image` (uint8 [H, W, 3] at first), `h`, `w` (size
    of `image` before the last resize) and `im_size` [2] (size on disk). Steps return a new dict and leave the arrays
    of the old one alone.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the transformed sample; every random choice comes from `rng`."""
        raise NotImplementedError


class BatchTransform:
    """A step on all samples of a batch at once. Subclasses are frozen dataclasses whose fields are the arguments."""

    def __call__(self, samples: list[Sample], rng: np.random.Generator) -> list[Sample]:
        """Return the transformed samples; every random choice comes from `rng`."""
        raise NotImplementedError


def create(kind: type[Any], args: typing.Mapping[str, Any]) -> Any:
    """Return `kind(**args)`, with lists made tuples.

    Raises:
        ValueError: an argument is unknown, missing, of the wrong type, or refused by the transform.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    checked = {}
    for name, value in args.items():
        if name not in fields:
            near = nearest(name, fields)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"argument {name!r} is not known; {hint}it takes {', '.join(fields) or 'no arguments'}")
        try:
            checked[name] = _convert(value, hints[name])
        except TypeError as error:
            raise ValueError(f"argument {name!r} is {value!r}; {_describe(hints[name])} is wanted") from error
    absent = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in checked]
    if absent:
        raise ValueError(f"argument {absent[0]!r} is missing")
    return kind(**checked)


def _convert(value: Any, hint: Any) -> Any:
    """Return `value` as the annotation `hint` has it, lists as tuples; raise TypeError when it does not fit."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in inner:
            with contextlib.suppress(TypeError):
                return _convert(value, option)
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(_convert(v, kind) for v, kind in zip(value, kinds, strict=True))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError


def _describe(hint: Any) -> str:
    """Name a type as a user of YAML knows it: "int or list of int"."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in inner)
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"list of {count}{_describe(inner[0])}"
    return "null" if hint is type(None) else hint.__name__
