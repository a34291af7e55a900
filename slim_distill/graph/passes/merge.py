"""Merge a guest program into a host: the one mechanism behind teachers, several teachers and mutual learning."""

from collections.abc import Mapping
from dataclasses import replace

from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.common.names import nearest
from slim_distill.graph import _pir
from slim_distill.graph.program import NamedProgram, shape_of

__all__ = ["merge", "merge_into"]


def merge(
    host: NamedProgram,
    guest: NamedProgram,
    prefix: str = "teacher_",
    feed_map: Mapping[str, str] | None = None,
) -> NamedProgram:
    """A new program that computes what `host` and `guest` compute, the guest's names under `prefix`.

    1. A guest feed that `feed_map` joins to a host variable reads that variable; without a map, feeds of equal
       name are joined.
    2. Any other guest feed becomes a feed of the merged program, under prefix + name.
    3. All other operators, control-flow blocks included, are copied; parameters are renamed in main and startup.

    Whether the guest trains is not decided here: freeze it before, or do not.

    Keeps: both inputs untouched; host names; the guest's numbers, bit for bit.

    Args:
        host: the program that takes the guest in, usually the student.
        guest: the program to take in.
        prefix: put before every name of the guest; not empty, and not in use.
        feed_map: guest feed name -> host variable name.

    Raises:
        GraphError: the prefix is empty or taken, or a joined pair differs in shape or dtype.
        VariableNotFoundError: the map names something that is not there.
    """
    return merge_into(host.clone(), guest, prefix, feed_map)


def merge_into(
    merged: NamedProgram, guest: NamedProgram, prefix: str, feed_map: Mapping[str, str] | None = None
) -> NamedProgram:
    """The same as `merge`, but the host's own programs are edited; its old record must not be used afterwards."""
    _check_prefix(merged, guest, prefix)
    joined = _joined_feeds(merged, guest, feed_map)
    mapping = _pir.new_mapping()
    with static.program_guard(merged.main):
        for op in _pir.ops(guest.main):
            feed = _pir.data_name(op)
            if feed is not None and feed in joined:
                mapping.add(op.result(0), merged[joined[feed]])
                continue
            _rename(_pir.clone_op(op, mapping), prefix)
    for value in guest.parameters().values():
        _pir.copy_parameter_attributes(value, merged_parameter := mapping.look_up(value))
        merged_parameter.stop_gradient = value.stop_gradient
    startup_mapping = _pir.new_mapping()
    with static.program_guard(merged.startup):
        for op in _pir.ops(guest.startup):
            _rename(_pir.clone_op(op, startup_mapping), prefix)
    variables = {prefix + name: mapping.look_up(value) for name, value in guest.variables.items() if name not in joined}
    aliases = {prefix + alias: prefix + name for alias, name in guest.aliases.items() if name not in joined}
    aliases |= {prefix + name: merged.canonical(target) for name, target in joined.items()}
    return replace(
        merged,
        feeds={**merged.feeds, **{prefix + n: variables[prefix + n] for n in guest.feeds if n not in joined}},
        variables={**merged.variables, **variables},
        aliases={**merged.aliases, **{a: n for a, n in aliases.items() if n in variables or n in merged.variables}},
        values={**merged.values, **{prefix + name: array for name, array in guest.values.items()}},
        guests={**merged.guests, prefix: guest.frozen, **{prefix + p: f for p, f in guest.guests.items()}},
    )


def _check_prefix(host: NamedProgram, guest: NamedProgram, prefix: str) -> None:
    if not prefix:
        raise GraphError("the guest's prefix is empty; give one, such as 'teacher_'")
    if prefix in host.guests:
        raise GraphError(f"the prefix {prefix!r} is in use by another guest; in use: {', '.join(host.guests)}")
    for name in guest.variables:
        if prefix + name in host:
            raise GraphError(
                f"the guest's {name!r} would become {prefix + name!r}, which the host has; use another prefix"
            )


def _joined_feeds(host: NamedProgram, guest: NamedProgram, feed_map: Mapping[str, str] | None) -> dict[str, str]:
    joined = {name: name for name in guest.feeds if name in host.feeds} if feed_map is None else dict(feed_map)
    for name, target in joined.items():
        if name not in guest.feeds:
            near = ", ".join(nearest(name, guest.feeds)) or "none"
            raise GraphError(
                f"feed_map: the guest has no feed {name!r}; its feeds: {', '.join(guest.feeds)}; nearest: {near}"
            )
        feed, value = guest.feeds[name], host[target]
        if feed.dtype != value.dtype or not _fits(shape_of(feed), shape_of(value)):
            raise GraphError(
                f"feed_map: the guest's feed {name!r} is {feed.dtype} {list(shape_of(feed))}, "
                f"but the host's {target!r} is {value.dtype} {list(shape_of(value))}"
            )
    return joined


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and all(x == y or -1 in (x, y) for x, y in zip(a, b, strict=True))


def _rename(op: _pir.Operation, prefix: str) -> None:
    if op.name() in ("builtin.parameter", "builtin.set_parameter"):
        _pir.set_parameter_name(op, prefix + op.str_attr("parameter_name"))
        return
    if _pir.data_name(op) is not None:
        op.set_str_attr("name", prefix + op.str_attr("name"))
    tag = _pir.op_tag(op)
    if tag is not None:
        _pir.set_op_tag(op, prefix + tag)
    _pir.set_role(op, prefix)
