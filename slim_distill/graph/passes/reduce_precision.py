"""Let the convolutions of a frozen program multiply numbers of 16 bits."""

from dataclasses import dataclass, replace

import paddle

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.convolutions import is_convolution
from slim_distill.graph.naming import name_values
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of

__all__ = ["ReducePrecision"]

_PADDLE_PASSES = ("cpu_bfloat16_placement_pass", "cpu_bfloat16_pass", "cpu_bfloat16_type_placement_pass")
_TO, _FROM = "onednn_op.quantize", "onednn_op.dequantize"
_CONVOLUTIONS = ("onednn_op.conv2d", "onednn_op.depthwise_conv2d", "onednn_op.fused_conv2d")


@dataclass(frozen=True)
class ReducePrecision:
    """Compute convolutions in 16 bits; what is kept, and all other operators, stay in float32.

    1. On a CPU, after `FuseInference`: Paddle's own passes put the fused convolutions on oneDNN's bfloat16 kernels, and
       a result that was only converted to float32 to be converted back stays in bfloat16.
    2. Elsewhere: input and weight of each convolution are cast, and its result is cast back.

    Keeps: every variable of `keep`, in float32 and in the layout that all operators read, with an error that depends on
        the network (bfloat16 has 8 significant bits); in case 2 every name, in case 1 other names only where their
        values still exist.
    Raises: GraphError for a program that is not frozen; VariableNotFoundError for an unknown name.

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
        """The program is frozen and has what is to be kept."""
        if not program.frozen:
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
    for op in _pir.ops(program.main):
        for value in _pir.results(op):
            value.stop_gradient = True
    variables, _ = name_values(program.main, kept)
    readable = {n: v for n, v in variables.items() if not v.get_defining_op().name().startswith(_pir.ONEDNN)}
    convolutions = [op for op in _pir.ops(program.main) if op.name() in _CONVOLUTIONS]
    count = sum(dtype_of(op.operand_source(0)) == "bfloat16" for op in convolutions)
    aliases = {alias: name for alias, name in program.aliases.items() if name in readable}
    program = replace(program, variables=readable, feeds={n: readable[n] for n in program.feeds}, aliases=aliases)
    return PassResult(program, True, (f"{count} convolutions in bfloat16",), {"convolutions in bfloat16": count})


def _cast(program: NamedProgram, dtype: str) -> PassResult:
    ids = {name: value.id for name, value in program.variables.items()}
    moved: dict[str, _pir.Value] = {}
    for op in [op for op in _pir.ops(program.main) if is_convolution(op) and dtype_of(op.result(0)) == "float32"]:
        with _pir.inserting_before(program.main, op):
            inputs = [paddle.cast(op.operand_source(i), dtype) for i in (0, 1)]
            result = paddle.cast(_convolve(op, *inputs), "float32")
        moved[op.result(0).id] = result
        _pir.put_in_place(program.main, op, result)
    variables = {name: moved.get(ids[name], value) for name, value in program.variables.items()}
    count = len(moved)
    notes = (f"{count} convolutions in {dtype}",) if count else ()
    return PassResult(replace(program, variables=variables), bool(count), notes, {f"convolutions in {dtype}": count})


def _convolve(op: _pir.Operation, x: _pir.Value, weight: _pir.Value) -> _pir.Value:
    """The same convolution of other operands; built anew, so that its result has their number type."""
    a = op.attrs()
    window, form = (a["strides"], a["paddings"], a["padding_algorithm"]), a["data_format"]
    if op.name() == "pd_op.conv2d":
        return paddle._C_ops.conv2d(x, weight, *window, a["dilations"], a["groups"], form)
    return paddle._C_ops.depthwise_conv2d(x, weight, *window, a["groups"], a["dilations"], form)
