"""Average gradients over processes, and over the pieces of a batch, inside the program of a training step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import paddle
from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.common.names import first_few
from slim_distill.graph import _pir
from slim_distill.graph.naming import name_values
from slim_distill.graph.passes.infra import PassResult
from slim_distill.graph.program import NamedProgram, dtype_of, shape_of

__all__ = ["PREFIX", "SHARE", "AllReduce", "broadcast", "is_reduced", "piece"]

PREFIX = "all_reduce."
"""Start of the names of the variables that `AllReduce` adds; none of them lives longer than a step."""

SHARE = PREFIX + "share"
"""Name of the persistent scalar that a process multiplies its gradients with: its share of the whole batch."""

_PART, _SUM, _LOSSES = PREFIX + "{}.part", PREFIX + "{}.sum", "losses"
_RING, _ADD = 0, 0
_MEAN_AND_VARIANCE = (1, 2)  # of batch_norm_: its operands, and its results that are their new values


@dataclass(frozen=True)
class AllReduce:
    """Let every update see the gradient of the whole batch, of which this process computes one part after the other.

    1. A gradient g becomes the sum over all processes and pieces of share * g. Gradients are concatenated into flat
       buckets in the order in which the backward pass yields them, and each bucket is reduced right after its last
       gradient, so that a device with a communication stream can go on with the backward pass meanwhile.
    2. Losses are averaged the same way, for those who look at them: all processes see the same numbers, and so decide
       alike. The backward pass starts at the loss of the part as before.
    3. Running statistics of batch norms that train become their mean over the processes.
    4. With several pieces each bucket has a persistent sum of the pieces before. The program is then that of the last
       piece, which updates and clears the sums; `piece` makes the program of the others from it.

    The share is what the part's samples are of all, `SHARE`, to be set before every run. So the losses must be means
    over the samples; one that needs the whole batch's statistics gets those of its part.

    Args:
        gradients: parameter -> name of its gradient.
        losses: names of the scalars to average.
        ranks: number of processes.
        pieces: runs of this process for one update.
        bucket_mb: size of a bucket in MiB; 0 for one bucket a gradient.

    Keeps: every name; that of a gradient or a loss stands for the averaged one from now on.
    Raises: GraphError for gradients that are not float32, and for values computed from the batch that are kept from
        step to step: every process would keep another.
    """

    gradients: Mapping[str, str]
    losses: tuple[str, ...]
    ranks: int
    pieces: int = 1
    bucket_mb: float = 16.0
    name: str = "all_reduce"

    def requires(self, program: NamedProgram) -> None:
        """Gradients and losses are plain float32 numbers, and nothing else is computed from the batch and kept."""
        if is_reduced(program):
            return
        odd = [name for name in (*self.gradients.values(), *self.losses) if dtype_of(program[name]) != "float32"]
        if odd:
            raise GraphError(f"{len(odd)} values to average are not float32: {first_few(odd)}. Train in float32")
        kept = [name for name in map(_kept, _pir.ops(program.main)) if name is not None]
        if kept and (self.ranks > 1 or self.pieces > 1):
            raise GraphError(
                f"{first_few(kept)}: computed from the batch and kept from step to step, so the whole batch is needed "
                "in one place. Give terms with `balance` a fixed weight and leave out losses with a memory (crd), or "
                "train in one process with parallel.accumulate: 1"
            )

    def apply(self, program: NamedProgram) -> PassResult:
        """Insert the reductions."""
        if (self.ranks == 1 and self.pieces == 1) or is_reduced(program):
            return PassResult(program, False)
        place = {op.id(): i for i, op in enumerate(_pir.ops(program.main))}
        values = [program[name] for name in self.gradients.values()]
        values.sort(key=lambda value: place[value.get_defining_op().id()])
        statistics = _running_statistics(program) if self.ranks > 1 else []
        share = _persistent(program, SHARE, [])
        given: dict[str, _pir.Value] = {}
        moved: dict[str, _pir.Value] = {}
        buckets = _buckets(values, self.bucket_mb)
        for i, bucket in enumerate(buckets):
            readers = [_readers(value) for value in bucket]
            with _pir.inserting_after(program.main, bucket[-1].get_defining_op()):
                averaged = self._reduce(program, str(i), bucket, share, given)
            for value, operands in zip(bucket, readers, strict=True):
                for operand in operands:
                    operand.set_source(averaged[value.id])
            moved |= averaged
        with _pir.inserting_after(program.main, values[-1].get_defining_op()):
            losses = [program[name] for name in self.losses]
            moved |= self._reduce(program, _LOSSES, losses, share, given, statistics)
        variables = {name: moved.get(value.id, value) for name, value in program.variables.items()}
        names, aliases = name_values(program.main, given)
        result = replace(program, variables={**names, **variables}, aliases={**program.aliases, **aliases})
        counts = {"gradients averaged": len(values), "buckets": len(buckets)}
        return PassResult(result, True, counts=counts)

    def ensures(self, program: NamedProgram) -> None:
        """As many reductions as buckets, and one for losses and statistics."""
        found = [op for op in _pir.ops(program.main) if op.name() == "pd_op.all_reduce_"]
        wanted = len(_parts(program)) if self.ranks > 1 else 0
        if len(found) != wanted:
            raise GraphError(f"{len(found)} reductions for {wanted} buckets; this is a fault of the rewrite")

    def _reduce(
        self,
        program: NamedProgram,
        label: str,
        values: Sequence[_pir.Value],
        share: _pir.Value,
        given: dict[str, _pir.Value],
        statistics: Sequence[tuple[_pir.Value, _pir.Value]] = (),
    ) -> dict[str, _pir.Value]:
        """Reduce one bucket at the place of insertion: {id of an old value: new value}."""
        part = paddle.scale(_flat(values), scale=share)
        given[_PART.format(label)] = part
        total = part
        if self.pieces > 1:
            kept = _persistent(program, _SUM.format(label), part.shape)
            total = part + kept
            paddle.assign(paddle.zeros_like(kept), kept)
        if statistics:
            total = paddle.concat([total, paddle.scale(_flat([new for new, _ in statistics]), scale=1.0 / self.ranks)])
        if self.ranks > 1:
            paddle._C_ops.all_reduce_(total, _RING, _ADD)
        targets = [*values, *(new for new, _ in statistics)]
        pieces = [
            paddle.reshape(flat, list(shape_of(value)))
            for flat, value in zip(_split(total, targets), targets, strict=True)
        ]
        for (_, parameter), averaged in zip(statistics, pieces[len(values) :], strict=True):
            paddle.assign(averaged, parameter)
        return {value.id: averaged for value, averaged in zip(values, pieces, strict=False)}


def is_reduced(program: NamedProgram) -> bool:
    """Whether `AllReduce` has rewritten the program."""
    return SHARE in program.variables


def piece(program: NamedProgram) -> NamedProgram:
    """The program of a piece that is not the last: it adds the gradients and losses to their sums and updates nothing.

    Args:
        program: a program that `AllReduce` made for several pieces; placed on kernels or not.

    Raises:
        GraphError: it was not made for several pieces.
    """
    work = program.clone()
    parts = _parts(work)
    sums = {label: work.parameters().get(_SUM.format(label)) for label in parts}
    if not parts or any(kept is None for kept in sums.values()):
        raise GraphError("the program was not made for batches in several pieces; use AllReduce(pieces=K) first")
    needed = _pir.needed_ops([*parts.values(), *sums.values()])
    dead = {v.id for op in _pir.ops(work.main) if op.id() not in needed for v in _pir.results(op)}
    gone = [name for name, value in work.variables.items() if value.id in dead]
    _pir.erase(work.main, lambda op: op.id() not in needed)
    with static.program_guard(work.main, work.startup):
        for label, part in parts.items():
            paddle.assign(sums[label] + part, sums[label])
    return work.without(gone)


def broadcast(program: NamedProgram) -> NamedProgram:
    """A program that gives all parameters and states of `program` the values that they have in process 0."""
    main, names = static.Program(), {**program.parameters(), **program.states()}
    mapping = _pir.new_mapping()
    with static.program_guard(main, static.Program()):
        for value in names.values():
            paddle._C_ops.broadcast_(_pir.clone_op(value.get_defining_op(), mapping).result(0), 0, _RING, True)
    return NamedProgram(main, static.Program(), feeds={}, variables={})


def _parts(program: NamedProgram) -> dict[str, _pir.Value]:
    """{label: flat value of this process's share} of every bucket."""
    before, after = _PART.split("{}")
    return {
        name.removeprefix(before).removesuffix(after): value
        for name, value in program.variables.items()
        if name.startswith(before) and name.endswith(after)
    }


def _kept(op: _pir.Operation) -> str | None:
    """Name of the parameter that the operator assigns a value to, if it does that."""
    return _pir.parameter_name(op.operand_source(1)) if op.name() == "pd_op.assign_out_" else None


def _running_statistics(program: NamedProgram) -> list[tuple[_pir.Value, _pir.Value]]:
    """(new value, parameter) of every running mean and variance that a step moves."""
    found = []
    for op in _pir.ops(program.main):
        if op.name() != "pd_op.batch_norm_" or op.attrs()["is_test"] or op.attrs()["use_global_stats"]:
            continue
        found += [(op.result(i), op.operand_source(i)) for i in _MEAN_AND_VARIANCE]
    return found


def _buckets(values: Sequence[_pir.Value], limit_mb: float) -> list[list[_pir.Value]]:
    """The values in order, in groups that are as large as fits into the limit; a larger value is a group by itself."""
    groups: list[list[_pir.Value]] = []
    room = -1.0
    for value in values:
        size = 4 * math.prod(shape_of(value))
        if size > room:
            groups.append([])
            room = limit_mb * 2**20
        groups[-1].append(value)
        room -= size
    return groups


def _flat(values: Sequence[_pir.Value]) -> _pir.Value:
    rows = [paddle.reshape(value, [-1]) for value in values]
    return paddle.concat(rows) if len(rows) > 1 else rows[0]


def _split(flat: _pir.Value, like: Sequence[_pir.Value]) -> list[_pir.Value]:
    sizes = [math.prod(shape_of(value)) for value in like]
    return list(paddle.split(flat, sizes)) if len(sizes) > 1 else [flat]


def _readers(value: _pir.Value) -> list[_pir.Operation]:
    """Operands that read a value."""
    found = (operand for user in value.all_used_ops() for operand in user.operands())
    return [operand for operand in found if operand.source().initialized() and operand.source().is_same(value)]


def _persistent(program: NamedProgram, name: str, shape: Sequence[int]) -> _pir.Value:
    return _pir.create_parameter(program.main, program.startup, name, shape, "float32")
