"""Bring the tables of a named program up to date after operators were replaced."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from slim_distill.graph import _pir
from slim_distill.graph.naming import name_values
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["hand_over", "renamed", "retire", "without_kernels"]


def without_kernels(program: NamedProgram, why: str, count: int) -> PassResult:
    """Nothing changes: `count` operators stay for want of kernels of our own, or there are none and no reason."""
    return PassResult(program, False, refusals={f"no kernels of our own: {why}": count} if why else {})


def hand_over(old: Sequence[_pir.Value], new: Sequence[_pir.Value], name: str | None) -> dict[str, _pir.Value]:
    """Let every reader of the old values read the new ones, in the same order: {id of an old value: the new one}.

    Args:
        old: results of operators that are replaced; absent ones are passed over.
        new: what stands for them; there may be fewer where the rest is absent.
        name: of the first of them, stored on the operator behind it; None for no name.
    """
    moved = {}
    for before, after in zip(old, new, strict=False):
        if before.initialized():
            after.stop_gradient = before.stop_gradient
            before.replace_all_uses_with(after)
            moved[before.id] = after
    if name is not None:
        _pir.set_op_tag(new[0].get_defining_op(), name)
    return moved


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
    return _tables(program, variables, parameters)


def renamed(program: NamedProgram, kept: Mapping[str, _pir.Value]) -> NamedProgram:
    """Name a frozen program's values anew: Paddle's passes replace operators without telling which.

    Args:
        program: its main program was edited.
        kept: name -> the value that stands for it now.

    Returns:
        The program with tables of `kept` and of whatever else still carries its name, except for values in oneDNN's
        own layouts, which other operators cannot read.
    """
    for op in _pir.ops(program.main):
        for value in _pir.results(op):
            value.stop_gradient = True
    variables, _ = name_values(program.main, kept)
    readable = {
        name: value
        for name, value in variables.items()
        if name in kept or not value.get_defining_op().name().startswith(_pir.ONEDNN)
    }
    return _tables(program, readable, _pir.parameters(program.main))


def _tables(program: NamedProgram, variables: dict[str, _pir.Value], parameters: Collection[str]) -> NamedProgram:
    """The program with these variables; feeds, aliases and known values that are gone leave their tables."""
    return replace(
        program,
        variables=variables,
        feeds={name: variables[name] for name in program.feeds if name in variables},
        aliases={alias: name for alias, name in program.aliases.items() if name in variables},
        values={name: array for name, array in program.values.items() if name in parameters},
    )
