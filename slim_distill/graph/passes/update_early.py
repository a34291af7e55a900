"""Update each parameter as soon as nothing needs its old value any more, not at the end of the step."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from slim_distill.graph import _pir
from slim_distill.graph.kernels import PREFIX
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["UpdateEarly"]

_UPDATES = frozenset(
    (*(f"pd_op.{name}_" for name in ("adam", "adamw", "momentum", "sgd")), f"custom_op.{PREFIX}momentum_")
)


@dataclass(frozen=True)
class UpdateEarly:
    """Move the update of a parameter up to where its gradient is there and nothing before it needs the old value.

    1. momentum, sgd, adam and adamw: one operator for each parameter.

    A gradient is then used while it is in the cache, and freed at once: without this, the gradients of all
    parameters are in memory together at the end of the step. Operators that read the parameter before the update
    still do, and so do those after it. Where all gradients are needed first (clipping by global norm) nothing moves.

    Keeps: every number, bit for bit; every name.
    """

    name: str = "update_early"

    def requires(self, program: NamedProgram) -> None:
        """Nothing is needed."""

    def apply(self, program: NamedProgram) -> PassResult:
        """Move the updates."""
        ops = _pir.ops(program.main)
        updates = {op.id(): _constants(op) for op in ops if op.name() in _UPDATES}
        passengers = {constant.id() for constants in updates.values() for constant in constants}
        moved = 0
        for op, after, position in _earliest(ops, updates, passengers):
            between = ops[after + 1 : position]
            anchor = next((o for o in between if o.id() not in updates and o.id() not in passengers), None)
            if anchor is None:
                continue
            for passenger in (*updates[op.id()], op):
                passenger.move_before(anchor)
            moved += 1
        notes = (f"{moved} of {len(updates)} updates moved up",) if moved else ()
        return PassResult(program, bool(moved), notes, {"updates moved up": moved})

    def ensures(self, program: NamedProgram) -> None:
        """Nothing is promised beyond the numbers."""


def _constants(update: _pir.Operation) -> list[_pir.Operation]:
    """Operators that make numbers for this update alone, as the betas of adamw; they move with it."""
    return [
        value.get_defining_op()
        for value in _pir.operands(update)
        if value.get_defining_op().name() == "pd_op.full" and value.has_one_use()
    ]


def _earliest(
    ops: Sequence[_pir.Operation], updates: Collection[int], passengers: Collection[int]
) -> list[tuple[_pir.Operation, int, int]]:
    """(update, index of the last operator that must come before it, its own index), in program order."""
    # What several updates read, such as the learning rate, none of them writes.
    shared = Counter(value.id for op in ops if op.id() in updates for value in _pir.operands(op))
    touched: dict[str, int] = {}
    defined: dict[str, int] = {}
    found = []
    for i, op in enumerate(ops):
        if op.id() in passengers:
            continue
        inputs = [value.id for value in _pir.external_inputs(op)]
        if op.id() in updates:
            # A gradient has to be there; of everything else also the earlier readers count.
            gradient = op.operand_source(1).id
            late = [defined.get(name, -1) if name == gradient else touched.get(name, -1) for name in inputs]
            found.append((op, max(late), i))
        for name in inputs:
            if op.id() not in updates or shared[name] == 1:
                touched[name] = i
        for value in _pir.results(op):
            defined[value.id] = touched[value.id] = i
    return found
