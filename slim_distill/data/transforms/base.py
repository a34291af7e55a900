"""What a transform is, and how its arguments are checked."""

import dataclasses
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
        checked[name] = _check(name, value, hints[name])
    absent = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in checked]
    if absent:
        raise ValueError(f"argument {absent[0]!r} is missing")
    return kind(**checked)


def _check(name: str, value: Any, hint: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, float) and type(value) is not hint:
        raise ValueError(f"argument {name!r} is {value!r}; a {hint.__name__} is wanted")
    return _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
