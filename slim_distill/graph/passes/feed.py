"""Feed variables of a program from outside instead of computing them."""

from dataclasses import dataclass, replace

from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of, shape_of

__all__ = ["Feed"]


@dataclass(frozen=True)
class Feed:
    """Make feeds of variables: whatever read them reads what the caller feeds under their names.

    1. A computed variable becomes a feed of the same name, shape and number type.
    2. A feed stays what it is.

    The operators that computed the variables are left; apply `Slice` to drop what nothing reads any more.

    Keeps: every name. Raises: VariableNotFoundError for a name that is not there; GraphError for a parameter.
    """

    names: tuple[str, ...]
    name: str = "feed"

    def requires(self, program: NamedProgram) -> None:
        """Every variable is there and can be fed."""
        for name in self.names:
            if _pir.parameter_name(program[name]) is not None:
                raise GraphError(f"{name!r} is a parameter; only computed variables can be fed instead")

    def apply(self, program: NamedProgram) -> PassResult:
        """Put a feed in each variable's place."""
        fed: dict[str, _pir.Value] = {}
        for name in dict.fromkeys(program.canonical(name) for name in self.names):
            old = program[name]
            if _pir.data_name(old.get_defining_op()) is not None:
                continue
            with static.program_guard(program.main), _pir.inserting_before(program.main, _pir.ops(program.main)[0]):
                new = static.data(name, shape_of(old), dtype_of(old))
            old.replace_all_uses_with(new)
            fed[name] = new
        if not fed:
            return PassResult(program, False)
        program = replace(program, feeds={**program.feeds, **fed}, variables={**program.variables, **fed})
        return PassResult(program, True, (f"fed: {', '.join(fed)}",), {"variables fed": len(fed)})

    def ensures(self, program: NamedProgram) -> None:
        """Every variable is a feed."""
        for name in self.names:
            if program.canonical(name) not in program.feeds:
                raise GraphError(f"variable {name!r} is still computed")
