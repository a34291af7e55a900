"""What is minimised: the student's own loss plus the weighted terms of the recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import static

from slim_distill.common.errors import TrainingError
from slim_distill.graph import NamedProgram
from slim_distill.losses.terms import BoundTerm, Term, bind_all

__all__ = ["Total", "add_total", "persistent"]


@dataclass(frozen=True)
class Total:
    """The loss to minimise, and what it is made of.

    Attributes:
        value: the total.
        given: name -> value of all that was added to the program and can be fetched.
        losses: label for the log -> name of the scalar variable.
        weights: name of the persistent scalar of each scheduled term, `distill.I.weight` -> its value at a step.
    """

    value: Any
    given: Mapping[str, Any]
    losses: Mapping[str, str]
    weights: Mapping[str, Callable[[int], float]]


def add_total(work: NamedProgram, terms: Sequence[Term], task_loss: str) -> Total:
    """Append the terms and their weighted sum to the current program, which is that of `work`.

    Raises:
        LossError: a term does not bind.
        TrainingError: nothing is to be minimised.
    """
    given: dict[str, Any] = {}
    losses = {task_loss: task_loss} if task_loss else {}
    weights: dict[str, Callable[[int], float]] = {}
    distill = None
    for i, bound in enumerate(bind_all(terms, work.__getitem__)):
        raw = bound.build()
        label = f"distill.{i}.{bound.term.loss}"
        given[label], losses[label] = raw, label
        if bound.term.weight == 0:
            _freeze_owned(work, bound.layers.prefix)
            continue
        weighted = raw * _weight(bound, raw, f"distill.{i}.weight", weights)
        distill = weighted if distill is None else distill + weighted
    total = work[task_loss] if task_loss else None
    if distill is not None:
        given["distill"], losses["distill"] = distill, "distill"
        total = distill if total is None else total + distill
        given["total"], losses["total"] = total, "total"
    if total is None:
        raise TrainingError("nothing to minimise: the recipe has no task loss and no term of positive weight")
    return Total(total, given, losses, weights)


def persistent(name: str, shape: Sequence[int]) -> Any:
    """A float32 variable of the current program that keeps its value from step to step and starts at 0."""
    zero = paddle.nn.initializer.Constant(0.0)
    value = static.create_parameter(list(shape), "float32", name=name, default_initializer=zero)
    value.stop_gradient, value.trainable = True, False
    return value


def _freeze_owned(program: NamedProgram, prefix: str) -> None:
    """Adapters and layers of a term that is no part of the total keep their first values."""
    for name, value in program.trainable().items():
        if name.startswith(prefix):
            value.stop_gradient, value.trainable = True, False


def _weight(bound: BoundTerm, raw: Any, name: str, weights: dict[str, Callable[[int], float]]) -> Any:
    """The factor of a term: a number, or with a schedule a persistent scalar, which is entered in `weights`."""
    if bound.term.schedule is None:
        return bound.term.weight
    weights[name] = bound.term.weight_at
    return paddle.cast(persistent(name, []), raw.dtype)
