"""Which shapes of student and teacher fit a loss. -1 is an axis known only while running: it fits any length."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["SHAPE_RULES", "Shape", "ShapeRule", "equal_shapes", "fits"]

Shape: TypeAlias = tuple[int, ...]
# Takes one student and one teacher shape; returns None where they fit, else what the loss needs.
ShapeRule: TypeAlias = Callable[[Shape, Shape], str | None]


def fits(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes have one rank and no axis whose known lengths differ."""
    return len(first) == len(second) and all(a == b or -1 in (a, b) for a, b in zip(first, second, strict=True))


def equal_shapes(student: Shape, teacher: Shape) -> str | None:
    """The rule of most losses: both variables have one shape."""
    return None if fits(student, teacher) else "needs equal shapes"


def equal_channels(student: Shape, teacher: Shape) -> str | None:
    """Maps [N, C, H, W] of equal channels and any size."""
    if len(student) == len(teacher) == 4 and fits(student[:2], teacher[:2]):
        return None
    return "needs maps [N, C, H, W] of equal channels"


# Losses that ask for something else than equal shapes.
SHAPE_RULES: Mapping[str, ShapeRule] = {"fsp": equal_channels}
