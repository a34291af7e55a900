"""Compute the two gradients of a convolution by operators of their own, so that each can have its own kernel."""

import math
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F

from slim_distill.graph import _pir
from slim_distill.graph.convolutions import convolution_settings, is_convolution
from slim_distill.graph.passes._replace import retire
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["SplitGradients"]

_GRADIENT = "pd_op.conv2d_grad"


@dataclass(frozen=True)
class SplitGradients:
    """Replace each gradient of a convolution by two operators: one for its input, then one for its weights.

    1. conv2d_grad in float32 that computes both. Depthwise gradients stay: both halves are faster on oneDNN.
    2. Gradients of the weights of kernels larger than 1x1 with `product_from` weights or more at each position become
       one matrix product over the patches of all images. Paddle's own kernel makes one for each image and adds them
       up, so that all these numbers pass through memory as often; on maps of 4x4 that takes longer than the products.

    Nothing is computed twice: the halves share no work inside any kernel. The one for the weights comes last, so that
    the update of the weights, which must wait for both, finds it in the cache.

    Keeps: every name; every number, with rule 1 bit for bit as long as both halves run where the whole did.

    Attributes:
        product_from: see rule 2; by default it is never applied.
    """

    product_from: float = math.inf
    name: str = "split_gradients"

    def requires(self, program: NamedProgram) -> None:
        """Nothing is needed."""

    def apply(self, program: NamedProgram) -> PassResult:
        """Split them."""
        forward: dict[tuple[str, str, str], _pir.Operation] = {}
        dead: set[int] = set()
        moved: dict[str, _pir.Value] = {}
        for op in _pir.ops(program.main):
            if not is_convolution(op):
                continue
            if op.name() != _GRADIENT:
                forward[_key(op)] = op
            elif op.result(1).initialized() and _key(op) in forward:
                halves = self._split(program.main, op, forward[_key(op)])
                if halves:
                    moved |= halves
                    dead.add(op.id())
        if not dead:
            return PassResult(program, False)
        return PassResult(retire(program, dead, moved), True, counts={"gradients split": len(dead)})

    def ensures(self, program: NamedProgram) -> None:
        """Nothing is promised beyond the numbers."""

    def _split(self, program: _pir.Program, op: _pir.Operation, forward: _pir.Operation) -> dict[str, _pir.Value]:
        """Operators before `op` for what it computes: {id of its result: the value that stands for it}."""
        product = _is_plain(op) and math.prod(op.operand_source(1).shape[:2]) >= self.product_from
        of_input, of_weights = op.results()
        if not of_input.initialized() and not product:
            return {}
        tag = _pir.op_tag(op)
        moved: dict[str, _pir.Value] = {}
        if of_input.initialized():
            moved[of_input.id] = _pir.gradient_before(program, op, forward, 0)
            _tag(moved[of_input.id], tag)
        if product:
            with _pir.inserting_before(program, op):
                moved[of_weights.id] = _product(op)
            _tag(moved[of_weights.id], tag and f"{tag}@1")
        else:
            moved[of_weights.id] = _pir.gradient_before(program, op, forward, 1)
            _tag(moved[of_weights.id], tag)  # still the second result, and called so
        for old in _pir.results(op):
            moved[old.id].stop_gradient = old.stop_gradient
            old.replace_all_uses_with(moved[old.id])
        return moved


def _tag(value: _pir.Value, tag: str | None) -> None:
    if tag is not None:
        _pir.set_op_tag(value.get_defining_op(), tag)


def _key(op: _pir.Operation) -> tuple[str, str, str]:
    """What a convolution and its gradient have in common."""
    return op.operand_source(0).id, op.operand_source(1).id, str(convolution_settings(op))


def _is_plain(op: _pir.Operation) -> bool:
    """Whether `_product` knows this kind of convolution, and it is larger than 1x1."""
    settings = convolution_settings(op)
    kind = settings["groups"], settings["data_format"], settings["padding_algorithm"], len(settings["paddings"])
    return kind == (1, "NCHW", "EXPLICIT", 2) and math.prod(op.operand_source(1).shape[2:]) > 1


def _product(op: _pir.Operation) -> _pir.Value:
    """Gradient of the weights [out, in, kh, kw]: that of the results [out, N P] times the patches [N P, in kh kw]."""
    x, weights, of_results = op.operands_source()
    settings, shape = convolution_settings(op), weights.shape
    patches = F.unfold(x, shape[2:], settings["strides"], settings["paddings"], settings["dilations"])
    patches = paddle.reshape(paddle.transpose(patches, [1, 0, 2]), [math.prod(shape[1:]), -1])
    of_results = paddle.reshape(paddle.transpose(of_results, [1, 0, 2, 3]), [shape[0], -1])
    return paddle.reshape(paddle.matmul(of_results, patches, transpose_y=True), shape)
