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


def equal_maps(student: Shape, teacher: Shape) -> str | None:
    """Maps [N, C, H, W] of one shape."""
    return None if len(student) == 4 and fits(student, teacher) else "needs maps [N, C, H, W] of equal shape"


def equal_channels(student: Shape, teacher: Shape) -> str | None:
    """Maps of equal channels and any size."""
    joined = len(student) == len(teacher) == 4 and fits(student[:2], teacher[:2])
    return None if joined else "needs maps [N, C, H, W] of equal channels"


def equal_sizes(student: Shape, teacher: Shape) -> str | None:
    """Maps of equal size and any channels."""
    joined = len(student) == len(teacher) == 4 and fits((student[0], *student[2:]), (teacher[0], *teacher[2:]))
    return None if joined else "needs maps [N, C, H, W] of equal size"


def any_maps(student: Shape, teacher: Shape) -> str | None:
    """Maps of any channels and any size."""
    joined = len(student) == len(teacher) == 4 and fits(student[:1], teacher[:1])
    return None if joined else "needs maps [N, C, H, W]"


def same_batch(student: Shape, teacher: Shape) -> str | None:
    """One embedding or map for each sample, of any shape."""
    joined = min(len(student), len(teacher)) >= 2 and fits(student[:1], teacher[:1])
    return None if joined else "needs [N, ...] of one batch"


def equal_but_frames(student: Shape, teacher: Shape) -> str | None:
    """Sequences [N, L, K] of one dictionary, of any lengths."""
    joined = len(student) == len(teacher) == 3 and fits(student[::2], teacher[::2])
    return None if joined else "needs [N, L, K] of one dictionary"


# Losses that ask for something else than equal shapes.
SHAPE_RULES: Mapping[str, ShapeRule] = {
    "ab": equal_maps,
    "at": any_maps,
    "cc": same_batch,
    "crd": same_batch,
    "ctc_dkd": equal_but_frames,
    "ctc_mean_kl": equal_but_frames,
    "cwd": equal_maps,
    "fbkd": equal_maps,
    "fgd": equal_maps,
    "fsp": equal_channels,
    "ft": any_maps,
    "ickd": equal_channels,
    "mgd": equal_maps,
    "nst": any_maps,
    "ofd": equal_maps,
    "pkt": same_batch,
    "pseudo_label": equal_sizes,
    "reviewkd": equal_sizes,
    "rkd": same_batch,
    "sp": same_batch,
    "vid": any_maps,
}
