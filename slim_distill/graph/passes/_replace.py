"""Take replaced operators out of a named program and bring its tables up to date."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from slim_distill.graph import _pir
from slim_distill.graph.program import NamedProgram

__all__ = ["retire"]


def retire(program: NamedProgram, dead: Collection[int], moved: Mapping[str, _pir.Value]) -> NamedProgram:
    """Erase operators that were replaced; names follow the values that took their places.

    Args:
        program: its main program is edited; nothing may read the dead operators' results any more, or they stay.
        dead: ids of the operators to erase; of a parameter, also its start value and known value go.
        moved: id of an old value -> the value that its names stand for from now on.

    Returns:
        The program with tables that hold only what is left.
    """
    ids = {name: value.id for name, value in program.variables.items()}
    before = set(_pir.parameters(program.main))
    _pir.erase(program.main, lambda op: op.id() in dead)
    parameters = _pir.parameters(program.main)
    _pir.erase_startup(program.startup, before - set(parameters))
    # Nothing was created since the ids were taken, so an id that is still there stands for the same value.
    alive = {value.id for op in _pir.ops(program.main) for value in _pir.results(op)}
    variables = {
        name: moved.get(ids[name], value)
        for name, value in program.variables.items()
        if ids[name] in moved or ids[name] in alive
    }
    return replace(
        program,
        variables=variables,
        feeds={name: variables[name] for name in program.feeds if name in variables},
        aliases={alias: name for alias, name in program.aliases.items() if name in variables},
        values={name: array for name, array in program.values.items() if name in parameters},
    )
