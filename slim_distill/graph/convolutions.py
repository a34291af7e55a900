"""The convolutions of a program, each as a program of its own, so that kernels for it can be compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paddle import static

from slim_distill.graph import _pir
from slim_distill.graph.program import NamedProgram, dtype_of, shape_of
from slim_distill.graph.trace import name_program

__all__ = [
    "ConvolutionLayer",
    "convolution_layers",
    "convolution_name",
    "convolution_settings",
    "is_convolution",
    "is_winograd",
]

_KINDS = ("pd_op.conv2d", "pd_op.depthwise_conv2d")
_WINOGRAD = {
    "strides": [1, 1], "paddings": [1, 1], "dilations": [1, 1], "groups": 1, "padding_algorithm": "EXPLICIT",
    "data_format": "NCHW",
}  # fmt: skip
_FEW = 16  # channels below which vectors of channels are mostly empty
_ATTRIBUTES = ("strides", "paddings", "padding_algorithm", "dilations", "groups", "data_format")


@dataclass(frozen=True)
class ConvolutionLayer:
    """One convolution on Paddle's own kernel, or the gradient of one.

    Attributes:
        name: the name of its weight; with "@GRAD" behind it for the gradient of the weight (and of the input, where
            one operator computes both), with "@INPUT@GRAD" for that of the input alone.
        key: operators, attributes, number type and shapes in one line; layers of one key cost the same.
        program: the operator alone. Its operands are feeds, its results the other variables.
    """

    name: str
    key: str
    program: NamedProgram


def is_convolution(op: _pir.Operation) -> bool:
    """Whether this is a float32 convolution, or the gradient of one, on Paddle's own kernel."""
    return op.name().removesuffix("_grad") in _KINDS and dtype_of(op.operand_source(0)) == "float32"


def convolution_name(op: _pir.Operation) -> str | None:
    """The name of a convolution or gradient, see `ConvolutionLayer`; None where the weight is no parameter."""
    weight = _pir.parameter_name(op.operand_source(1))
    if weight is None or not op.name().endswith("_grad"):
        return weight
    return f"{weight}@GRAD" if op.result(1).initialized() else f"{weight}@INPUT@GRAD"


def convolution_settings(op: _pir.Operation) -> dict[str, Any]:
    """Strides, padding and the like, which a convolution and its gradient have in common."""
    attributes = op.attrs()
    return {name: attributes[name] for name in _ATTRIBUTES}


def is_winograd(op: _pir.Operation) -> bool:
    """Whether our kernels for Winograd's algorithm know this kind of convolution, and it has enough channels."""
    settings, shape = convolution_settings(op), list(op.operand_source(1).shape)
    known = all(settings[key] == value for key, value in _WINOGRAD.items())
    return known and shape[2:] == [3, 3] and min(shape[:2]) >= _FEW


def convolution_layers(program: NamedProgram) -> list[ConvolutionLayer]:
    """The float32 convolutions of a program and their gradients that run on Paddle's own kernels, in order.

    Shapes are those in the program: build it for a fixed batch and image size. The program itself is left unchanged.
    """
    groups: dict[str, list[_pir.Operation]] = {}
    for op in _pir.ops(program.main):
        name = convolution_name(op) if is_convolution(op) else None
        if name is not None:
            groups.setdefault(name, []).append(op)
    alone: dict[str, NamedProgram] = {}
    layers = []
    for name, ops in groups.items():
        key = json.dumps([_describe(op) for op in ops])
        if key not in alone:
            alone[key] = _isolate(ops)
        layers.append(ConvolutionLayer(name, key, alone[key]))
    return layers


def _describe(op: _pir.Operation) -> dict[str, object]:
    return {
        "op": op.name().removeprefix("pd_op."),
        "dtype": dtype_of(op.operand_source(0)),
        "inputs": [list(shape_of(value)) for value in _pir.operands(op)],
        "results": [list(shape_of(v)) if v.initialized() else None for v in op.results()],
        **convolution_settings(op),
    }


def _isolate(ops: Sequence[_pir.Operation]) -> NamedProgram:
    """The operators in a program of their own; each value that they read becomes a feed."""
    main, mapping = static.Program(), _pir.new_mapping()
    mapped: set[str] = set()
    with static.program_guard(main):
        for op in ops:
            for value in _pir.operands(op):
                if value.id not in mapped:
                    feed = static.data(f"operand_{len(mapped)}", list(shape_of(value)), dtype_of(value))
                    mapping.add(value, feed)
                    mapped.add(value.id)
            _pir.clone_op(op, mapping)
    return name_program(main)
