"""From a model function to a `NamedProgram`."""

from collections.abc import Mapping

from paddle import static
from paddle.utils import unique_name

from slim_distill.common.errors import GraphError
from slim_distill.common.specs import ModelSpec
from slim_distill.graph import _pir
from slim_distill.graph.naming import name_values
from slim_distill.graph.program import NamedProgram

__all__ = ["name_program", "trace"]


def trace(spec: ModelSpec) -> NamedProgram:
    """Build a model into programs of its own and name everything in it.

    Tracing the same spec twice gives the same names. Paddle must be in static mode.

    Raises:
        GraphError: the model function gives a name to something that is no variable of its program, or one name
            to two variables.
    """
    main, startup = static.Program(), static.Program()
    with static.program_guard(main, startup), unique_name.guard():
        feeds = {name: static.data(name, list(feed.shape), feed.dtype) for name, feed in spec.feeds.items()}
        outputs = spec.build(feeds)
    _check_outputs(outputs)
    variables, aliases = name_values(main, outputs)
    return NamedProgram(
        main=main, startup=startup, feeds=feeds, variables=variables, aliases=aliases, info=dict(spec.info)
    )


def name_program(main: _pir.Program, startup: _pir.Program | None = None) -> NamedProgram:
    """A record of a program that was built by hand; names that are stored on its operators are kept.

    The program itself is used, not a copy. Feeds are its `static.data` variables.
    """
    variables, aliases = name_values(main)
    feeds = {
        name: value
        for name, value in variables.items()
        if value.get_defining_op().name() in _pir.DATA_OPS and not value.persistable
    }
    return NamedProgram(
        main=main, startup=startup or static.Program(), feeds=feeds, variables=variables, aliases=aliases
    )


def _check_outputs(outputs: Mapping[str, _pir.Value]) -> None:
    for name, value in outputs.items():
        if not hasattr(value, "get_defining_op"):
            raise GraphError(f"the model function returned {type(value).__name__} as {name!r}; a variable is needed")
