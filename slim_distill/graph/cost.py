"""What the operators of a program cost: floating-point operations, parameters, bytes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from slim_distill.graph import _pir
from slim_distill.graph.flops import OpShapes, Shape, flops, size
from slim_distill.graph.kernels import PREFIX
from slim_distill.graph.program import NamedProgram, dtype_of, shape_of

__all__ = ["BACKWARD", "FORWARD", "PHASES", "UPDATE", "OpCost", "count_operators", "operator_costs", "runs_as"]

FORWARD, BACKWARD, UPDATE = PHASES = ("forward", "backward", "update")

_UPDATES = frozenset(("adam", "adamw", "momentum", "sgd"))
_PLACEHOLDERS = (*_pir.DATA_OPS, "builtin.parameter")
# Operators that only take values together or apart; no kernel runs for them.
_STRUCTURE = ("builtin.combine", "builtin.split", "builtin.shadow_output")


@dataclass(frozen=True)
class OpCost:
    """One operator.

    Attributes:
        owner: prefix of the guest it belongs to; "" for the host.
        name: variable name of its first result.
        kind: the operator; "onednn.KIND" where it runs on oneDNN, "own.KIND" on a kernel of our own.
        phase: forward, backward (from the first gradient on) or update (of a parameter).
        flops: floating-point operations of one run; None where they are not known.
        parameters: numbers in the parameters that it is the first to read, running statistics included.
        weight_bytes: memory of these.
        activation_bytes: memory of its results; dynamic shapes, lists of tensors and what is updated in place count 0.
    """

    owner: str
    name: str
    kind: str
    phase: str
    flops: int | None
    parameters: int
    weight_bytes: int
    activation_bytes: int


def runs_as(op_name: str) -> str | None:
    """The name of an operator's kernel in reports; None for one that no kernel runs for, as a parameter."""
    if op_name in _PLACEHOLDERS or op_name in _STRUCTURE:
        return None
    kind = op_name.split(".")[-1].rstrip("_")
    if kind.startswith(PREFIX):
        return "own." + re.sub("_backward$", "_grad", kind.removeprefix(PREFIX))
    return f"onednn.{kind}" if op_name.startswith(_pir.ONEDNN) else kind


def count_operators(program: NamedProgram) -> int:
    """Number of operators that a run executes, those inside control flow left out."""
    return sum(runs_as(op.name()) is not None for op in _pir.ops(program.main))


def operator_costs(program: NamedProgram) -> list[OpCost]:
    """The cost of every operator that a run of `program` executes, in order.

    Sizes are those in the program: build it for a fixed batch and image size. The body of a control-flow operator is
    not looked into; its FLOPs are not known.
    """
    names = {value.id: name for name, value in program.variables.items()}
    guests = tuple(program.guests)
    read: set[str] = set()
    backward = False
    costs = []
    for op in _pir.ops(program.main):
        kind = runs_as(op.name())
        if kind is None:
            continue
        plain = kind.rpartition(".")[2]
        backward = backward or plain.endswith("_grad")
        phase = UPDATE if plain in _UPDATES else BACKWARD if backward else FORWARD
        name = _name(op, names)
        new = [v for v in _pir.operands(op) if _pir.parameter_name(v) is not None and v.id not in read]
        read |= {value.id for value in new}
        costs.append(
            OpCost(
                owner=next((prefix for prefix in guests if name.startswith(prefix)), ""),
                name=name,
                kind=kind,
                phase=phase,
                flops=flops(_shapes(op, plain)),
                parameters=sum(size(shape_of(value)) for value in new),
                weight_bytes=_bytes(new),
                # An update writes its parameters and moments in place.
                activation_bytes=0 if phase == UPDATE else _bytes(_pir.results(op)),
            )
        )
    return costs


def _name(op: _pir.Operation, names: Mapping[str, str]) -> str:
    for value in _pir.results(op):
        if value.id in names:
            return names[value.id]
    return _pir.op_tag(op) or op.name()


def _shapes(op: _pir.Operation, kind: str) -> OpShapes:
    inputs = [shape for value in op.operands_source() for shape in _members(value)]
    outputs = [shape for value in op.results() for shape in _members(value)]
    return OpShapes(kind, tuple(inputs), tuple(outputs), _attributes(op))


def _members(value: _pir.Value) -> Iterable[Shape | None]:
    """The value's shape, or those of the members of a list of tensors that an operator put together."""
    if not value.initialized():
        return [None]
    if value.is_dense_tensor_type():
        return [shape_of(value)]
    op = value.get_defining_op()
    return [shape_of(v) for v in _pir.operands(op)] if op.name() == "builtin.combine" else [None]


def _attributes(op: _pir.Operation) -> dict[str, Any]:
    if op.num_regions():
        return {}
    attributes = op.attrs()
    if "pool2d" in op.name() and "kernel_size" not in attributes:
        # The window is an operand, a constant unless the program computes it.
        source = op.operand_source(op.num_operands() - 1).get_defining_op()
        if source.name() == "pd_op.full_int_array":
            attributes["kernel_size"] = source.attrs()["value"]
    return attributes


def _bytes(values: Iterable[_pir.Value]) -> int:
    return sum(
        size(shape_of(value)) * _item_bytes(dtype_of(value))
        for value in values
        if value.is_dense_tensor_type() and -1 not in shape_of(value)
    )


def _item_bytes(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
