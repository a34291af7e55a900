"""Edit a long program piece by piece, with passes that walk through all of their program for each match."""

from collections.abc import Callable, Mapping, Sequence, Set

from paddle import static

from slim_distill.graph import _pir

__all__ = ["edit_in_pieces"]

_LONGEST = 500  # operators of a piece, but for what must not be parted
_STARTS = frozenset({"pd_op.conv2d", "pd_op.depthwise_conv2d", "pd_op.matmul"})  # no match has these inside
_SOURCES = (*_pir.DATA_OPS, "builtin.parameter")


def edit_in_pieces(
    program: _pir.Program, given: Mapping[str, _pir.Value], edit: Callable[[_pir.Program], None]
) -> dict[str, _pir.Value]:
    """Hand every piece of `program` to `edit` as a program of its own, and put what comes back in its place.

    A piece has at most 500 operators, or what lies between two convolutions if that is more: fusions begin at a
    convolution and follow what it yields. What other pieces read, and `given`, is protected.

    Args:
        program: edited in place. One with control flow is handed to `edit` as it is.
        given: values that must live on.
        edit: changes a program in place; may replace any operator that is not protected.

    Returns:
        {name: what stands for the given value now}.
    """
    kept = dict(given)
    whole = _pir.ops(program)
    pieces = _pieces([op for op in whole if op.name() not in _SOURCES])
    if len(pieces) < 2 or any(op.num_regions() for op in whole):
        with _pir.protected(program, kept) as kept_anew:
            edit(program)
        return kept_anew
    names = {value.id: name for name, value in kept.items()}
    for piece in pieces:
        inside = {op.id() for op in piece}
        read = [
            value
            for op in piece
            for value in _pir.results(op)
            if value.id in names or any(user.id() not in inside for user in value.all_used_ops())
        ]
        new = _edited(program, piece, read, edit)
        for old, value in zip(read, new, strict=True):
            value.stop_gradient = old.stop_gradient
            if old.id in names:
                kept[names[old.id]] = value
            old.replace_all_uses_with(value)
        _erase(program, inside)
    return kept


def _erase(program: _pir.Program, gone: Set[int]) -> None:
    _pir.erase(program, lambda op: op.id() in gone)


def _pieces(ops: Sequence[_pir.Operation]) -> list[list[_pir.Operation]]:
    """Consecutive operators, parted before convolutions where only tensors pass from one side to the other."""
    place = {op.id(): k for k, op in enumerate(ops)}
    closed = 0  # up to here a value is still to be read that could not be fed
    pieces: list[list[_pir.Operation]] = [[]]
    for k, op in enumerate(ops):
        if len(pieces[-1]) >= _LONGEST and op.name() in _STARTS and closed < k:
            pieces.append([])
        pieces[-1].append(op)
        for value in _pir.results(op):
            if not value.is_dense_tensor_type():
                closed = max(closed, *(place.get(user.id(), len(ops)) for user in value.all_used_ops()), k)
    return [piece for piece in pieces if piece]


def _edited(
    program: _pir.Program,
    piece: Sequence[_pir.Operation],
    read: Sequence[_pir.Value],
    edit: Callable[[_pir.Program], None],
) -> list[_pir.Value]:
    """Put what `edit` makes of the operators behind them: the values that stand for those of `read`."""
    part = static.Program()
    there, back = _pir.new_mapping(), _pir.new_mapping()
    inputs: dict[str, _pir.Value] = {}
    known: set[int] = set()
    with static.program_guard(part):
        for op in piece:
            for value in _pir.operands(op):
                if value.id in known:
                    continue
                known.add(value.id)
                parameter = _pir.parameter_name(value)
                if parameter is not None:
                    _pir.clone_op(value.get_defining_op(), there)
                else:
                    parameter = f"input{len(inputs)}"
                    there.add(value, static.data(parameter, value.shape, value.dtype))
                inputs[parameter] = value
            _pir.clone_op(op, there)
            known.update(value.id for value in _pir.results(op))
        with _pir.protected(part, {f"output{k}": there.look_up(value) for k, value in enumerate(read)}) as outputs:
            edit(part)
    with _pir.inserting_after(program, piece[-1]):
        for op in _pir.ops(part):
            name = _pir.data_name(op) or _pir.parameter_name(op.result(0)) if op.name() in _SOURCES else None
            if name is not None:
                back.add(op.result(0), inputs[name])
            else:
                _pir.clone_op(op, back)
    return [back.look_up(outputs[f"output{k}"]) for k in range(len(read))]
