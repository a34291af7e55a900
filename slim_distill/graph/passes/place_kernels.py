"""Put the operators of a training program on the faster kernel for each. CPU only."""

import math
from collections import Counter
from dataclasses import dataclass

from slim_distill.graph import _pir
from slim_distill.graph.convolutions import convolution_name, is_convolution
from slim_distill.graph.passes._placement import only_cpus, place
from slim_distill.graph.passes._replace import retire
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of

__all__ = ["PlaceKernels"]

_DEPTHWISE = "pd_op.depthwise_conv2d"
_ACTIVATIONS = ("pd_op.relu_grad", "pd_op.leaky_relu_grad")


@dataclass(frozen=True)
class _Bounds:
    """Between which numbers of weights oneDNN's gradients are faster than Paddle's own, which are one GEMM an image.

    Attributes:
        input_from: gradient of the input of a 1x1 convolution, with so many weights or more.
        weights_from: gradient of the weights of a 1x1 convolution, with so many or more.
        weights_below: gradient of the weights of a larger kernel, with fewer than this at each of its positions.
    """

    input_from: int
    weights_from: int
    weights_below: float


# Measured on AMD EPYC, 2 cores: docs/performance.md.
_AVX512 = _Bounds(1 << 17, 1 << 17, math.inf)
_AVX2 = _Bounds(1 << 19, 1 << 20, 1 << 15)


@dataclass(frozen=True)
class PlaceKernels:
    """Put convolutions, their gradients and those of activations on oneDNN, operator by operator.

    1. Depthwise convolutions, where Paddle's own kernel is a plain loop.
    2. Convolutions with a kernel larger than 1x1, where Paddle's own kernel copies every patch before its matrix
       product, and the gradients of their inputs. A 1x1 convolution is one matrix product already and stays: there
       oneDNN's changes of layout cost more than it wins.
    3. Gradients of weights for kernels larger than 1x1, but without AVX-512 only those with fewer than 2^15 weights
       at each position of the kernel: with more, oneDNN's kernel for AVX2 is slower than patches and a product.
    4. Gradients of 1x1 convolutions with 2^17 weights or more; without AVX-512 with 2^19 (inputs) and 2^20 (weights).
       Paddle's own kernel works image by image, and each time all weights, or their gradient, pass through memory.
    5. Gradients of relu and leaky relu, which Paddle's own kernels compute on one thread.

    Batch norms and their gradients stay. oneDNN has them, but between convolutions whose forward and backward passes
    ask for different layouts it is slower than one thread of Paddle's own kernels (measured: 41 ms against 27 ms for
    the 47 batch norms of a YOLOv3-MobileNetV1 step). So do the activations themselves, which work in place.

    Results are converted back to the plain layout, so that every name can be fetched and read by any operator.

    On any other device than a CPU nothing changes, and a note says so; likewise for operators that oneDNN does not
    have in the program's number type.

    Keeps: every name; every number up to rounding.
    Raises: GraphError when Paddle's placement does not map the program one to one.

    Attributes:
        device: where the program will run: "cpu", or anything else to leave it alone.
        avx512: whether the CPU has AVX-512, see rules 3 and 4. They were measured for gradients that are split
            (`SplitGradients`); one that computes both halves goes by the rule for weights.
        pointwise: place every convolution and gradient, 1x1 convolutions too.
        chosen: names of the convolutions that are placed (see `ConvolutionLayer`), whatever rules 1 to 4 say; None to
            go by them.
    """

    device: str = "cpu"
    avx512: bool = True
    pointwise: bool = False
    chosen: frozenset[str] | None = None
    name: str = "place_kernels"

    def requires(self, program: NamedProgram) -> None:
        """Nothing is needed."""

    def apply(self, program: NamedProgram) -> PassResult:
        """Replace operators by their oneDNN twins."""
        if self.device != "cpu":
            return only_cpus(program, self.device)
        wanted = [op for op in _pir.ops(program.main) if self._wants(op)]
        if not wanted:
            return PassResult(program, False)
        result = place(program.main, wanted, training=True)
        if not result.placed:
            return PassResult(program, False, result.notes, refusals=result.refusals)
        count = Counter(name.removeprefix("pd_op.") for name in result.placed)
        shown = ", ".join(f"{n} {name}" for name, n in sorted(count.items()))
        program = retire(program, result.dead, result.moved)
        counts = {"operators placed on oneDNN": len(result.placed)}
        return PassResult(program, True, (f"on oneDNN: {shown}", *result.notes), counts, result.refusals)

    def ensures(self, program: NamedProgram) -> None:
        """No name stands for a value in a layout that only oneDNN reads."""

    def _wants(self, op: _pir.Operation) -> bool:
        if op.name().removesuffix("_") in _ACTIVATIONS:
            return dtype_of(op.operand_source(0)) == "float32"
        if not is_convolution(op):
            return False
        if self.chosen is not None:
            return convolution_name(op) in self.chosen
        if op.name().startswith(_DEPTHWISE) or self.pointwise:
            return True
        *channels, height, width = op.operand_source(1).shape
        return self._is_faster(op, math.prod(channels), pointwise=height * width == 1)

    def _is_faster(self, op: _pir.Operation, weights: int, *, pointwise: bool) -> bool:
        """By the number of weights at each position of the kernel."""
        if not op.name().endswith("_grad"):
            return not pointwise
        bounds = _AVX512 if self.avx512 else _AVX2
        of_weights = op.result(1).initialized()
        if pointwise:
            return weights >= (bounds.weights_from if of_weights else bounds.input_from)
        return not of_weights or weights < bounds.weights_below
