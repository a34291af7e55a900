"""The only door to Paddle's program IR internals (PIR). Everything else in the project uses these functions.

Two facts shape this file. `==` and `in` on PIR values append operators to a program, so values are compared by
`is_same` and kept in tables by their `id`. And a value that outlives its program, or an operator that is touched
after its removal, ends the process without an exception, so tables always hold the program beside its values.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import paddle
from paddle import pir as _public_pir
from paddle import static
from paddle.base import core as _base
from paddle.base.libpaddle import pir as _core
from paddle.pir_utils import OldIrGuard

__all__ = [
    "DATA_OPS",
    "NAME_TAG",
    "ONEDNN",
    "Operation",
    "Program",
    "Value",
    "clone_before",
    "clone_op",
    "clone_parameter",
    "clone_program",
    "convert_for_native_readers",
    "copy_parameter_attributes",
    "create_parameter",
    "data_name",
    "erase",
    "erase_startup",
    "external_inputs",
    "gradient_before",
    "inserting_after",
    "inserting_before",
    "needed_ops",
    "new_mapping",
    "op_tag",
    "operands",
    "ops",
    "parameter_name",
    "parameters",
    "protected",
    "put_in_place",
    "remap",
    "results",
    "run_paddle_passes",
    "set_op_tag",
    "set_parameter_name",
    "set_role",
    "states",
    "to_native",
    "translate",
    "walk",
]

Program: TypeAlias = static.Program
Value: TypeAlias = Any
Operation: TypeAlias = Any

NAME_TAG = "n:"
"""Start of the `struct_name` attribute that carries a value's name: the only free string kept in .json files."""

ONEDNN = "onednn_op."
"""Start of the names of operators that run on oneDNN; their results may have layouts that only they read."""

_RAW = ".onednn"
ROLE_ATTRIBUTE = "slim_distill.role"
DATA_OPS = ("pd_op.data", "pd_op.feed")
_PARAMETER_ATTRIBUTES = ("optimize_attr", "regularizer", "need_clip", "is_distributed", "persistable")


def ops(program: Program) -> list[Operation]:
    """A snapshot of the program's top-level operators in order: safe to edit the program while looping over it."""
    return list(program.global_block().ops)


def walk(program: Program) -> Iterator[Operation]:
    """Every operator, those inside control-flow blocks included."""
    stack = [program.global_block()]
    while stack:
        for op in list(stack.pop().ops):
            yield op
            stack.extend(op.blocks())


def operands(op: Operation) -> list[Value]:
    """The initialised operands of an operator (optional ones may be absent)."""
    return [v for v in op.operands_source() if v.initialized()]


def external_inputs(op: Operation) -> list[Value]:
    """Operands, and for control flow also every outer value that its blocks read."""
    if op.num_regions():
        return [v for v in _core.get_used_external_value(op) if v.initialized()]
    return operands(op)


def results(op: Operation) -> list[Value]:
    """The initialised results of an operator."""
    return [v for v in op.results() if v.initialized()]


def parameter_name(value: Value) -> str | None:
    """Name of the parameter that `value` is, or None."""
    if not value.initialized():
        return None
    op = value.get_defining_op()
    return op.str_attr("parameter_name") if op is not None and op.name() == "builtin.parameter" else None


def parameters(program: Program) -> dict[str, Value]:
    """{name: value} of all parameters, in program order."""
    return {op.str_attr("parameter_name"): op.result(0) for op in ops(program) if op.name() == "builtin.parameter"}


def states(program: Program) -> dict[str, Value]:
    """{name: value} of the persistent variables that are no parameters: learning rate, momentum and the like."""
    return {
        op.str_attr("name"): op.result(0)
        for op in ops(program)
        if op.name() == "pd_op.data" and op.result(0).persistable
    }


def data_name(op: Operation) -> str | None:
    """Name under which a feed operator takes its array, or None for any other operator."""
    return op.str_attr("name") if op.name() in DATA_OPS else None


def set_parameter_name(op: Operation, name: str) -> None:
    """Rename the parameter that a `builtin.parameter` or `builtin.set_parameter` operator stands for."""
    op.set_str_attr("parameter_name", name)


def op_tag(op: Operation) -> str | None:
    """The name stored on an operator, or None."""
    if not op.has_attr("struct_name"):
        return None
    tag = op.str_attr("struct_name")
    return tag[len(NAME_TAG) :] if tag.startswith(NAME_TAG) else None


def set_op_tag(op: Operation, name: str) -> None:
    """Store the name of an operator's first result on the operator; clones and .json files keep it."""
    op.set_str_attr("struct_name", NAME_TAG + name)


def set_role(op: Operation, role: str) -> None:
    """Stamp an operator with the part it plays (a guest's prefix); never on parameters, which files refuse."""
    if op.name() != "builtin.parameter":
        op.set_str_attr(ROLE_ATTRIBUTE, role)


def new_mapping() -> Any:
    """An empty map from values of one program to values of its copy."""
    return _public_pir.IrMapping()


def clone_op(op: Operation, mapping: Any) -> Operation:
    """Append a copy of `op`, its blocks included, to the current program; operands are looked up in `mapping`."""
    return op.clone(mapping, _public_pir.CloneOptions(True, True, True))


def clone_program(program: Program) -> tuple[Program, Callable[[Value], Value]]:
    """A copy of `program`, and the function that finds a value's copy. Learning-rate and decay marks are kept."""
    mapping = new_mapping()
    copy = program.clone(mapping)
    for old in parameters(program).values():
        copy_parameter_attributes(old, mapping.look_up(old))
    return copy, mapping.look_up


def copy_parameter_attributes(source: Value, target: Value) -> None:
    """Carry learning-rate multiplier, decay and the like from one parameter to another: cloning drops some of them."""
    for name in _PARAMETER_ATTRIBUTES:
        if hasattr(source, name):
            setattr(target, name, getattr(source, name))


def needed_ops(targets: Iterable[Value]) -> set[int]:
    """Ids of the operators that the targets depend on, the blocks of control flow counted with their operator."""
    keep: set[int] = set()
    stack = [v.get_defining_op() for v in targets]
    while stack:
        op = stack.pop()
        if op is None or op.id() in keep:
            continue
        keep.add(op.id())
        stack.extend(v.get_defining_op() for v in external_inputs(op))
    return keep


def erase(program: Program, dead: Callable[[Operation], bool]) -> int:
    """Remove operators for which `dead` holds, last first; one whose result is still read stays. Returns the count."""
    removed = 0
    block = program.global_block()
    for op in reversed(ops(program)):
        # Paddle aborts the process when an operator goes whose result is read, hence the check.
        if dead(op) and all(v.use_empty() for v in results(op)):
            block.remove_op(op)
            removed += 1
    return removed


def erase_startup(startup: Program, gone: Collection[str]) -> None:
    """Drop the first values of the named parameters from a startup program."""

    def unused(op: Operation) -> bool:
        if op.name() == "builtin.set_parameter":
            return op.str_attr("parameter_name") in gone
        return bool(results(op))

    if gone:
        erase(startup, unused)


def put_in_place(program: Program, op: Operation, result: Value) -> None:
    """Let `result` stand, name and all, where the only result of `op` stood, and remove `op`."""
    tag = op_tag(op)
    if tag is not None:
        set_op_tag(result.get_defining_op(), tag)
    old = op.result(0)
    result.stop_gradient = old.stop_gradient
    old.replace_all_uses_with(result)
    program.global_block().remove_op(op)


@contextmanager
def inserting_before(program: Program, op: Operation) -> Iterator[None]:
    """Operators built inside go right before `op`."""
    with static.program_guard(program):
        _core.set_insertion_point(op)
        try:
            yield
        finally:
            _core.reset_insertion_point_to_end()


@contextmanager
def inserting_after(program: Program, op: Operation) -> Iterator[None]:
    """Operators built inside go right after `op`."""
    with static.program_guard(program):
        _core.set_insertion_point_after(op)
        try:
            yield
        finally:
            _core.reset_insertion_point_to_end()


def remap(table: Mapping[str, Value], look_up: Callable[[Value], Value]) -> dict[str, Value]:
    """The same names for the copies of the values."""
    return {name: look_up(value) for name, value in table.items()}


def create_parameter(main: Program, startup: Program, name: str, shape: Sequence[int], dtype: str) -> Value:
    """A new parameter that does not train; `startup` sets it to 0, so its value must be given to the session."""
    with static.program_guard(main, startup):
        zero = paddle.nn.initializer.Constant(0.0)
        value = static.create_parameter(list(shape), dtype, name=name, default_initializer=zero)
    value.stop_gradient, value.trainable = True, False
    return value


def clone_parameter(program: Program, template: Value, name: str, shape: Sequence[int]) -> Value:
    """A new parameter that does not train, of `template`'s number type; its value must be given to the session.

    Paddle's own way to create one copies a table of all parameters each time and records where it was called from:
    two milliseconds for each in a program of 6,000 operators, and more in a larger one.
    """
    op = template.get_defining_op()
    with inserting_before(program, op):
        twin = clone_op(op, new_mapping())
    set_parameter_name(twin, name)
    value = twin.result(0)
    value.set_type(_core.create_shaped_type(value.type(), list(shape)))
    value.stop_gradient, value.trainable, value.persistable = True, False, True
    return value


def run_paddle_passes(program: Program, names: Sequence[str]) -> None:
    """Run passes of Paddle itself on `program`, in place; values of operators they replace become stale."""
    # The passes look oneDNN operators up in a table that is filled by the first run of any executor; before it they
    # match nothing and say nothing.
    static.Executor(paddle.CPUPlace()).run(static.Program())
    for name in names:
        manager = _public_pir.PassManager()
        manager.add_pass(name, {})
        manager.run(program)


@contextmanager
def protected(program: Program, keep: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    """Inside, Paddle's passes may not drop the values in `keep`; afterwards the table given out holds them anew."""
    for name, value in keep.items():
        _core.append_shadow_output(program, value, name, len(ops(program)))
    kept: dict[str, Value] = {}
    yield kept
    kept.update({name: program.get_output_value_by_name(name) for name in keep})
    erase(program, lambda op: op.name() == "builtin.shadow_output")


def clone_before(program: Program, op: Operation, twin: Operation) -> Operation:
    """Put a copy of `twin`, an operator of another program, right before `op`; it reads what `op` reads."""
    mapping = new_mapping()
    for source, target in zip(twin.operands_source(), op.operands_source(), strict=True):
        if source.initialized():
            mapping.add(source, target)
    with inserting_before(program, op):
        return clone_op(twin, mapping)


def gradient_before(program: Program, op: Operation, forward: Operation, operand: int) -> Value:
    """The gradient of one operand of `forward` alone, built right before `op`, which computes those of several.

    Both operators have one result, and the last operand of `op` is its gradient. Further operands have no gradient.
    """
    inputs, outputs = [[v] for v in forward.operands_source()], [[v] for v in forward.results()]
    unwanted = [[number != operand] for number in range(len(inputs))]
    with inserting_before(program, op):
        return _base.call_vjp(forward, inputs, outputs, [[op.operands_source()[-1]]], unwanted)[operand][0]


def to_native(program: Program, value: Value) -> Value:
    """`value` in the layout that every operator reads, for a result of a oneDNN operator; others as they are.

    The new value takes the old one's name; that one is called NAME.onednn from now on.
    """
    op = value.get_defining_op()
    if not op.name().startswith(ONEDNN):
        return value
    with inserting_after(program, op):
        native = paddle._C_ops.onednn_to_paddle_layout(value, 0)
    native.stop_gradient = value.stop_gradient
    name = op_tag(op)
    if name is not None:
        first = value.is_same(op.result(0))
        plain = name.removesuffix(_RAW)
        set_op_tag(native.get_defining_op(), plain if first else f"{plain}@{value.index()}")
        set_op_tag(op, plain + _RAW)
    return native


def convert_for_native_readers(program: Program) -> int:
    """Let operators that do not run on oneDNN read converted values only; returns the number of conversions added.

    Without it such an operator may read a oneDNN layout as if it were plain, which gives garbage, not an error.
    """
    added = 0
    for op in ops(program):
        if not op.name().startswith(ONEDNN):
            continue
        for value in results(op):
            readers = [user for user in value.all_used_ops() if not user.name().startswith(ONEDNN)]
            readers = [user for user in readers if user.name() != "pd_op.onednn_to_paddle_layout"]
            if not readers:
                continue
            native = to_native(program, value)
            added += 1
            for operand in [o for user in readers for o in user.operands()]:
                if operand.source().initialized() and operand.source().is_same(value):
                    operand.set_source(native)
    return added


def translate(description: bytes) -> tuple[Program, dict[str, Value], list[str]]:
    """A program of Paddle 1.x or 2.x (ProgramDesc) in today's IR: (program, {old name: value}, names of its outputs).

    Feeds become `pd_op.data` operators, and the operators that fetched the outputs disappear: a program that holds
    them cannot be fetched from elsewhere.

    Raises:
        ValueError, RuntimeError: Paddle cannot read or translate it.
    """
    with OldIrGuard():
        old = static.deserialize_program(description)
        fetches = [op for op in old.global_block().ops if op.type == "fetch"]
        outputs = [op.input("X")[0] for op in sorted(fetches, key=lambda op: op.attr("col"))]
    program, table = _public_pir.translate_to_pir_with_param_map(old.desc)
    # A variable that was written more than once, such as a running statistic, has several values.
    names = {name: values[-1] for name, values in table.items() if values and values[-1].initialized()}
    block = program.global_block()
    for op in ops(program):
        if op.name() == "pd_op.fetch":
            block.remove_op(op)
        elif op.name() == "pd_op.feed":
            fed, name = op.result(0), op.str_attr("name")
            with inserting_before(program, op):
                data = static.data(name, fed.shape, fed.dtype)
            fed.replace_all_uses_with(data)
            names[name] = data
            block.remove_op(op)
    return program, names, outputs
