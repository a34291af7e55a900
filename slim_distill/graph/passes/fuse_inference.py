"""Run a frozen program on oneDNN's inference kernels, with what can be fused fused. CPU only."""

from collections import Counter
from dataclasses import dataclass

from paddle.nn import functional

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir
from slim_distill.graph.passes._pieces import edit_in_pieces
from slim_distill.graph.passes._placement import only_cpus, place
from slim_distill.graph.passes._replace import renamed
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram

__all__ = ["FuseInference"]

_FUSE_SUMS = ("depthwise_conv_onednn_pass", "conv2d_bias_fuse_pass", "conv_elementwise_add_onednn_fuse_pass")
_FUSE_ACTIVATIONS = ("conv_activation_onednn_fuse_pass",)
# What stands between convolutions and runs on oneDNN in this Paddle. Interpolation does not: its list of scales cannot
# be handed over ("ConvertPirAttribute2RuntimeAttribute not support").
_PLACEABLE = frozenset(
    f"pd_op.{name}"
    for name in ("add", "concat", "conv2d", "depthwise_conv2d", "leaky_relu", "pool2d", "relu", "relu6", "sigmoid")
)
# Feeds, constants and changes of layout: nothing to place.
_NO_WORK = (*_pir.DATA_OPS, "pd_op.full", "pd_op.full_int_array", "pd_op.onednn_to_paddle_layout")
_LEAKY = "pd_op.leaky_relu"
_FUSED = "onednn_op.fused_conv2d"


@dataclass(frozen=True)
class FuseInference:
    """Let Paddle's own passes fuse and place a frozen program on oneDNN.

    1. Convolution + bias + residual sum + activation become one fused operator.
    2. Every operator that oneDNN has is put on oneDNN, so that data stay in its layouts.
    3. Each variable of `keep` is converted to the layout that all operators can read.

    On any other device than a CPU nothing changes, and a note says so. Apply FoldBatchNorm before, or there is little
    to fuse.

    Keeps: every variable of `keep`, and the number behind it up to rounding (1e-5 relative to its largest entry).
        Other names are kept only where their values still exist and every operator can read them.
    Raises: GraphError for a program that is not frozen or an empty `keep`; VariableNotFoundError for an unknown name.

    Attributes:
        keep: variables that must still be there afterwards.
        device: where the program will run: "cpu", or anything else to leave it alone.
    """

    keep: tuple[str, ...]
    device: str = "cpu"
    name: str = "fuse_inference"

    def requires(self, program: NamedProgram) -> None:
        """The program is frozen and has what is to be kept."""
        if not program.frozen:
            raise GraphError("the program is not frozen, so it cannot run on inference kernels; apply Freeze first")
        if not self.keep:
            raise GraphError("nothing to keep: name at least one variable")
        for name in self.keep:
            program.canonical(name)

    def apply(self, program: NamedProgram) -> PassResult:
        """Fuse, place, convert."""
        if self.device != "cpu":
            return only_cpus(program, self.device)
        if _placed(program):
            return PassResult(program, False)
        names = dict.fromkeys(program.canonical(name) for name in self.keep)
        given = {name: program[name] for name in names if _is_computed(program[name])}
        notes, refusals, kept = _fuse(program.main, given)
        program = renamed(program, {name: _readable(program, name, value) for name, value in kept.items()})
        return PassResult(program, True, (_summary(program), *notes), _counts(program), refusals)

    def ensures(self, program: NamedProgram) -> None:
        """What was to be kept is there, in a layout that every operator reads."""
        for name in self.keep:
            op = program[name].get_defining_op()
            if op.name().startswith(_pir.ONEDNN):
                raise GraphError(f"variable {name!r} is still laid out for oneDNN")


def _placed(program: NamedProgram) -> bool:
    return any(op.name().startswith(_pir.ONEDNN) for op in _pir.ops(program.main))


def _is_computed(value: _pir.Value) -> bool:
    """Feeds and parameters stay what they are; only results of operators need protection."""
    return value.get_defining_op().name() not in (*_pir.DATA_OPS, "builtin.parameter")


def _fuse(
    program: _pir.Program, given: dict[str, _pir.Value]
) -> tuple[tuple[str, ...], dict[str, int], dict[str, _pir.Value]]:
    """Fuse, then place what is left: (notes, refusals, {name: value that stands for the given one})."""
    notes: dict[str, None] = {}
    given = edit_in_pieces(program, given, lambda piece: notes.update(dict.fromkeys(_run_fusions(piece))))
    with _pir.protected(program, given) as kept:
        result = place(program, [op for op in _pir.ops(program) if op.name() in _PLACEABLE], training=False)
        _pir.erase(program, lambda op: op.id() in result.dead)
        _pir.convert_for_native_readers(program)
    return (*notes, *result.notes), {**result.refusals, **_unknown(program)}, kept


def _run_fusions(program: _pir.Program) -> tuple[str, ...]:
    """Let convolutions take in what follows them: notes about what they did not."""
    _pir.run_paddle_passes(program, _FUSE_SUMS)
    _give_bias_itself(program)
    if _both_kinds(program):
        return ("activations are not fused: leaky ReLUs and hard sigmoids of offset 0 could not be told apart",)
    _disguise_leaky_relu(program)
    _pir.run_paddle_passes(program, _FUSE_ACTIVATIONS)
    _undo_disguise(program)
    return ()


def _give_bias_itself(program: _pir.Program) -> None:
    """Let fused convolutions read their bias parameter [C] rather than a reshaped copy of it.

    The kernel remembers where its bias lies. A parameter stays there; a result of a reshape is gone at the next run,
    and the numbers are garbage from then on.
    """
    for op in _pir.ops(program):
        if op.name() != _FUSED or not op.operand_source(2).initialized():
            continue
        source = op.operand_source(2).get_defining_op()
        if source.name() == "pd_op.reshape" and _pir.parameter_name(source.operand_source(0)) is not None:
            op.operand(2).set_source(source.operand_source(0))
        elif source.name() != "builtin.parameter":
            raise GraphError(
                f"Paddle fused a computed bias ({source.name()}) into {_FUSED}; set compile.teacher to off"
            )
    leftover = ("pd_op.reshape", "pd_op.full_int_array")
    _pir.erase(program, lambda op: op.name() in leftover and all(v.use_empty() for v in _pir.results(op)))


# Paddle 3.3.1 ends the process when its pass meets a leaky ReLU: it reads a double attribute as a float. So leaky ReLUs
# go through it as hard sigmoids of slope = negative slope and offset 0, whose numbers it stores in the same place.


def _both_kinds(program: _pir.Program) -> bool:
    ops = _pir.ops(program)
    return any(op.name() == _LEAKY for op in ops) and any(_is_stand_in(op) for op in ops)


def _is_stand_in(op: _pir.Operation) -> bool:
    return op.name() == "pd_op.hardsigmoid" and op.attrs()["offset"] == 0.0


def _disguise_leaky_relu(program: _pir.Program) -> None:
    for op in _pir.ops(program):
        if op.name() == _LEAKY:
            with _pir.inserting_before(program, op):
                result = functional.hardsigmoid(op.operand_source(0), slope=op.attrs()["negative_slope"], offset=0.0)
            _pir.put_in_place(program, op, result)


def _undo_disguise(program: _pir.Program) -> None:
    for op in _pir.ops(program):
        if op.name() == _FUSED and op.attrs()["fuse_activation"] == "hard_sigmoid" and op.attrs()["fuse_beta"] == 0.0:
            op.set_str_attr("fuse_activation", "leaky_relu")
        elif _is_stand_in(op):
            with _pir.inserting_before(program, op):
                result = functional.leaky_relu(op.operand_source(0), op.attrs()["slope"])
            _pir.put_in_place(program, op, result)


def _readable(program: NamedProgram, name: str, value: _pir.Value) -> _pir.Value:
    native = _pir.to_native(program.main, value)
    if native.index() == 0:  # a further result's name follows from the first one's
        _pir.set_op_tag(native.get_defining_op(), name)
    return native


def _unknown(program: _pir.Program) -> dict[str, int]:
    """{reason: number} for operators that stay on Paddle's own kernels because none of oneDNN's is known to work."""
    kinds = Counter(op.name() for op in _pir.ops(program) if op.name() not in (*_PLACEABLE, *_NO_WORK))
    return {
        f"no oneDNN kernel is known for {kind.removeprefix('pd_op.')}": number
        for kind, number in kinds.items()
        if kind.startswith("pd_op.")
    }


def _counts(program: NamedProgram) -> dict[str, int]:
    names = [op.name() for op in _pir.ops(program.main)]
    fused = sum(name == _FUSED for name in names)
    return {"convolutions fused": fused, "operators placed on oneDNN": sum(n.startswith(_pir.ONEDNN) for n in names)}


def _summary(program: NamedProgram) -> str:
    count = Counter(op.name() for op in _pir.ops(program.main))
    placed = sum(n for name, n in count.items() if name.startswith(_pir.ONEDNN))
    fused = sum(n for name, n in count.items() if name.startswith(_pir.ONEDNN + "fused"))
    native = {name: n for name, n in count.items() if name.startswith("pd_op.") and name not in _pir.DATA_OPS}
    shown = ", ".join(f"{n} {name.removeprefix('pd_op.')}" for name, n in sorted(native.items()))
    return f"{placed} operators on oneDNN, {fused} of them fused convolutions; native: {shown or 'none'}"
