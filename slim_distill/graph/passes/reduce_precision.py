"""Let the convolutions and linear layers of a program multiply numbers of 16 bits."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import paddle

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.passes._replace import renamed
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of

__all__ = ["ReducePrecision"]

_PADDLE_PASSES = ("cpu_bfloat16_placement_pass", "cpu_bfloat16_pass", "cpu_bfloat16_type_placement_pass")
_TO, _FROM = "onednn_op.quantize", "onednn_op.dequantize"
_MATMUL = "pd_op.matmul"
_CONVOLUTIONS = ("onednn_op.conv2d", "onednn_op.depthwise_conv2d", "onednn_op.fused_conv2d")


@dataclass(frozen=True)
class ReducePrecision:
    """Compute convolutions in 16 bits; what is kept, and all other operators, stay in float32.

    1. On a CPU, for frozen programs only, after `FuseInference`: Paddle's own passes put the fused convolutions on
       bfloat16 kernels of oneDNN, and a result that was only converted to float32 to be converted back stays as it is.
    2. Elsewhere, also before a backward pass is built: both operands of each convolution and product with a parameter
       are cast, and its result is cast back. So parameters, their gradients and their updates stay in float32, as in
       automatic mixed precision (Micikevicius et al., ICLR 2018); bfloat16 has the exponents of float32 and needs no
       scaled loss.

    Keeps: every variable of `keep`, in float32 and in the layout that all operators read, with an error that depends on
        the network (bfloat16 has 8 significant bits); in case 2 every name, in case 1 other names only where their
        values still exist.
    Raises: GraphError for a CPU and a program that is not frozen; VariableNotFoundError for an unknown name.

    Attributes:
        keep: variables that must still be there afterwards.
        dtype: number type of the convolutions; on a CPU bfloat16 only.
        device: where the program will run: "cpu" or anything else.
    """

    keep: tuple[str, ...]
    dtype: str = "bfloat16"
    device: str = "cpu"
    name: str = "reduce_precision"

    def requires(self, program: NamedProgram) -> None:
        """The program has what is to be kept, and on a CPU it is frozen."""
        if self.device == "cpu" and not program.frozen:
            raise GraphError("the program is not frozen, so its precision may not be reduced; apply Freeze first")
        if self.device == "cpu" and self.dtype != "bfloat16":
            raise GraphError(f"{self.dtype}: on a CPU convolutions can be reduced to bfloat16 only")
        for name in self.keep:
            program.canonical(name)

    def apply(self, program: NamedProgram) -> PassResult:
        """Reduce the convolutions."""
        if self.device != "cpu":
            return _cast(program, self.dtype)
        done = [op for op in _pir.ops(program.main) if op.name() == _TO]
        if done or not any(op.name() in _CONVOLUTIONS for op in _pir.ops(program.main)):
            return PassResult(program, False)
        return _use_onednn(program, self.keep)

    def ensures(self, program: NamedProgram) -> None:
        """What was to be kept is there, in float32."""
        for name in self.keep:
            if dtype_of(program[name]) != "float32":
                raise GraphError(f"variable {name!r} became {dtype_of(program[name])}")


def _use_onednn(program: NamedProgram, keep: tuple[str, ...]) -> PassResult:
    names = dict.fromkeys(program.canonical(name) for name in keep)
    given = {n: program[n] for n in names if n not in program.feeds and n not in program.parameters()}
    with _pir.protected(program.main, given) as kept:
        _pir.run_paddle_passes(program.main, _PADDLE_PASSES)
        for op in _pir.ops(program.main):
            source = op.operand_source(0).get_defining_op() if op.name() == _TO else None
            if source is not None and source.name() == _FROM:
                op.result(0).replace_all_uses_with(source.operand_source(0))
        _pir.erase(program.main, lambda op: op.name() in (_TO, _FROM) and op.result(0).use_empty())
    program = renamed(program, kept)
    convolutions = [op for op in _pir.ops(program.main) if op.name() in _CONVOLUTIONS]
    count = sum(dtype_of(op.operand_source(0)) == "bfloat16" for op in convolutions)
    return PassResult(program, True, (f"{count} convolutions in bfloat16",), {"convolutions in bfloat16": count})


def _cast(program: NamedProgram, dtype: str) -> PassResult:
    ids = {name: value.id for name, value in program.variables.items()}
    moved: dict[str, _pir.Value] = {}
    counts: Counter[str] = Counter()
    for op in _pir.ops(program.main):
        if not _is_castable(op):
            continue
        with _pir.inserting_before(program.main, op):
            x, y = (paddle.cast(op.operand_source(i), dtype) for i in (0, 1))
            result = paddle.cast(_CASTABLE[op.name()](x, y, op.attrs()), "float32")
        counts["matrix products" if op.name() == _MATMUL else "convolutions"] += 1
        moved[op.result(0).id] = result
        _pir.put_in_place(program.main, op, result)
    variables = {name: moved.get(ids[name], value) for name, value in program.variables.items()}
    notes = tuple(f"{count} {what} in {dtype}" for what, count in counts.items())
    named = {f"{what} in {dtype}": count for what, count in counts.items()}
    return PassResult(replace(program, variables=variables), bool(moved), notes, named)


def _is_castable(op: _pir.Operation) -> bool:
    """A float32 convolution, or a product with a parameter: what else is multiplied may belong to a loss."""
    if op.name() not in _CASTABLE or any(dtype_of(op.operand_source(i)) != "float32" for i in (0, 1)):
        return False
    return op.name() != _MATMUL or any(_pir.parameter_name(op.operand_source(i)) is not None for i in (0, 1))


_Build = Callable[[_pir.Value, _pir.Value, Mapping[str, Any]], _pir.Value]


def _conv2d(x: _pir.Value, weight: _pir.Value, a: Mapping[str, Any]) -> _pir.Value:
    window, form = (a["strides"], a["paddings"], a["padding_algorithm"]), a["data_format"]
    return paddle._C_ops.conv2d(x, weight, *window, a["dilations"], a["groups"], form)


def _depthwise_conv2d(x: _pir.Value, weight: _pir.Value, a: Mapping[str, Any]) -> _pir.Value:
    window, form = (a["strides"], a["paddings"], a["padding_algorithm"]), a["data_format"]
    return paddle._C_ops.depthwise_conv2d(x, weight, *window, a["groups"], a["dilations"], form)


def _matmul(x: _pir.Value, y: _pir.Value, a: Mapping[str, Any]) -> _pir.Value:
    return paddle._C_ops.matmul(x, y, a["transpose_x"], a["transpose_y"])


_CASTABLE: Mapping[str, _Build] = {
    "pd_op.conv2d": _conv2d,
    "pd_op.depthwise_conv2d": _depthwise_conv2d,
    _MATMUL: _matmul,
}
"""Operator -> the same one of other operands; built anew, so that its result has their number type."""
