"""Look-ups in tables of names, with a helpful error on a miss."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from slim_distill.common.errors import SlimDistillError

__all__ = ["first_few", "nearest", "pick"]

T = TypeVar("T")


def first_few(names: Sequence[str], count: int = 5) -> str:
    """Return the first `count` names with commas between them, and "..." where there are more."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return up to `count` of the `known` names that look most like `name`, the best first."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.4)


def pick(table: Mapping[str, T], name: str, what: str, error: type[SlimDistillError] = SlimDistillError) -> T:
    """Return `table[name]`; on a miss raise `error` naming the nearest and all known names.

    Args:
        table: known things by name.
        name: the name asked for.
        what: what a thing of the table is called in the message, with the config path if there is one
            ("distill.terms[1].loss: loss").
        error: the class to raise.
    """
    if name in table:
        return table[name]
    near = nearest(name, table)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise error(f"{what} {name!r} is not known; {hint}known: {', '.join(sorted(table))}")
