"""From a student, its teachers and a recipe to one training program."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import paddle
from paddle import static
from paddle.utils import unique_name

from slim_distill.common.errors import TrainingError
from slim_distill.common.names import first_few
from slim_distill.config.schema import OptimizerConfig
from slim_distill.engine.total import add_total, persistent
from slim_distill.graph import NamedProgram, cheap_broadcasts, dtype_of, name_values
from slim_distill.losses.terms import Term

__all__ = ["EMA_PREFIX", "LEARNING_RATE", "TrainingProgram", "build_training"]

EMA_PREFIX = "ema."
LEARNING_RATE = "learning_rate_0"
"""Name of the persistent scalar that holds the rate of the next step."""

# What str.startswith takes for "no prefix at all"; an empty tuple of prefixes would do, but not an empty string.
_NOTHING = ("\0",)


@dataclass(frozen=True)
class TrainingProgram:
    """A program whose every run is one training step.

    Attributes:
        program: forward, backward and update; its startup also sets the optimizer's state.
        losses: label for the log -> name of the scalar variable.
        gradients: parameter name -> name of its gradient.
        student: names of the host's parameters, running statistics included: what is exported.
        state: names of all other values that training changes (momentum, averages, trainable guests).
        weights: name of the persistent scalar of each scheduled term, `distill.I.weight` -> its value at a step.
        copies: parameter of a guest that follows the student -> the student's, whose value it starts with.
    """

    program: NamedProgram
    losses: Mapping[str, str]
    gradients: Mapping[str, str]
    student: tuple[str, ...]
    state: tuple[str, ...]
    weights: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    def scalars(self, rate: float, step: int) -> dict[str, np.ndarray]:
        """{name: value} of what must be written before the zero-based `step`: learning rate and scheduled weights."""
        values = {LEARNING_RATE: rate, **{name: weight(step) for name, weight in self.weights.items()}}
        return {name: np.asarray(value, "float32") for name, value in values.items()}

    def first_gradients(self, step: int) -> dict[str, str]:
        """{parameter: gradient} of those that get their first gradient at `step`: at 0, or when their term begins."""
        now = self._active(step)
        if step > 0:
            woken = tuple(now - self._active(step - 1)) or _NOTHING
            return {name: gradient for name, gradient in self.gradients.items() if name.startswith(woken)}
        asleep = tuple(name.removesuffix("weight") for name in self.weights if name.removesuffix("weight") not in now)
        if not asleep:
            return dict(self.gradients)
        # A guest that trains may be reached by the sleeping terms alone.
        sure = {*self.student, *(name for name in self.state if name.startswith("distill."))}
        return {n: gradient for n, gradient in self.gradients.items() if n in sure and not n.startswith(asleep)}

    def _active(self, step: int) -> set[str]:
        """Prefixes of the parameters of those scheduled terms whose weight is not 0 at `step`."""
        return {name.removesuffix("weight") for name, weight in self.weights.items() if weight(step) > 0}


def build_training(
    merged: NamedProgram,
    terms: Sequence[Term],
    optimizer: OptimizerConfig,
    *,
    task_loss: str = "loss",
    averages: Mapping[str, float] | None = None,
    for_cpu: bool = False,
) -> TrainingProgram:
    """Attach the terms and the optimizer to a merged program, which itself is left unchanged.

    The total is the task loss plus weight * value of every term. A term of weight 0 is computed and logged but is
    no part of the total, so that a run with all weights 0 equals a run without teacher bit for bit. The weight of a
    term with a schedule is a persistent scalar, to be written before every step.

    Args:
        merged: the student with its guests.
        terms: the recipe; teacher names carry their prefix.
        optimizer: kind and numbers of the optimizer.
        task_loss: variable of the student's own loss; "" when only the terms count.
        averages: prefix of a guest that is a frozen copy of the student -> decay at which it follows the student.
        for_cpu: avoid the broadcasts that are slow on CPUs.

    Raises:
        LossError: a term does not bind.
        TrainingError: a trainable parameter gets no gradient from any loss, or nothing is to be minimised.
    """
    work = merged.clone()
    before = set(work.parameters())
    with static.program_guard(work.main, work.startup), unique_name.guard():
        total = add_total(work, terms, task_loss)
        if for_cpu:
            cheap_broadcasts(work.main)
        pairs = _minimise(total.value, optimizer)
        _check_coverage(work, pairs)
        for new, kept in total.updates:
            paddle.assign(new, kept)
        if optimizer.ema:
            _average(work, optimizer.ema)
        copies = {guest: own for p, decay in (averages or {}).items() for guest, own in _follow(work, p, decay).items()}
    given = {**total.given, **{f"{parameter.name}@GRAD": gradient for parameter, gradient in pairs}}
    variables, aliases = name_values(work.main, given)
    program = replace(work, variables=variables, aliases={**work.aliases, **aliases})
    fixed = [p for p, is_frozen in merged.guests.items() if is_frozen and p not in (averages or {})]
    frozen = tuple(fixed) or _NOTHING
    owned = [name for name in program.parameters() if not name.startswith(frozen)]
    student = dict.fromkeys(n for n in owned if n in before and not n.startswith(tuple(merged.guests) or _NOTHING))
    moments = [name for name in program.states() if name != LEARNING_RATE]
    kept = [name for name in owned if name not in student and name not in total.weights]
    return TrainingProgram(
        program=program,
        losses=total.losses,
        gradients={parameter.name: f"{parameter.name}@GRAD" for parameter, _ in pairs},
        student=tuple(student),
        state=(*kept, *moments),
        weights=total.weights,
        copies=copies,
    )


def _minimise(total: Any, cfg: OptimizerConfig) -> list[tuple[Any, Any]]:
    clip = paddle.nn.ClipGradByGlobalNorm(cfg.clip_norm) if cfg.clip_norm else None
    # A float rate becomes a persistent variable, which the session sets before every step: the schedule is then a
    # function of the step alone and has no state to save.
    common = {"learning_rate": 1.0, "grad_clip": clip}
    if cfg.type == "momentum":
        decay = paddle.regularizer.L2Decay(cfg.weight_decay) if cfg.weight_decay else None
        optimizer = paddle.optimizer.Momentum(momentum=cfg.momentum, weight_decay=decay, **common)
    elif cfg.type == "sgd":
        decay = paddle.regularizer.L2Decay(cfg.weight_decay) if cfg.weight_decay else None
        optimizer = paddle.optimizer.SGD(weight_decay=decay, **common)
    elif cfg.type == "adamw":
        optimizer = paddle.optimizer.AdamW(weight_decay=cfg.weight_decay, **common)
    else:
        raise TrainingError(f"optimizer.type: {cfg.type!r} is not known; known: adamw, momentum, sgd")
    return optimizer.minimize(total)[1]


def _check_coverage(program: NamedProgram, pairs: Sequence[tuple[Any, Any]]) -> None:
    reached = {parameter.name for parameter, gradient in pairs if gradient is not None}
    missed = [name for name in program.trainable() if name not in reached]
    if missed:
        raise TrainingError(
            f"{len(missed)} trainable parameters get no gradient from any loss: {first_few(missed)}. "
            "Add a term that reaches them, or freeze them"
        )


def _average(program: NamedProgram, decay: float) -> None:
    """Exponential moving averages of all the student's parameters and statistics, updated after every step."""
    guests = tuple(program.guests) or _NOTHING
    share = paddle.full([1], 1.0 - decay, "float32")
    for name, value in program.parameters().items():
        own = not name.startswith(guests) and name in program.variables
        if not own or dtype_of(value) != "float32":
            continue
        average = persistent(EMA_PREFIX + name, value.shape)
        # In place, one pass over the memory: five times faster than scale, scale, add, assign.
        paddle._C_ops.lerp_(average, value, share)


def _follow(program: NamedProgram, prefix: str, decay: float) -> dict[str, str]:
    """Move a guest's parameters and statistics towards the student's after every step: {guest's name: student's}."""
    parameters = program.parameters()
    pairs = {name: name.removeprefix(prefix) for name in parameters if name.startswith(prefix)}
    share = paddle.full([1], 1.0 - decay, "float32")
    for guest, own in pairs.items():
        paddle._C_ops.lerp_(parameters[guest], parameters[own], share)
    return pairs
