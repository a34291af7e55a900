"""Plain records that the model functions and the program rewriting both speak of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FeedSpec", "ModelSpec"]


@dataclass(frozen=True)
class FeedSpec:
    """What a program takes under one name: shape (None for a dynamic axis) and NumPy dtype name."""

    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class ModelSpec:
    """A network as data: what it is fed and the function that builds it.

    Attributes:
        feeds: name -> FeedSpec of every input.
        build: called once, inside a program guard, with {feed name: variable}; returns {name: variable}.
            Several names for one variable are allowed: the first is its canonical name, the others are aliases.
        info: facts other parts may need, such as {"num_classes": 20, "architecture": "yolov3"}.
    """

    feeds: Mapping[str, FeedSpec]
    build: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    info: Mapping[str, Any] = field(default_factory=dict)
