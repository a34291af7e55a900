"""Put operators of a training program on kernels of our own, which use all threads and the plain layout."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import paddle

from slim_distill.graph import _pir
from slim_distill.graph.convolutions import convolution_name, convolution_settings, is_winograd
from slim_distill.graph.kernels import custom, load_kernels
from slim_distill.graph.passes._replace import hand_over, retire, without_kernels
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of

__all__ = ["OwnKernels"]

_CONVOLUTION, _DEPTHWISE = "pd_op.conv2d", "pd_op.depthwise_conv2d"
_PLAIN = {"paddings": [1, 1], "dilations": [1, 1], "padding_algorithm": "EXPLICIT", "data_format": "NCHW"}
_TRANSFORMED_BELOW = 1 << 19
_UPDATE_FROM = 1 << 18  # numbers in a parameter; below it one thread of Paddle's kernel is as fast


@dataclass(frozen=True)
class OwnKernels:
    """Exchange operators of a training program for kernels of our own, one by one.

    1. Depthwise 3x3 convolutions of stride 1 or 2 and padding 1, and their gradients where both are wanted. oneDNN's
       change the layout of what they read and write, which takes longer than the convolution.
    2. 3x3 convolutions of stride 1 and padding 1 with 16 channels or more on either side, by Winograd's algorithm:
       gradients of weights; results and gradients of inputs only with fewer than 2^19 weights at each position, because
       these are transformed at every step, and layers with more usually have small maps.
    3. Updates with momentum of parameters of 2^18 numbers or more, which Paddle's kernel computes on one thread.

    In float32, and only on CPUs. Where the kernels cannot be compiled nothing changes, and the refusal says why.
    Apply it before PlaceKernels, which takes depthwise convolutions for itself.

    Apply it behind SplitGradients: where one operator computes both gradients of rule 2, it stays.

    Keeps: every name; every number up to rounding: 4e-6 of the largest with rule 2, less than twice a
        plain sum's.

    Attributes:
        transform_below: weights at each position from which rule 2 leaves results and gradients of inputs alone.
        chosen: names of the convolutions that are exchanged (see `ConvolutionLayer`), if rules 1 and 2 know them; None
            for all of them.
    """

    transform_below: float = _TRANSFORMED_BELOW
    chosen: frozenset[str] | None = None
    name: str = "own_kernels"

    def requires(self, program: NamedProgram) -> None:
        """Nothing is needed."""

    def apply(self, program: NamedProgram) -> PassResult:
        """Exchange them."""
        wanted = [op for op in _pir.ops(program.main) if self._wants(op)]
        why = load_kernels() if wanted else ""
        if why or not wanted:
            return without_kernels(program, why, len(wanted))
        moved: dict[str, _pir.Value] = {}
        for op in wanted:
            with _pir.inserting_before(program.main, op):
                new = _EXCHANGES[op.name().removesuffix("_")](op)
            # The gradient of weights is a second result, and called so, whether or not there is a first.
            old, tag = _pir.results(op), _pir.op_tag(op)
            name = f"{tag}@1" if tag is not None and not op.result(0).initialized() else tag
            moved |= hand_over(old, new, name)
        count = Counter(op.name().removeprefix("pd_op.").removesuffix("_") for op in wanted)
        shown = ", ".join(f"{n} {name}" for name, n in sorted(count.items()))
        program = retire(program, {op.id() for op in wanted}, moved)
        return PassResult(program, True, (f"own kernels: {shown}",), {"operators on own kernels": len(wanted)})

    def ensures(self, program: NamedProgram) -> None:
        """Nothing is promised beyond the numbers."""

    def _wants(self, op: _pir.Operation) -> bool:
        name = op.name().removesuffix("_")
        if name not in _EXCHANGES or dtype_of(op.operand_source(0)) != "float32":
            return False
        if name == "pd_op.momentum":
            return _is_large_update(op)
        if self.chosen is not None and convolution_name(op) not in self.chosen:
            return False
        if name.startswith(_DEPTHWISE):
            return _is_depthwise(op)
        # An operator that computes both gradients is none of ours.
        of_weights = name.endswith("_grad") and op.result(1).initialized()
        if not is_winograd(op) or (of_weights and op.result(0).initialized()):
            return False
        few = self.chosen is not None or math.prod(op.operand_source(1).shape[:2]) < self.transform_below
        return of_weights or few


def _is_large_update(op: _pir.Operation) -> bool:
    attributes = op.attrs()
    usual = attributes["regularization_method"] in ("", "l2_decay") and attributes["rescale_grad"] == 1.0
    return usual and not attributes["multi_precision"] and math.prod(op.operand_source(0).shape) >= _UPDATE_FROM


def _is_depthwise(op: _pir.Operation) -> bool:
    settings, weights = convolution_settings(op), op.operand_source(1).shape
    plain = all(settings[key] == value for key, value in _PLAIN.items()) and settings["strides"] in ([1, 1], [2, 2])
    wanted = all(v.initialized() for v in op.results()[:2]) if op.name().endswith("_grad") else True
    return plain and wanted and list(weights[1:]) == [1, 3, 3] and settings["groups"] == weights[0]


def _convolution(op: _pir.Operation) -> list[_pir.Value]:
    x, weights = op.operands_source()[:2]
    return _winograd(x, weights, turned=False)


def _convolution_gradient(op: _pir.Operation) -> list[_pir.Value]:
    x, weights, of_result = op.operands_source()[:3]
    if op.result(1).initialized():
        return custom("winograd_weights_backward", [x, of_result])
    return _winograd(of_result, weights, turned=True)


def _winograd(x: _pir.Value, weights: _pir.Value, *, turned: bool) -> list[_pir.Value]:
    channels = weights.shape[int(turned)]
    transformed = custom("winograd_weights", [weights], turned)
    return custom("winograd", [x, *transformed, paddle.zeros([channels])], channels, 1.0)


def _depthwise(op: _pir.Operation) -> list[_pir.Value]:
    return custom("depthwise_conv2d", op.operands_source()[:2], op.attrs()["strides"][0])


def _depthwise_gradient(op: _pir.Operation) -> list[_pir.Value]:
    return custom("depthwise_conv2d_backward", op.operands_source()[:3], op.attrs()["strides"][0])


def _momentum(op: _pir.Operation) -> list[_pir.Value]:
    attributes = op.attrs()
    decay = attributes["regularization_coeff"] if attributes["regularization_method"] else 0.0
    return custom("momentum", op.operands_source()[:4], attributes["mu"], decay, attributes["use_nesterov"])


_EXCHANGES: Mapping[str, Callable[[_pir.Operation], Sequence[_pir.Value]]] = {
    _CONVOLUTION: _convolution,
    f"{_CONVOLUTION}_grad": _convolution_gradient,
    _DEPTHWISE: _depthwise,
    f"{_DEPTHWISE}_grad": _depthwise_gradient,
    "pd_op.momentum": _momentum,
}
