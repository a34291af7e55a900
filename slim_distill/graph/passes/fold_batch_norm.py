"""Fold batch norms of a frozen program into the convolutions before them."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import paddle

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.passes._replace import retire
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["FoldBatchNorm"]

_CONVOLUTIONS = ("pd_op.conv2d", "pd_op.depthwise_conv2d")
_BATCH_NORMS = ("pd_op.batch_norm", "pd_op.batch_norm_")
_SUFFIX = ".folded"


@dataclass(frozen=True)
class _Match:
    """A convolution, the addition of its bias (if any), and the batch norm that reads it."""

    conv: _pir.Operation
    add: _pir.Operation | None
    norm: _pir.Operation
    weight: str
    bias: str | None

    def dead(self) -> set[int]:
        """Ids of the operators that nothing needs once the norm is folded (parameters may have other readers)."""
        found = [self.norm, *_producers(self.norm)[1:], self.conv.operand_source(1).get_defining_op()]
        if self.add is not None:
            shaped = _producers(self.add)[1]
            found += [self.add, shaped, *_producers(shaped)]
        return {op.id() for op in found}


@dataclass(frozen=True)
class _Folded:
    """What one folding changed: operators to erase, the norm's result and its successor, and new table entries."""

    dead: set[int]
    old_id: str
    result: _pir.Value
    raw: _pir.Value
    variables: dict[str, _pir.Value]
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class FoldBatchNorm:
    """Turn convolution (+ bias) + batch norm in test mode into one convolution with another weight and bias.

    With k = scale / sqrt(variance + epsilon): weight' = weight * k, bias' = offset + k * (bias - mean), computed in
    double precision from `program.values`.

    1. conv2d or depthwise_conv2d, then batch_norm.
    2. The same with the addition of a bias parameter between them.

    Refused, with a note: a norm in training mode or not in NCHW; one that does not follow a convolution whose result
    it alone reads; a parameter whose value is not known; a result between them that `keep` asks for; a norm whose
    statistics are read.

    Alone this does not pay with Paddle's own kernels (the addition of the bias costs more than the norm did); it makes
    `FuseInference` possible.

    Keeps: the name of the norm's result, which now stands for the sum with the new bias; every kept number up to
        rounding (1e-6 relative).
    Raises: GraphError for a program that is not frozen; VariableNotFoundError for an unknown name in `keep`.

    Attributes:
        keep: variables that must still be there afterwards.
    """

    keep: tuple[str, ...] = ()
    name: str = "fold_batch_norm"

    def requires(self, program: NamedProgram) -> None:
        """The program is frozen and has what is to be kept."""
        _check_frozen(program, "fold its batch norms")
        for name in self.keep:
            program.canonical(name)

    def apply(self, program: NamedProgram) -> PassResult:
        """Fold what can be folded."""
        kept = {program[name].id for name in self.keep}
        done: list[_Folded] = []
        notes = []
        refusals: Counter[str] = Counter()
        for norm in _pir.ops(program.main):
            if norm.name() not in _BATCH_NORMS:
                continue
            match = _match(norm, program, kept)
            if isinstance(match, str):
                notes.append(f"{_pir.op_tag(norm) or norm.name()} stays: {match}")
                refusals[f"batch norm, {match}"] += 1
            else:
                done.append(_fold(program, match))
        if done:
            notes.insert(0, f"{len(done)} batch norms folded into their convolutions")
            program = _update(program, done)
        return PassResult(program, bool(done), tuple(notes), {"norms folded": len(done)}, refusals)

    def ensures(self, program: NamedProgram) -> None:
        """What was to be kept is there."""
        for name in self.keep:
            program.canonical(name)


def _check_frozen(program: NamedProgram, what: str) -> None:
    if not program.frozen:
        raise GraphError(f"the program is not frozen, so one may not {what}; apply Freeze first")


def _producers(op: _pir.Operation) -> list[_pir.Operation]:
    return [value.get_defining_op() for value in _pir.operands(op)]


def _match(norm: _pir.Operation, program: NamedProgram, kept: set[str]) -> _Match | str:
    """The operators to fold, or why they cannot be folded."""
    attributes = norm.attrs()
    if not (attributes["is_test"] or attributes["use_global_stats"]):
        return "it is in training mode"
    if attributes["data_format"] != "NCHW":
        return f"its layout is {attributes['data_format']}, not NCHW"
    if any(not value.use_empty() for value in _pir.results(norm)[1:]):
        return "its statistics are read"
    source = norm.operand_source(0)
    before = source.get_defining_op()
    add, bias = None, None
    if before.name() == "pd_op.add" and source.has_one_use() and source.id not in kept:
        add, bias = before, _bias_parameter(before.operand_source(1))
        if bias is None:
            return "what is added before it is no bias parameter"
        before = add.operand_source(0).get_defining_op()
    if before.name() not in _CONVOLUTIONS:
        return f"it follows {before.name()}, not a convolution"
    result = before.result(0)
    if not result.has_one_use() or result.id in kept:
        return "the convolution's own result is needed elsewhere"
    weight = _pir.parameter_name(before.operand_source(1))
    if weight is None or not before.operand_source(1).has_one_use():
        return "the convolution's weight is computed or shared"
    names = [weight, *([bias] if bias is not None else []), *map(_pir.parameter_name, norm.operands_source()[1:])]
    if len(_pir.operands(norm)) < 5 or None in names:
        return "not all of mean, variance, scale and offset are parameters"
    unknown = [name for name in names if name not in program.values]
    if unknown:
        return f"the value of {unknown[0]} is not known"
    return _Match(before, add, norm, weight, bias)


def _bias_parameter(value: _pir.Value) -> str | None:
    """Name of the parameter that is added to each channel, directly or reshaped to [1, C, 1, 1]."""
    op = value.get_defining_op()
    return _pir.parameter_name(op.operand_source(0) if op.name() == "pd_op.reshape" else value)


def _fold(program: NamedProgram, match: _Match) -> _Folded:
    """Put the new parameters and the addition into the program; the old operators are left for `_update`."""
    values = program.values
    mean, variance, scale, offset = (
        values[str(_pir.parameter_name(v))].astype(np.float64) for v in match.norm.operands_source()[1:5]
    )
    k = scale / np.sqrt(variance + match.norm.attrs()["epsilon"])
    bias = values[match.bias].astype(np.float64).reshape(-1) if match.bias is not None else 0.0
    old = values[match.weight]
    name = _pir.op_tag(match.norm) or match.weight
    folded = {
        match.weight + _SUFFIX: (old * k.reshape(-1, 1, 1, 1)).astype(old.dtype),
        f"{name}.bias{_SUFFIX}": (offset + k * (bias - mean)).reshape(1, -1, 1, 1).astype(old.dtype),
    }
    new = {
        name: _pir.clone_parameter(program.main, match.conv.operand_source(1), name, array.shape)
        for name, array in folded.items()
    }
    dead = match.dead()
    weight, shift = new.values()
    match.conv.operand(1).set_source(weight)
    raw = match.conv.result(0)
    with _pir.inserting_after(program.main, match.conv):
        result = paddle.add(raw, shift)
    result.stop_gradient = True
    _pir.set_op_tag(result.get_defining_op(), name)
    _pir.set_op_tag(match.conv, name + _SUFFIX)
    match.norm.result(0).replace_all_uses_with(result)
    return _Folded(dead, match.norm.result(0).id, result, raw, {**new, name + _SUFFIX: raw}, folded)


def _update(program: NamedProgram, done: list[_Folded]) -> NamedProgram:
    """Erase what was replaced, and bring the tables up to date."""
    # A convolution's own result is another number now, so the names it had must not find it.
    changed = {item.raw.id for item in done}
    program = replace(program, variables={n: v for n, v in program.variables.items() if v.id not in changed})
    dead = {op for item in done for op in item.dead}
    program = retire(program, dead, {item.old_id: item.result for item in done})
    variables, values = dict(program.variables), dict(program.values)
    for item in done:
        variables |= item.variables
        values |= item.values
    return replace(program, variables=variables, values=values)
