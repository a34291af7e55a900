"""What is minimised: the student's own loss plus the weighted terms of the recipe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import static

from slim_distill.common.errors import TrainingError
from slim_distill.graph import Gradients, NamedProgram, gradients, norms, student_parameters
from slim_distill.losses.terms import BoundTerm, Term, bind_all

__all__ = ["SMOOTHING", "Total", "add_total", "persistent"]

SMOOTHING = 0.9
"""Share of the gradient norms' running mean that stays at each step, for terms with `balance`."""


@dataclass(frozen=True)
class Total:
    """The loss to minimise, and what it is made of.

    Attributes:
        value: the total.
        given: name -> value of all that was added to the program and can be fetched.
        losses: label for the log -> name of the scalar variable.
        weights: name of the persistent scalar of each scheduled term, `distill.I.weight` -> its value at a step.
        updates: (new value, persistent variable) pairs; assign them once the backward pass is there, which does not
            see through an assignment.
    """

    value: Any
    given: Mapping[str, Any]
    losses: Mapping[str, str]
    weights: Mapping[str, Callable[[int], float]]
    updates: Sequence[tuple[Any, Any]]


def add_total(work: NamedProgram, terms: Sequence[Term], task_loss: str) -> Total:
    """Append the terms and their weighted sum to the current program, which is that of `work`.

    Raises:
        LossError: a term does not bind.
        TrainingError: nothing is to be minimised, or a term cannot be balanced.
    """
    given: dict[str, Any] = {}
    losses = {task_loss: task_loss} if task_loss else {}
    weights: dict[str, Callable[[int], float]] = {}
    balance = _Balance(work, task_loss)
    distill = None
    for i, bound in enumerate(bind_all(terms, work.__getitem__)):
        raw = bound.build()
        label = f"distill.{i}.{bound.term.loss}"
        given[label], losses[label] = raw, label
        if bound.term.weight == 0:
            _freeze_owned(work, bound.layers.prefix)
            continue
        weighted = raw * _weight(bound, raw, f"distill.{i}.weight", weights)
        if bound.term.balance:
            factor = balance.factor(raw, bound.term, f"distill.{i}.norms")
            given[f"distill.{i}.balance"], losses[f"distill.{i}.balance"] = factor, f"distill.{i}.balance"
            weighted = weighted * paddle.cast(factor, raw.dtype)
        distill = weighted if distill is None else distill + weighted
    total = work[task_loss] if task_loss else None
    if distill is not None:
        given["distill"], losses["distill"] = distill, "distill"
        total = distill if total is None else total + distill
        given["total"], losses["total"] = total, "total"
    if total is None:
        raise TrainingError("nothing to minimise: the recipe has no task loss and no term of positive weight")
    return Total(total, given, losses, weights, balance.updates)


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


class _Balance:
    """Factors that keep the gradients of terms in proportion to that of the task loss.

    The two norms are taken over the student's parameters that both losses reach, by a backward pass of each alone, and
    smoothed from step to step: m <- s m + (1 - s) norm, the first norm as it is. The factor is r m_task / m_term.
    """

    def __init__(self, work: NamedProgram, task_loss: str) -> None:
        self.work, self.task_loss = work, task_loss
        self.updates: list[tuple[Any, Any]] = []
        self._task: Gradients | None = None

    def factor(self, raw: Any, term: Term, name: str) -> Any:
        """The factor of one term, a scalar without gradient; `name` is that of the [2] norms that are kept."""
        if not self.task_loss:
            raise TrainingError(f"{term.path}.balance: there is no task loss to balance the term with")
        parameters = list(student_parameters(self.work).values())
        if self._task is None:
            self._task = gradients(self.work, self.work[self.task_loss], parameters)
        now = paddle.stack(norms(self._task, gradients(self.work, raw, parameters)))
        kept = persistent(name, [2])
        smooth = paddle.where(kept > 0, kept * SMOOTHING + now * (1.0 - SMOOTHING), now)
        self.updates.append((smooth, kept))
        ratio = term.balance * smooth[0] / paddle.clip(smooth[1], min=1e-12)
        factor = paddle.where(smooth[1] > 0, ratio, paddle.zeros_like(ratio))
        factor.stop_gradient = True
        return factor
