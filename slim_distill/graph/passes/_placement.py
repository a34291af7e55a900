"""Exchange operators for their oneDNN twins, one by one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.cost import count_operators
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["Placement", "only_cpus", "place"]


@dataclass(frozen=True)
class Placement:
    """What `place` did.

    Attributes:
        placed: names of the operators that were exchanged.
        dead: ids of the operators they were exchanged for, which are still there but not read.
        moved: id of a result of these -> the value that stands for it now.
        notes: a line for each operator that has no twin.
        refusals: reason -> number of these.
    """

    placed: tuple[str, ...]
    dead: frozenset[int]
    moved: dict[str, _pir.Value]
    notes: tuple[str, ...]
    refusals: Mapping[str, int]


def only_cpus(program: NamedProgram, device: str) -> PassResult:
    """The refusal of every other device than a CPU."""
    why = f"only CPUs run these kernels, not {device}"
    return PassResult(program, False, (f"left alone: {why}",), refusals={why: count_operators(program)})


def place(program: _pir.Program, wanted: Sequence[_pir.Operation], *, training: bool) -> Placement:
    """Put the wanted operators of `program` on oneDNN, in place.

    Args:
        program: edited; the exchanged operators are left in it for the caller to erase.
        wanted: operators of its top level.
        training: keep the operators in training mode, and convert every result back to the plain layout.

    Raises:
        GraphError: Paddle's placement does not map the program one to one.
    """
    copy, _ = _pir.clone_program(program)
    _pir.run_paddle_passes(copy, ("onednn_placement_pass",))
    originals, twins = _pir.ops(program), _pir.ops(copy)
    if len(originals) != len(twins):
        raise GraphError(
            f"Paddle's placement made {len(twins)} operators of {len(originals)}; one each was expected. "
            "Set compile.placement to stock"
        )
    twin_of = {op.id(): twin for op, twin in zip(originals, twins, strict=True)}
    placed, dead, notes = [], set(), []
    refusals: Counter[str] = Counter()
    moved: dict[str, _pir.Value] = {}
    for op in wanted:
        twin = twin_of[op.id()]
        if not twin.name().startswith(_pir.ONEDNN):
            why = f"oneDNN has no {op.name()} of this kind"
            notes.append(f"{_pir.op_tag(op) or op.name()} stays: {why}")
            refusals[why] += 1
            continue
        moved |= _exchange(program, op, twin, training=training)
        dead.add(op.id())
        placed.append(op.name())
    return Placement(tuple(placed), frozenset(dead), moved, tuple(notes), refusals)


def _exchange(
    program: _pir.Program, op: _pir.Operation, twin: _pir.Operation, *, training: bool
) -> dict[str, _pir.Value]:
    """Put the twin in the operator's place: {id of an old result: the value that stands for it}."""
    placed = _pir.clone_before(program, op, twin)
    if training and placed.has_attr("is_test"):
        # Paddle's placement is made for inference and sets this; with it a gradient is refused.
        placed.set_bool_attr("is_test", False)
    moved = {}
    for old, new in zip(op.results(), placed.results(), strict=True):
        if not old.initialized():
            continue
        new.stop_gradient = old.stop_gradient
        moved[old.id] = _pir.to_native(program, new) if training else new
        old.replace_all_uses_with(moved[old.id])
    return moved
