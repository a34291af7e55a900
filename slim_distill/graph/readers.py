"""Who reads a variable in the end."""

from slim_distill.graph import _pir
from slim_distill.graph.program import NamedProgram

__all__ = ["readers"]

# Operators that rearrange, cut out or join elements without changing them.
_MOVES = frozenset(
    {"assign", "cast", "combine", "concat", "flatten", "gather", "gather_nd", "reshape", "slice", "split"}
    | {"split_with_num", "squeeze", "stack", "strided_slice", "transpose", "unbind", "unsqueeze"}
)


def readers(program: NamedProgram, name: str) -> set[str]:
    """Kinds of the operators that read a variable, such as "sigmoid", looking through those that only move elements.

    Raises:
        VariableNotFoundError: there is no such variable.
    """
    kinds, seen, stack = set(), set(), [program[name]]
    while stack:
        for op in stack.pop().all_used_ops():
            if op.id() in seen:
                continue
            seen.add(op.id())
            kind = op.name().split(".")[-1].rstrip("_")
            if kind in _MOVES:
                stack.extend(_pir.results(op))
            else:
                kinds.add(kind)
    return kinds
