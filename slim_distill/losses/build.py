"""From the run configuration to terms."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from slim_distill.common.errors import LossError
from slim_distill.common.names import nearest
from slim_distill.config.schema import DistillConfig, TermConfig, TermScheduleConfig, TrainConfig
from slim_distill.losses.schedule import SHAPES, Schedule
from slim_distill.losses.signature import read_signature
from slim_distill.losses.table import LOSSES
from slim_distill.losses.terms import Term

__all__ = ["terms_from_config"]


def terms_from_config(
    cfg: DistillConfig,
    table: Mapping[str, Callable[..., Any]] = LOSSES,
    *,
    max_iters: int = TrainConfig.max_iters,
    epoch_steps: int | None = None,
) -> tuple[Term, ...]:
    """Return the terms of a recipe, the teacher's names with the prefix of the teacher meant.

    Prefixed are `teacher` and those arguments that a loss declares as variables of the teacher.

    Args:
        cfg: teachers and terms.
        table: losses by name.
        max_iters: steps of the training, which schedules are measured by.
        epoch_steps: steps of one pass over the training data, for schedules that count passes.

    Raises:
        LossError: a term's source is not the prefix of a configured teacher, or its schedule never becomes active.
    """
    terms = []
    for index, term in enumerate(cfg.terms):
        path = f"distill.terms[{index}]"
        own = None if term.loss in LOSSES else table.get(term.loss)
        schedule = _schedule(term.schedule, max_iters, epoch_steps, f"{path}.schedule") if term.schedule else None
        terms.append(replace(_term(cfg, term, path, table), schedule=schedule, balance=term.balance, function=own))
    return tuple(terms)


def _term(cfg: DistillConfig, term: TermConfig, path: str, table: Mapping[str, Callable[..., Any]]) -> Term:
    for source in term.source:
        if cfg.teachers and source not in cfg.teachers:
            near = nearest(source, cfg.teachers, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise LossError(f"{path}.from: no teacher {source!r}; {hint}configured: {', '.join(sorted(cfg.teachers))}")
    if len(set(term.source)) < len(term.source):
        raise LossError(f"{path}.from: a teacher is given twice: {', '.join(term.source)}")
    of_teacher: set[str] = set()
    if term.loss in table:  # an unknown loss is reported, with its neighbours, when the term is bound
        of_teacher = {a.name for a in read_signature(table[term.loss]).arguments if a.kind == "teacher"}
    if len(term.source) > 1 and (unclear := sorted(of_teacher & set(term.args))):
        raise LossError(f"{path}.{unclear[0]}: is a variable of one teacher, and `from` has {len(term.source)}")
    args = {
        name: term.source[0] + value if name in of_teacher and isinstance(value, str) else value
        for name, value in term.args.items()
    }
    teacher = tuple(source + name for source in term.source for name in term.teacher)
    return Term(term.loss, tuple(term.student), teacher, term.weight, args, path)


def _schedule(cfg: TermScheduleConfig, max_iters: int, epoch_steps: int | None, path: str) -> Schedule:
    shapes = [shape for shape in SHAPES if getattr(cfg, shape) is not None]
    if len(shapes) > 1:
        raise LossError(
            f"{path}: one of {', '.join(SHAPES)} at most, found {' and '.join(shapes)}; leave out the others"
        )
    schedule = Schedule(warmup=cfg.warmup_steps, begin=cfg.start_step, stop=_stop(cfg, epoch_steps, path))
    ramp, changes = cfg.linear or cfg.cosine, 0
    if cfg.constant is not None:
        schedule = replace(schedule, start=cfg.constant)
    elif ramp is not None:
        last, changes = ramp.last_step or max_iters, ramp.first_step
        if ramp.first_step >= last:
            raise LossError(
                f"{path}.{shapes[0]}: first_step {ramp.first_step} must be below last_step, which is {last}"
                + ("" if ramp.last_step else " (train.max_iters)")
            )
        schedule = replace(schedule, shape=shapes[0], start=ramp.start, end=ramp.to, first=ramp.first_step, last=last)
    elif cfg.step is not None:
        changes = cfg.step.milestones[0]
        schedule = replace(schedule, shape="step", milestones=cfg.step.milestones, gamma=cfg.step.gamma)
    if changes >= max_iters or not any(schedule(step) > 0 for step in range(max_iters)):
        at = f"its first change is at step {changes}" if changes >= max_iters else "its factor is 0 at every step"
        raise LossError(
            f"{path}: never becomes active: {at}, and the run has {max_iters} steps (train.max_iters); found {schedule}"
        )
    return schedule


def _stop(cfg: TermScheduleConfig, epoch_steps: int | None, path: str) -> int | None:
    if not cfg.stop_epoch:
        return cfg.stop_step or None
    if cfg.stop_step:
        raise LossError(f"{path}: stop_step {cfg.stop_step} and stop_epoch {cfg.stop_epoch:g}: give one of the two")
    if epoch_steps is None:
        raise LossError(f"{path}.stop_epoch: needs training data, whose passes it counts; give stop_step here")
    return max(1, round(cfg.stop_epoch * epoch_steps))
