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
_MANY_WEIGHTS = 1 << 17


@dataclass(frozen=True)
class PlaceKernels:
    """Put convolutions, their gradients and those of activations on oneDNN, operator by operator.

    1. Depthwise convolutions, where Paddle's own kernel is a plain loop.
    2. Convolutions with a kernel larger than 1x1, where Paddle's own kernel copies every patch before its matrix
       product. A 1x1 convolution is one matrix product already and stays: there oneDNN's changes of layout cost more
       than it wins.
    3. Gradients of 1x1 convolutions with 2^17 weights or more. Paddle's own kernel adds up the gradient of the weights
       image by image, and each time all of it passes through memory.
    4. Gradients of relu and leaky relu, which Paddle's own kernels compute on one thread.

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
        pointwise: place 1x1 convolutions too.
        chosen: names of the convolutions that are placed (see `ConvolutionLayer`), whatever rules 1 to 3 say; None to
            go by them.
    """

    device: str = "cpu"
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
        *channels, height, width = op.operand_source(1).shape
        heavy = op.name().endswith("_grad") and math.prod(channels) >= _MANY_WEIGHTS
        return op.name().startswith(_DEPTHWISE) or self.pointwise or height * width > 1 or heavy
