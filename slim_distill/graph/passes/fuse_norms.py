"""Batch norms of what trains, each with the activation behind it, on one kernel of our own, forward and backward."""

from dataclasses import dataclass

from slim_distill.graph import _pir
from slim_distill.graph.kernels import custom, load_kernels
from slim_distill.graph.passes._replace import hand_over, retire, without_kernels
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of

__all__ = ["FuseNorms"]

_NORM, _GRADIENT = "pd_op.batch_norm", "pd_op.batch_norm_grad"
_ACTIVATIONS = ("pd_op.relu", "pd_op.leaky_relu")


@dataclass(frozen=True)
class _Match:
    """A norm with what belongs to it; activation and its gradient are absent where something else reads the norm.

    Attributes:
        norm, gradient: batch norm in training mode and its gradient.
        activation, of_activation: the only reader of the norm's result, and its gradient.
        slope: of the activation below 0; 1.0 for none.
    """

    norm: _pir.Operation
    gradient: _pir.Operation
    activation: _pir.Operation | None = None
    of_activation: _pir.Operation | None = None
    slope: float = 1.0

    def ops(self) -> list[_pir.Operation]:
        found = (self.norm, self.activation, self.gradient, self.of_activation)
        return [op for op in found if op is not None]


@dataclass(frozen=True)
class FuseNorms:
    """Put batch norms in training mode on kernels that take channel by channel, on all threads.

    Paddle's own kernels use one thread and pass through memory once for every step: mean, variance, result,
    activation; and again in the backward pass. Here a channel stays in the cache from one step to the next.

    1. batch_norm and batch_norm_grad in float32, [N, C, H, W] or [N, C].
    2. The same with a relu or leaky relu of slope >= 0 behind it, if nothing else reads the norm's result.

    Only where the backward pass is in the program, and only on CPUs. Where the kernels cannot be compiled nothing
    changes, and the refusal says why. Apply it before PlaceKernels, which takes gradients of activations for itself.

    Keeps: every number up to rounding; every name but those of norms that only an activation reads.
    """

    name: str = "fuse_norms"

    def requires(self, program: NamedProgram) -> None:
        """Nothing is needed."""

    def apply(self, program: NamedProgram) -> PassResult:
        """Replace them."""
        matches = _find(program)
        why = load_kernels() if matches else ""
        if why or not matches:
            return without_kernels(program, why, len(matches))
        moved: dict[str, _pir.Value] = {}
        dead: set[int] = set()
        for match in matches:
            moved |= _replace(program.main, match)
            dead |= {op.id() for op in match.ops()}
        counts = {"norms fused": len(matches)}
        return PassResult(retire(program, dead, moved), True, counts=counts)

    def ensures(self, program: NamedProgram) -> None:
        """Nothing is promised beyond the numbers."""


def _find(program: NamedProgram) -> list[_Match]:
    ops = _pir.ops(program.main)
    # Both know the batch's mean: the norm has it among its results, the gradient reads it.
    gradients = {op.operand_source(5).id: op for op in ops if op.name() == _GRADIENT}
    found = []
    for op in ops:
        if op.name().removesuffix("_") != _NORM or not _is_plain(op):
            continue
        gradient = gradients.get(op.result(3).id)
        if gradient is None or not all(v.initialized() for v in gradient.results()):
            continue
        found.append(_with_activation(op, gradient))
    return found


def _is_plain(norm: _pir.Operation) -> bool:
    attributes = norm.attrs()
    x = norm.operand_source(0)
    training = not attributes["is_test"] and not attributes["use_global_stats"]
    return training and attributes["data_format"] == "NCHW" and dtype_of(x) == "float32" and len(x.shape) in (2, 4)


def _with_activation(norm: _pir.Operation, gradient: _pir.Operation) -> _Match:
    alone = _Match(norm, gradient)
    readers = norm.result(0).all_used_ops()
    activations = [op for op in readers if op.name().removesuffix("_") in _ACTIVATIONS]
    of_result = gradient.operand_source(8).get_defining_op()
    if len(activations) != 1 or of_result is None or not gradient.operand_source(8).has_one_use():
        return alone
    activation = activations[0]
    kind = activation.name().removesuffix("_")
    if of_result.name().removesuffix("_") != f"{kind}_grad":
        return alone
    # A relu's gradient reads its result, a leaky relu's what it was applied to.
    reads = activation.result(0) if kind == "pd_op.relu" else norm.result(0)
    rest = [op for op in readers if op.id() not in (activation.id(), of_result.id())]
    if rest or not of_result.operand_source(0).is_same(reads):
        return alone
    slope = 0.0 if kind == "pd_op.relu" else float(activation.attrs()["negative_slope"])
    return _Match(norm, gradient, activation, of_result, slope) if slope >= 0 else alone


def _replace(program: _pir.Program, match: _Match) -> dict[str, _pir.Value]:
    """Build both kernels: {id of a result that is replaced: the value that stands for it}."""
    norm, gradient, slope = match.norm, match.gradient, match.slope
    x, mean, variance, scale, bias = norm.operands_source()
    attributes = norm.attrs()
    with _pir.inserting_before(program, norm):
        settings = attributes["momentum"], attributes["epsilon"], slope
        y, saved_mean, saved_inverse, new_mean, new_variance = custom(
            "batch_norm", [x, mean, variance, scale, bias], *settings
        )
    last = norm if match.activation is None else match.activation
    of_y = gradient.operand_source(8) if match.of_activation is None else match.of_activation.operand_source(1)
    with _pir.inserting_before(program, gradient):
        of_inputs = custom("batch_norm_backward", [x, scale, bias, saved_mean, saved_inverse, of_y], slope)
    statistics = [new_mean, new_variance, saved_mean, saved_inverse]
    return {
        **hand_over([last.result(0), *norm.results()[1:5]], [y, *statistics], _pir.op_tag(last)),
        **hand_over(gradient.results(), of_inputs, _pir.op_tag(gradient)),
    }
