"""Give element-wise operators operands whose broadcast Paddle's CPU kernels do in plain loops."""

from collections.abc import Sequence

import paddle

from slim_distill.graph import _pir
from slim_distill.graph.program import dtype_of

__all__ = ["cheap_broadcasts"]

_KINDS = frozenset(f"pd_op.{name}" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum"))


def cheap_broadcasts(program: _pir.Program) -> int:
    """Rewrite, in place, operands that are broadcast in a way that Paddle's CPU kernels compute an index for.

    Such a kernel takes 6 ns a number and its gradient as long, a plain loop 1 (Paddle 3.3.1). Plain are equal shapes,
    and a second operand whose axes, but for ones at its end, are those of the first from some axis on. So
        [1, C, 1, 1] beside [N, C, H, W] loses its leading ones;
        anything else that is repeated, such as [N, 1, H, W] or a first operand, is repeated by an operator of its own.
    Nothing changes where both operands are repeated, or one holds a single number.

    Run it before the backward pass is built, which then has the cheap gradients too.

    Keeps: every number of the forward pass bit for bit, gradients up to the order of their sums; every name.

    Returns:
        The number of operators rewritten.
    """
    changed = 0
    for op in _pir.ops(program):
        if op.name() not in _KINDS or dtype_of(op.operand_source(0)) != "float32":
            continue
        shapes = [list(op.operand_source(side).shape) for side in (0, 1)]
        for small, full in ((1, 0), (0, 1)):
            if not _is_repeated(shapes[small], shapes[full]):
                continue
            leading = next(i for i, size in enumerate(shapes[small]) if size != 1)
            rest = _without_trailing_ones(shapes[small][leading:])
            plain = rest == shapes[full][leading : leading + len(rest)]
            if plain and leading == 0 and small == 1:
                break
            value = op.operand_source(small)
            with _pir.inserting_before(program, op):
                if plain and leading > 0 and rest.count(-1) <= 1:
                    cheap = paddle.reshape(value, shapes[small][leading:])
                else:
                    cheap = paddle.expand_as(value, op.operand_source(full))
            cheap.stop_gradient = value.stop_gradient
            op.operands()[small].set_source(cheap)
            changed += 1
            break
    return changed


def _is_repeated(small: Sequence[int], full: Sequence[int]) -> bool:
    """Whether `small` is repeated along some axis to the shape `full`, and is more than one number."""
    if len(small) != len(full) or all(size == 1 for size in small):
        return False
    return small != full and all(a in (1, b) for a, b in zip(small, full, strict=True))


def _without_trailing_ones(shape: Sequence[int]) -> list[int]:
    kept = list(shape)
    while kept and kept[-1] == 1:
        kept.pop()
    return kept
