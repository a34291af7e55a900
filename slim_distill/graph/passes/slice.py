"""Slice a program: keep only what the requested variables need."""

from dataclasses import dataclass

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["Slice"]


@dataclass(frozen=True)
class Slice:
    """Keep the operators that the variables in `keep` depend on, and nothing else.

    1. Operators that no kept variable reads disappear, feeds included; so do their names.
    2. Parameters that nothing reads any more disappear, from `startup` and `values` too.

    A control-flow operator is kept or dropped whole. Meant for forward programs: an operator that only has a side
    effect (an optimizer's update) is dropped.

    Keeps: the number of every kept variable; all other names.
    Raises: VariableNotFoundError for a name that is not there; GraphError when `keep` is empty.
    """

    keep: tuple[str, ...]
    name: str = "slice"

    def requires(self, program: NamedProgram) -> None:
        """Every variable to keep exists."""
        if not self.keep:
            raise GraphError("nothing to keep: name at least one variable")
        for name in self.keep:
            program.canonical(name)

    def apply(self, program: NamedProgram) -> PassResult:
        """Remove what is not needed."""
        needed = _pir.needed_ops(program[name] for name in self.keep)
        before = len(_pir.ops(program.main))
        dead_ids = {v.id for op in _pir.ops(program.main) if op.id() not in needed for v in _pir.results(op)}
        # Ids are addresses and go stale with the operator: collect the names first.
        gone = [name for name, value in program.variables.items() if value.id in dead_ids]
        unread = set(_pir.parameters(program.main))
        removed = _pir.erase(program.main, lambda op: op.id() not in needed)
        _pir.erase_startup(program.startup, unread - set(_pir.parameters(program.main)))
        program = program.without(gone)
        notes = (f"{removed} of {before} operators cut",) if removed else ()
        return PassResult(program, bool(removed), notes, {"operators cut": removed})

    def ensures(self, program: NamedProgram) -> None:
        """Nothing but the needed operators is left."""
        needed = _pir.needed_ops(program[name] for name in self.keep)
        for op in _pir.ops(program.main):
            if op.id() not in needed:
                raise GraphError(f"operator {op.name()} is still there although nothing that is kept needs it")
