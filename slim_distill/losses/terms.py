"""Terms of a recipe: a loss between named variables, checked and bound when the program is built."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from slim_distill.common.errors import LossError, VariableNotFoundError
from slim_distill.common.names import pick
from slim_distill.losses._common import Tensor
from slim_distill.losses.adapters import adapt, adapted_shapes
from slim_distill.losses.layers import Layers
from slim_distill.losses.shapes import SHAPE_RULES, Shape, equal_shapes, fits
from slim_distill.losses.signature import LossSignature, check_arguments, format_signature, read_signature
from slim_distill.losses.table import LOSSES

__all__ = ["BoundTerm", "Term", "bind", "bind_all"]

Resolve: TypeAlias = Callable[[str], Tensor]
_JOINING = ("adapter", "resize")  # arguments of the term, not of its loss


@dataclass(frozen=True)
class Term:
    """One loss between named variables.

    Attributes:
        loss: its name in the table of losses.
        student: names of the student's variables, in the order that the loss takes.
        teacher: names of the teacher's variables, prefix included.
        weight: factor of the loss in the total, finite and at least 0; 0 is the control.
        args: the loss's keyword arguments: numbers, strings, and names of variables (prefix included); and, for every
            loss that compares variables one by one, `adapter` and `resize` (see `losses.adapters`), which bring the
            student's variables to the teacher's channels and either map to the other's size.
        path: where the term comes from, for messages: "distill.terms[1]".
        schedule: factor of the weight at a zero-based step, such as a `losses.schedule.Schedule`; None for always 1.
        balance: keep the term's gradient norm at this multiple of the task loss's; 0 for off. The weight is then 1, or
            0 for the control.
        function: the loss itself where it is none of the table's; `loss` is then what it is called.
    """

    loss: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    weight: float = 1.0
    args: Mapping[str, Any] = field(default_factory=dict)
    path: str = "distill.terms[0]"
    schedule: Callable[[int], float] | None = None
    balance: float = 0.0
    function: Callable[..., Tensor] | None = None

    def weight_at(self, step: int) -> float:
        """Return the factor of the loss in the total at a zero-based step."""
        return self.weight if self.schedule is None else self.weight * self.schedule(step)


@dataclass(frozen=True)
class BoundTerm:
    """A term whose loss, variables and arguments were found and fit.

    Attributes:
        term: what was bound.
        function: the loss.
        student: the student's variables; teacher: the teacher's.
        arguments: keyword arguments of the function, names of variables replaced by the variables.
        layers: the parameters that the adapter and the loss own; filled by `build`.
        adapter: what maps the student's variables to the teacher's channels; resize: which map is resized.
    """

    term: Term
    function: Callable[..., Tensor]
    student: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    arguments: Mapping[str, Any]
    layers: Layers
    adapter: str = "identity"
    resize: str = "none"

    @property
    def weight(self) -> float:
        """The factor of this loss in the total."""
        return self.term.weight

    def build(self) -> Tensor:
        """Append the loss to the current program and return it: a scalar, not weighted.

        Raises:
            LossError: an argument's value is refused by the loss, or the loss returned something else than a scalar.
        """
        signature = read_signature(self.function)
        sides = {"student": self.student, "teacher": self.teacher}
        if (self.adapter, self.resize) != ("identity", "none"):
            joined = [
                adapt(s, t, self.adapter, self.resize, f"adapter.{number}", self.layers)
                for number, (s, t) in enumerate(zip(self.student, self.teacher, strict=True))
            ]
            sides = {"student": tuple(s for s, _ in joined), "teacher": tuple(t for _, t in joined)}
        given = {side: values if signature.several[side] else values[0] for side, values in sides.items() if values}
        owned = {"layers": self.layers} if signature.takes_layers else {}
        try:
            loss = self.function(**given, **self.arguments, **owned)
        except LossError as error:
            raise LossError(f"{self.term.path}: {error}") from error
        if list(loss.shape) != []:
            raise LossError(
                f"{self.term.path}: loss {self.term.loss!r} returned {list(loss.shape)}, expected a scalar []"
            )
        return loss


def bind(term: Term, resolve: Resolve, table: Mapping[str, Callable[..., Any]] = LOSSES, index: int = 0) -> BoundTerm:
    """Look a term's loss and variables up and check that they fit.

    Args:
        term: what the recipe asks for.
        resolve: variable by name; raises `VariableNotFoundError` on a miss.
        table: losses by name; a Python user adds functions of his own here.
        index: number of the term in its recipe; the parameters it owns are named `distill.<index>.`...

    Raises:
        LossError: unknown loss or argument, value of the wrong type, wrong number of variables, shapes that do not
            fit, a variable that holds no floating-point numbers, a weight or balance that is negative or not finite, or
            both given.
        VariableNotFoundError: `resolve` does not know a name.
    """
    function = term.function or pick(table, term.loss, f"{term.path}.loss: loss", LossError)
    signature = read_signature(function)
    _check_weight(term)
    known = {argument.name for argument in signature.arguments}
    joining = {name: term.args[name] for name in _JOINING if name in term.args and name not in known}
    args = {name: value for name, value in term.args.items() if name not in joining}
    check_arguments(term.path, term.loss, signature, args)
    _check_count(term, signature)
    student = tuple(_resolve(term, "student", name, resolve) for name in term.student)
    teacher = tuple(_resolve(term, "teacher", name, resolve) for name in term.teacher)
    tensors = {argument.name for argument in signature.arguments if argument.kind != "value"}
    arguments = {
        name: _resolve(term, name, value, resolve) if name in tensors and value is not None else value
        for name, value in args.items()
    }
    _check_floating(term, student, teacher)
    adapter, resize = joining.get("adapter", "identity"), joining.get("resize", "none")
    _check_shapes(term, student, teacher, adapter, resize)
    return BoundTerm(term, function, student, teacher, arguments, Layers(f"distill.{index}."), adapter, resize)


def bind_all(
    terms: Sequence[Term], resolve: Resolve, table: Mapping[str, Callable[..., Any]] = LOSSES
) -> tuple[BoundTerm, ...]:
    """Bind every term of a recipe.

    Raises:
        LossError: as `bind`, and when the same loss of the same variables with the same arguments is listed twice.
        VariableNotFoundError: as `bind`.
    """
    for number, term in enumerate(terms):
        for earlier in terms[:number]:
            if _identity(term) == _identity(earlier):
                raise LossError(
                    f"{term.path}: the same term is listed at {earlier.path}: {term.loss} of {_names(term)}; "
                    "remove one, or change its weight"
                )
    return tuple(bind(term, resolve, table, index) for index, term in enumerate(terms))


def _identity(term: Term) -> tuple[Any, ...]:
    return term.loss, tuple(term.student), tuple(term.teacher), dict(term.args)


def _names(term: Term) -> str:
    return " and ".join(filter(None, (", ".join(term.student), ", ".join(term.teacher))))


def _check_weight(term: Term) -> None:
    for key, value in (("weight", term.weight), ("balance", term.balance)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value >= 0):
            raise LossError(f"{term.path}.{key}: expected a finite number of at least 0, got {value!r}")
    if term.balance and term.weight not in (0, 1):
        raise LossError(f"{term.path}.balance: sets the weight at every step; leave out weight, got {term.weight:g}")


def _check_count(term: Term, signature: LossSignature) -> None:
    for side, wanted in (("student", signature.student), ("teacher", signature.teacher)):
        names = getattr(term, side)
        if len(names) == wanted or (wanted is None and names):
            continue
        number = "one or more" if wanted is None else wanted
        raise LossError(
            f"{term.path}.{side}: loss {term.loss!r} takes {number} {side} variable(s), got {len(names)} "
            f"({', '.join(names) or 'none'}); {format_signature(term.loss, signature)}"
        )
    if signature.student is None and signature.teacher is None and len(term.student) != len(term.teacher):
        raise LossError(
            f"{term.path}: loss {term.loss!r} pairs variables one by one, got {len(term.student)} of the student "
            f"and {len(term.teacher)} of the teacher"
        )


def _resolve(term: Term, key: str, name: str, resolve: Resolve) -> Tensor:
    try:
        return resolve(name)
    except VariableNotFoundError as error:
        raise VariableNotFoundError(f"{term.path}.{key}: {error}") from error


def _check_floating(term: Term, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
    for name, value in zip((*term.student, *term.teacher), (*student, *teacher), strict=True):
        if "float" not in str(value.dtype):
            kind = str(value.dtype).rsplit(".", 1)[-1]
            raise LossError(f"{term.path}: {name!r} holds {kind}, loss {term.loss!r} needs floating-point numbers")


def _check_shapes(term: Term, student: Sequence[Tensor], teacher: Sequence[Tensor], adapter: str, resize: str) -> None:
    rule = SHAPE_RULES.get(term.loss, equal_shapes)
    if len(student) != len(teacher) and (adapter, resize) != ("identity", "none"):
        raise LossError(
            f"{term.path}: adapter and resize join variables one by one, but {term.loss} got "
            f"{len(student)} of the student and {len(teacher)} of the teacher"
        )
    # One variable of one side is compared with each of the other's.
    pairs = max(len(student), len(teacher)) if student and teacher else 0
    repeated = [
        [*zip(names, values, strict=True)] * (pairs if len(names) == 1 else 1)
        for names, values in ((term.student, student), (term.teacher, teacher))
    ]
    for (name_s, value_s), (name_t, value_t) in zip(*repeated, strict=False):
        shape_s, shape_t = _shape(value_s), _shape(value_t)
        seen_s, seen_t = adapted_shapes(term.path, shape_s, shape_t, adapter, resize)
        problem = rule(seen_s, seen_t)
        if problem is not None:
            raise LossError(
                f"{term.path}: {term.loss} {problem}: student {name_s!r} is {list(shape_s)}, "
                f"teacher {name_t!r} is {list(shape_t)}{_advice(seen_s, seen_t)}"
            )


def _advice(student: Shape, teacher: Shape) -> str:
    if len(student) != len(teacher):
        return ""
    ways = []
    if len(student) == 4:
        ways += ["adapter: conv1x1_bn joins channels"] * (not fits(student[1:2], teacher[1:2]))
        ways += ["resize: student joins sizes"] * (not fits(student[2:], teacher[2:]))
    elif not fits(student[-1:], teacher[-1:]):
        ways.append("adapter: linear joins the last axis")
    return "; " + ", ".join(ways) if ways else ""


def _shape(value: Tensor) -> Shape:
    return tuple(int(size) for size in value.shape)
