"""Floating-point operations of an operator from its shapes alone. Pure arithmetic, no Paddle here.

A multiplication, an addition, a comparison, an exponential, a root and a division count as one each, so a
multiply-add is 2 FLOPs; what only moves numbers counts 0. Published tables often give multiply-adds (MACs): half of
these numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

__all__ = ["OpShapes", "Shape", "flops", "size"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class OpShapes:
    """What the count needs to know of an operator.

    Attributes:
        kind: the operator's name without dialect and without the trailing "_" of in-place operators.
        inputs: shape of each operand; None for one that is absent. Members of a list of tensors stand one by one.
        outputs: shape of each result; None for one that is absent, as a gradient nobody asked for.
        attributes: the operator's attributes.
    """

    kind: str
    inputs: tuple[Shape | None, ...]
    outputs: tuple[Shape | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


def size(shape: Shape | None) -> int:
    """Number of elements; 0 for what is absent.

    Raises:
        ValueError: an axis is dynamic (-1).
    """
    if shape is None:
        return 0
    if any(d < 0 for d in shape):
        raise ValueError(f"the shape {list(shape)} has a dynamic axis")
    return prod(shape)


def flops(op: OpShapes) -> int | None:
    """FLOPs of one run of an operator, or None where they are not known: another kind, or a dynamic shape it needs."""
    try:
        if op.kind in _COUNTS:
            return _COUNTS[op.kind](op)
        forward = op.kind.removesuffix("_grad")
        if forward != op.kind and forward in _PER_ELEMENT:
            return _elementwise_grad(op, _PER_ELEMENT[forward])
    except ValueError:
        return None
    return 0 if forward in _FREE else None


def _present(shapes: tuple[Shape | None, ...]) -> list[Shape]:
    return [shape for shape in shapes if shape is not None]


def _known(shapes: tuple[Shape | None, ...], index: int) -> Shape:
    if index >= len(shapes) or shapes[index] is None:
        raise ValueError(f"no shape {index}")
    return shapes[index] or ()


def _per_output(n: int) -> Callable[[OpShapes], int]:
    return lambda op: n * size(_known(op.outputs, 0))


def _per_input(n: int) -> Callable[[OpShapes], int]:
    return lambda op: n * size(_known(op.inputs, 0))


def _elementwise_grad(op: OpShapes, n: int) -> int:
    """Each gradient that is asked for takes as much an element as the operator itself."""
    return n * len(_present(op.outputs)) * max(size(shape) for shape in _present(op.inputs))


def _convolution(op: OpShapes) -> int:
    """2 FLOPs for each output element and weight of its filter [out, in / groups, kh, kw]."""
    return 2 * size(_known(op.outputs, 0)) * size(_known(op.inputs, 1)[1:])


def _fused_convolution(op: OpShapes) -> int:
    """A convolution, and one FLOP an element for each of bias, residual sum and activation."""
    extras = len(_present(op.inputs[2:4])) + bool(op.attributes.get("fuse_activation"))
    return _convolution(op) + extras * size(op.outputs[0])


def _convolution_grad(op: OpShapes) -> int:
    """Operands input, filter, gradient of the output: each gradient takes as much as the convolution itself."""
    one = 2 * size(_known(op.inputs, 2)) * size(_known(op.inputs, 1)[1:])
    return one * len(_present(op.outputs[:2]))


def _winograd(op: OpShapes) -> int:
    """Products of the 36 points of each tile of 4x4 results, and what follows; the transforms are not counted."""
    images, inputs, height, width = _known(op.inputs, 0)
    outputs = _known(op.outputs, 0)[1]
    tiles = size((images, *(-(-d // 4) if d > 0 else d for d in (height, width))))
    activation = op.attributes.get("slope") != 1.0
    return 72 * tiles * inputs * outputs + (len(op.inputs) - 2 + activation) * size(op.outputs[0])


def _winograd_grad(op: OpShapes) -> int:
    """Of the weights; operands input and gradient of the output."""
    of_output = _known(op.inputs, 1)
    return _winograd(OpShapes("winograd", (op.inputs[0], None), (of_output,), {"slope": 1.0}))


def _transposed_convolution(op: OpShapes) -> int:
    """2 FLOPs for each input element and weight of its filter [in, out / groups, kh, kw]."""
    return 2 * size(_known(op.inputs, 0)) * size(_known(op.inputs, 1)[1:])


def _inner(op: OpShapes) -> int:
    """Length of the sums of a matrix product."""
    left = _known(op.inputs, 0)
    axis = -2 if op.attributes.get("transpose_x") and len(left) > 1 else -1
    return size(left[axis:][:1])


def _matmul(op: OpShapes) -> int:
    return 2 * size(_known(op.outputs, 0)) * _inner(op)


def _matmul_grad(op: OpShapes) -> int:
    """Operands left, right, gradient of the product."""
    return 2 * size(_known(op.inputs, 2)) * _inner(op) * len(_present(op.outputs))


def _batch_norm(op: OpShapes) -> int:
    """In test mode scale and offset only; in training also mean, variance and difference."""
    still = op.attributes.get("is_test") or op.attributes.get("use_global_stats")
    return (2 if still else 7) * size(_known(op.inputs, 0))


def _pool(op: OpShapes) -> int:
    """One FLOP for each element that is looked at."""
    whole = op.attributes.get("global_pooling") or op.attributes.get("adaptive")
    kernel = op.attributes.get("kernel_size")
    if whole or kernel is None:
        return size(_known(op.inputs, 0))
    return size(_known(op.outputs, 0)) * prod(kernel)


def _pool_grad(op: OpShapes) -> int:
    """Operands input, output, gradient of the output."""
    result = _known(op.inputs, 2)
    return _pool(OpShapes("pool2d", op.inputs, (result,), op.attributes))


def _sum_of_many(op: OpShapes) -> int:
    return max(len(_present(op.inputs)) - 1, 0) * size(_known(op.outputs, 0))


def _momentum(op: OpShapes) -> int:
    decays = op.attributes.get("regularization_method") == "l2_decay" or op.attributes.get("decay")
    return (6 if decays else 4) * size(_known(op.outputs, 0))


# Operators that only move or make numbers.
_FREE = frozenset((
    "arange", "assign", "assign_value", "cast", "combine", "concat", "copy", "data", "embedding", "expand",
    "expand_as", "feed", "fetch", "flatten", "full", "full_int_array", "full_like", "full_with_tensor", "gather",
    "gather_nd", "gaussian", "increment", "memcpy", "nearest_interp", "one_hot", "onednn_to_paddle_layout", "pad",
    "pad3d", "print", "reshape", "scatter", "set_value", "shadow_output", "shape", "shape64", "share_buffer",
    "share_data", "slice", "split", "split_with_num", "squeeze", "stack", "strided_slice", "tile", "transpose",
    "tril", "triu", "uniform", "unsqueeze", "unstack", "where",
))  # fmt: skip

_ONE_EACH = (
    "abs", "add", "ceil", "clip", "cos", "divide", "elementwise_pow", "equal", "exp", "floor", "greater_equal",
    "greater_than", "hardsigmoid", "leaky_relu", "less_equal", "less_than", "log", "log1p", "log2", "logical_and",
    "logical_not", "logical_or", "maximum", "minimum", "multiply", "not_equal", "pow", "reciprocal", "relu", "relu6",
    "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "subtract", "tanh",
)  # fmt: skip
# Elementwise operators: FLOPs for one element of the result.
_PER_ELEMENT: Mapping[str, int] = {
    **dict.fromkeys(_ONE_EACH, 1),
    **dict.fromkeys(("scale", "hardswish", "swish", "silu", "elu", "gelu", "dropout", "softplus"), 2),
    "lerp": 3,
    "huber_loss": 4,
    "sigmoid_cross_entropy_with_logits": 5,
    "kldiv_loss": 3,
    "bilinear_interp": 9,  # three linear interpolations
    **dict.fromkeys(("softmax", "log_softmax"), 5),  # largest, difference, exponential, sum, quotient
}

_COUNTS: Mapping[str, Callable[[OpShapes], int]] = {
    **{kind: _per_output(n) for kind, n in _PER_ELEMENT.items()},
    **dict.fromkeys(("conv2d", "depthwise_conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv2d_grad", "depthwise_conv2d_grad", "conv3d_grad"), _convolution_grad),
    **dict.fromkeys(("conv2d_transpose", "depthwise_conv2d_transpose"), _transposed_convolution),
    "fused_conv2d": _fused_convolution,
    **dict.fromkeys(("winograd", "winograd_sum"), _winograd),
    "winograd_weights": lambda op: 117 * size(_known(op.inputs, 0)[:2]),  # 9 times 13 for a kernel
    "winograd_weights_grad": _winograd_grad,
    **dict.fromkeys(("matmul", "bmm", "mm"), _matmul),
    **dict.fromkeys(("matmul_grad", "bmm_grad"), _matmul_grad),
    "batch_norm": _batch_norm,
    "batch_norm_grad": _per_input(10),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _per_input(7)),
    **dict.fromkeys(("layer_norm_grad", "group_norm_grad", "instance_norm_grad"), _per_input(10)),
    "pool2d": _pool,
    "pool2d_grad": _pool_grad,
    **dict.fromkeys(("cumsum", "max", "mean", "min", "prod", "sum", "argmax", "argmin", "any", "all"), _per_input(1)),
    **dict.fromkeys(("p_norm", "squared_l2_norm", "logsumexp"), _per_input(2)),
    **dict.fromkeys(("mean_grad", "sum_grad", "max_grad", "min_grad"), _per_output(1)),
    **dict.fromkeys(("softmax_grad", "log_softmax_grad"), _per_output(4)),
    "add_n": _sum_of_many,
    "sgd": _per_output(2),
    "momentum": _momentum,
    "adam": _per_output(12),
    "adamw": _per_output(14),
}
