"""Compute the 3x3 convolutions of a frozen program with a quarter of the multiplications."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.convolutions import is_winograd
from slim_distill.graph.kernels import compute, custom, load_kernels
from slim_distill.graph.passes._replace import hand_over, retire, without_kernels
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["Winograd"]

_FUSED = "onednn_op.fused_conv2d"
_TRANSFORMED_BELOW = 1 << 19
_SUFFIX = ".winograd"


@dataclass(frozen=True)
class Winograd:
    """Exchange fused convolutions of oneDNN for Winograd's algorithm F(4x4, 3x3), on kernels of our own.

    1. 3x3, stride 1, padding 1, float32, 16 channels or more on either side, fewer than 2^19 weights at each position,
       with a bias, with or without a residual sum, with relu, leaky relu or no activation.

    The weights are transformed once, here; they take four times the memory, hence the limit. Where the kernels cannot
    be compiled nothing changes, and the refusal says why. Apply it after FuseInference.

    Keeps: every name; every number up to rounding: 4e-6 of its largest number at one convolution, less than twice
        a plain sum's.
    Raises: GraphError for a program that is not frozen.
    """

    name: str = "winograd"

    def requires(self, program: NamedProgram) -> None:
        """The program is frozen."""
        if not program.frozen:
            raise GraphError("the program is not frozen, so its weights cannot be transformed; apply Freeze first")

    def apply(self, program: NamedProgram) -> PassResult:
        """Exchange them."""
        wanted = [op for op in _pir.ops(program.main) if _is_wanted(op, program.values)]
        why = load_kernels() if wanted else ""
        if why or not wanted:
            return without_kernels(program, why, len(wanted))
        weights = {str(_pir.parameter_name(op.operand_source(1))): op.operand_source(1) for op in wanted}
        arrays = compute("winograd_weights", [program.values[name] for name in weights], False)
        values = {name + _SUFFIX: array for name, array in zip(weights, arrays, strict=True)}
        made = {
            name: _pir.clone_parameter(program.main, value, name + _SUFFIX, values[name + _SUFFIX].shape)
            for name, value in weights.items()
        }
        moved: dict[str, _pir.Value] = {}
        for op in wanted:
            moved |= _exchange(program, op, made)
        _pir.convert_for_native_readers(program.main)
        dead = {op.id() for op in (*wanted, *(value.get_defining_op() for value in weights.values()))}
        program = retire(program, dead, moved)
        variables = {**program.variables, **{name + _SUFFIX: value for name, value in made.items()}}
        program = replace(program, variables=variables, values={**program.values, **values})
        return PassResult(program, True, counts={"convolutions by Winograd": len(wanted)})

    def ensures(self, program: NamedProgram) -> None:
        """Nothing is promised beyond the numbers."""


def _is_wanted(op: _pir.Operation, values: Mapping[str, np.ndarray]) -> bool:
    if op.name() != _FUSED or not op.operand_source(2).initialized() or not is_winograd(op):
        return False
    if math.prod(op.operand_source(1).shape[:2]) >= _TRANSFORMED_BELOW:
        return False
    weight, attributes = _pir.parameter_name(op.operand_source(1)), op.attrs()
    plain = attributes["mkldnn_data_type"] == "float32" and attributes["fuse_activation"] in ("", "relu", "leaky_relu")
    return plain and weight in values


def _exchange(program: NamedProgram, op: _pir.Operation, made: Mapping[str, _pir.Value]) -> dict[str, _pir.Value]:
    """Build the new operator before `op`: {id of the old result: the new one}.

    Args:
        program: `op` is in its main program.
        op: a fused convolution.
        made: name of its weight -> the transformed weight.
    """
    x, weight, bias, residual = op.operands_source()
    transformed = made[str(_pir.parameter_name(weight))]
    slope = {"": 1.0, "relu": 0.0}.get(op.attrs()["fuse_activation"], op.attrs()["fuse_alpha"])
    with _pir.inserting_before(program.main, op):
        if residual.initialized():
            new = custom("winograd_sum", [x, transformed, bias, residual], weight.shape[0], slope)
        else:
            new = custom("winograd", [x, transformed, bias], weight.shape[0], slope)
    return hand_over(op.results(), new, _pir.op_tag(op))
