"""Freeze a program: nothing in it trains, and it computes what it would compute at inference."""

from dataclasses import dataclass, replace

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["Freeze"]


@dataclass(frozen=True)
class Freeze:
    """Make a program a constant function of its feeds.

    1. Parameters neither train nor take gradient.
    2. Batch norm uses and keeps its running statistics; dropout and the like pass their input on (`is_test`).
    3. No result takes gradient, so that a backward pass stops at the program's border.

    Operators inside control-flow blocks are treated alike.

    Keeps: every name, every value's number at inference.
    Raises: GraphError for a program that holds an optimizer or gradient operators already.
    """

    name: str = "freeze"

    def requires(self, program: NamedProgram) -> None:
        """The program is a forward program."""
        for op in _pir.walk(program.main):
            if op.name().removesuffix("_").endswith("_grad"):
                raise GraphError(f"operator {op.name()} belongs to a backward pass; freeze before adding the optimizer")

    def apply(self, program: NamedProgram) -> PassResult:
        """Mark every operator and value of the program."""
        tested = stopped = 0
        for op in _pir.walk(program.main):
            if op.has_attr("is_test") and not op.attrs()["is_test"]:
                op.set_bool_attr("is_test", True)
                tested += 1
            for value in _pir.results(op):
                if not value.stop_gradient:
                    value.stop_gradient = True
                    stopped += 1
                if op.name() == "builtin.parameter" and value.trainable:
                    value.trainable = False
                    stopped += 1
        changed = bool(tested or stopped)
        notes = (f"{tested} operators put into test mode",) if changed else ()
        return PassResult(replace(program, frozen=True), changed, notes)

    def ensures(self, program: NamedProgram) -> None:
        """No parameter trains."""
        if program.trainable():
            raise GraphError(f"parameters still train: {', '.join(program.trainable())}")
