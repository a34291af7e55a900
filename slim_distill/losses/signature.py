"""What a loss takes, read from its Python signature: variables, tensors by name, numbers, layers of its own."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from slim_distill.common.errors import LossError
from slim_distill.common.names import nearest
from slim_distill.losses._common import Tensor
from slim_distill.losses.layers import Layers

__all__ = ["Argument", "LossSignature", "check_arguments", "format_signature", "read_signature", "type_text"]

_TENSOR_TYPES = set(get_args(Tensor))
_UNIONS = (Union, UnionType)


@dataclass(frozen=True)
class Argument:
    """One keyword argument: `kind` is "value", "tensor" (a named variable) or "teacher" (a variable of the teacher)."""

    name: str
    kind: str
    annotation: Any
    default: Any
    required: bool


@dataclass(frozen=True)
class LossSignature:
    """What a loss takes.

    Attributes:
        student: how many student variables; None for one or more, 0 for a loss without.
        teacher: how many teacher variables, likewise.
        several: whether student and teacher are handed over as tuples, by side.
        arguments: the keyword arguments that a recipe may set.
        takes_layers: the loss owns layers and takes a `Layers`.
    """

    student: int | None
    teacher: int | None
    several: Mapping[str, bool]
    arguments: tuple[Argument, ...]
    takes_layers: bool


def read_signature(function: Callable[..., Any]) -> LossSignature:
    """Read a loss's signature. Its first arguments are `student` and `teacher`, the others are keyword-only."""
    parameters = inspect.signature(function, eval_str=True).parameters
    sides = {side: _variables(parameters.get(side)) for side in ("student", "teacher")}
    arguments, takes_layers = [], False
    for name, parameter in parameters.items():
        if name in sides:
            continue
        if parameter.annotation is Layers:
            takes_layers = True
            continue
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        arguments.append(Argument(name, _kind(parameter.annotation), parameter.annotation, default, required))
    several = {side: several for side, (_, several) in sides.items()}
    return LossSignature(sides["student"][0], sides["teacher"][0], several, tuple(arguments), takes_layers)


def check_arguments(what: str, loss: str, signature: LossSignature, given: Mapping[str, Any]) -> None:
    """Check a recipe's arguments against a signature.

    Raises:
        LossError: unknown or missing argument, or a value of the wrong type; the message starts with `what`, a
            config path, and shows the signature.
    """
    known = {argument.name: argument for argument in signature.arguments}
    text = format_signature(loss, signature)
    for name, value in given.items():
        if name not in known:
            near = nearest(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LossError(f"{what}: loss {loss!r} has no argument {name!r}; {hint}{text}")
        argument = known[name]
        wanted = str if argument.kind != "value" else argument.annotation
        if argument.kind != "value" and value is None and not argument.required:
            continue
        if not _accepts(wanted, value):
            expected = "the name of a variable" if argument.kind != "value" else _type_name(wanted)
            raise LossError(f"{what}.{name}: expected {expected}, got {value!r}; {text}")
    missing = [argument.name for argument in signature.arguments if argument.required and argument.name not in given]
    if missing:
        raise LossError(f"{what}: loss {loss!r} needs the argument {missing[0]!r}; {text}")


def format_signature(loss: str, signature: LossSignature) -> str:
    """Return a line such as `kd(student, teacher, *, temperature: float = 4.0)`."""
    parts = [side for side, number in (("student", signature.student), ("teacher", signature.teacher)) if number != 0]
    if signature.arguments:
        parts.append("*")
    for argument in signature.arguments:
        parts.append(
            f"{argument.name}: {type_text(argument)}" + ("" if argument.required else f" = {argument.default!r}")
        )
    return f"{loss}({', '.join(parts)})"


def type_text(argument: Argument) -> str:
    """Return what an argument takes, in words for a message or a table."""
    named = {"tensor": "variable", "teacher": "teacher variable"}
    return named[argument.kind] if argument.kind in named else _type_name(argument.annotation)


def _variables(parameter: inspect.Parameter | None) -> tuple[int | None, bool]:
    if parameter is None:
        return 0, False
    if get_origin(parameter.annotation) is not tuple:
        return 1, False
    members = get_args(parameter.annotation)
    return (None if members[-1] is Ellipsis else len(members)), True


def _kind(annotation: Any) -> str:
    kinds = [_kind(member) for member in get_args(annotation)] if get_origin(annotation) in _UNIONS else []
    if "teacher" in kinds or (get_origin(annotation) is Annotated and "teacher" in get_args(annotation)):
        return "teacher"
    return "tensor" if _TENSOR_TYPES & set(get_args(annotation)) else "value"


def _accepts(annotation: Any, value: Any) -> bool:
    origin, members = get_origin(annotation), get_args(annotation)
    if annotation in (Any, inspect.Parameter.empty):
        return True
    if origin in _UNIONS:
        return any(_accepts(member, value) for member in members)
    if origin is Literal:
        return value in members
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        wanted = [members[0]] * len(value) if members[-1] is Ellipsis else members
        return len(wanted) == len(value) and all(map(_accepts, wanted, value))
    if annotation in (None, NoneType):
        return value is None
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _type_name(annotation: Any) -> str:
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, members))
    if origin in _UNIONS:
        return " | ".join(_type_name(member) for member in members)
    if origin is tuple:
        return f"({', '.join('...' if m is Ellipsis else _type_name(m) for m in members)})"
    if annotation is inspect.Parameter.empty:
        return "any"
    return "none" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))
