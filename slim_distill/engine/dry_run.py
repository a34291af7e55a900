"""What a recipe would do: every term on one batch, and what looks wrong about it. Nothing is trained or written."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from paddle import static
from paddle.utils import unique_name

from slim_distill.config.schema import RunConfig
from slim_distill.data.build import build_loader
from slim_distill.engine import build
from slim_distill.engine.session import Session, seed_step
from slim_distill.graph import NamedProgram, gradients, name_values, norms, readers, shape_of, student_parameters
from slim_distill.losses.build import terms_from_config
from slim_distill.losses.table import GROUPS, LOSSES
from slim_distill.losses.terms import BoundTerm, Term, bind_all
from slim_distill.report import text_table

__all__ = ["DryRun", "TermReport", "dry_run", "render", "report_terms"]

TOO_LARGE = 1000.0
"""A term, or its gradient, so many times larger than the task loss's is warned about."""

_SIGMOIDS = {"sigmoid", "logsigmoid", "softplus", "sigmoid_cross_entropy_with_logits", "yolo_loss"}
_SOFTMAX_LOSSES = set(GROUPS["logits"]) - {"kd_bernoulli"}


@dataclass(frozen=True)
class TermReport:
    """One term on one batch.

    Attributes:
        term: what the recipe says.
        student: names of the student's variables with their shapes; teacher: likewise.
        adapter: what joins them, and the number of parameters that the term owns.
        owned: that number.
        weight: factor in the total, schedule not counted; with `balance` the one that it would set.
        value: of the loss, not weighted.
        gradient: its norm over the parameters that both this term and the task loss reach, not weighted.
        value_share: weight * value / task loss; gradient_share: the same of the gradient norms.
    """

    term: Term
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    adapter: str
    owned: int
    weight: float
    value: float
    gradient: float
    value_share: float
    gradient_share: float


@dataclass(frozen=True)
class DryRun:
    """Task loss and its gradient norm over all of the student's parameters, the terms, and warnings in words."""

    task_loss: float
    task_gradient: float
    terms: tuple[TermReport, ...]
    warnings: tuple[str, ...]


def dry_run(
    cfg: RunConfig, teachers: Mapping[str, build.Teacher], losses: Mapping[str, Callable[..., Any]] = LOSSES
) -> DryRun:
    """Build a distillation job, bind every term, and run each on the first batch of the training data.

    Raises:
        SlimDistillError: whatever would stop the job before its first step, but for the quality of the teacher.
    """
    session = Session(cfg.device)
    loader = build_loader(cfg.data.train, seed=cfg.seed, train=True, workers=0, path="data.train")
    build.check_classes(cfg, loader, "data.train")
    student = build.build_student(cfg)
    terms = terms_from_config(cfg.distill, losses, max_iters=cfg.train.max_iters, epoch_steps=len(loader))
    merged = build.cut_to_losses(build.build_merged(student, teachers, terms, cfg, on_cpu=session.on_cpu), terms)
    batch = next(loader.batches())
    copies = [prefix for prefix, teacher in teachers.items() if teacher.ema is not None]
    values = build.pretrained(cfg, student)
    return report_terms(merged, terms, session, batch, seed=cfg.seed, values=values, copies=copies)


def report_terms(
    merged: NamedProgram,
    terms: Sequence[Term],
    session: Session,
    batch: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    values: Mapping[str, np.ndarray] | None = None,
    copies: Sequence[str] = (),
    task_loss: str = "loss",
) -> DryRun:
    """Run every term once, forward and backward, with the first values of the student.

    Args:
        merged: the student with its guests; left unchanged.
        terms: the recipe.
        session: not in use yet; parameters are set in it.
        batch: an array for every feed.
        seed: of the first values.
        values: values that some of the student's parameters start with.
        copies: prefixes of guests that start as copies of the student.
        task_loss: variable of the student's own loss.

    Raises:
        LossError: a term does not bind.
    """
    work = merged.clone()
    with static.program_guard(work.main, work.startup), unique_name.guard():
        bound = bind_all(terms, work.__getitem__)
        given: dict[str, Any] = {f"dry.{i}.value": one.build() for i, one in enumerate(bound)}
        parameters = list(student_parameters(work).values())
        task = gradients(work, work[task_loss], parameters)
        (given["dry.task"],) = norms([gradient for gradient in task if gradient is not None])
        for i in range(len(bound)):
            own = gradients(work, given[f"dry.{i}.value"], parameters)
            given[f"dry.{i}.task"], given[f"dry.{i}.gradient"] = norms(task, own)
    variables, aliases = name_values(work.main, given)
    program = replace(work, variables=variables, aliases={**work.aliases, **aliases})
    session.start(program, seed)
    session.write(values or {})
    for name in (n for n in program.parameters() if n.startswith(tuple(copies) or "\0")):
        source = name.removeprefix(next(prefix for prefix in copies if name.startswith(prefix)))
        session.write({name: session.read([source])[source]})
    seed_step(seed, 0)
    pairs = {name for term in terms for name in (*term.student, *term.teacher)}
    out = session.run(program, batch, [task_loss, *given, *sorted(pairs)])
    loss = float(out[task_loss])
    rows = tuple(_report(one, out, i, loss) for i, one in enumerate(bound))
    warnings = [text for row in rows for text in _warnings(row, merged, out)]
    return DryRun(loss, float(out["dry.task"]), rows, tuple(warnings))


def render(result: DryRun) -> str:
    """Return a table of the terms, one line for each pair of variables, and the warnings below it."""
    head = ["term", "loss", "student", "teacher", "adapter", "weight", "schedule", "value", "of task loss"]
    head += ["gradient", "of task gradient"]
    rows: list[list[Any]] = []
    for row in result.terms:
        for i in range(max(len(row.student), len(row.teacher))):
            pair = [side[i] if i < len(side) else "" for side in (row.student, row.teacher)]
            rest = [row.adapter, f"{row.weight:.4g}", _schedule(row.term), f"{row.value:.4g}"]
            rest += [f"{row.value_share:.3g}", f"{row.gradient:.4g}", f"{row.gradient_share:.3g}"]
            first = [row.term.path, row.term.loss, *pair, *rest]
            rows.append(first if i == 0 else ["", "", *pair, *[""] * len(rest)])
    lines = [text_table(head, rows), f"task loss {result.task_loss:.4g}, its gradient {result.task_gradient:.4g}\n"]
    return "".join([*lines, *(f"warning: {text}\n" for text in result.warnings)])


def _report(bound: BoundTerm, out: Mapping[str, np.ndarray], number: int, task_loss: float) -> TermReport:
    term = bound.term
    value, gradient, task = (float(out[f"dry.{number}.{what}"]) for what in ("value", "gradient", "task"))
    weight = term.weight
    if term.balance and weight:
        weight = _share(term.balance * task, gradient)
    owned = [bound.layers.parameters[name] for name in bound.layers.trainable]
    count = sum(math.prod(shape_of(parameter)) for parameter in owned)
    adapter = " ".join(
        part for part in (bound.adapter, f"resize {bound.resize}" if bound.resize != "none" else "") if part
    )
    return TermReport(
        term=term,
        student=tuple(f"{n} {list(shape_of(v))}" for n, v in zip(term.student, bound.student, strict=True)),
        teacher=tuple(f"{n} {list(shape_of(v))}" for n, v in zip(term.teacher, bound.teacher, strict=True)),
        adapter=f"{adapter} ({count} parameters)" if count else adapter,
        owned=count,
        weight=weight,
        value=value,
        gradient=gradient,
        value_share=_share(weight * value, task_loss),
        gradient_share=_share(weight * gradient, task),
    )


def _warnings(row: TermReport, merged: NamedProgram, out: Mapping[str, np.ndarray]) -> list[str]:
    term, found = row.term, []
    for what, share in (("", row.value_share), ("gradient ", row.gradient_share)):
        if abs(share) > TOO_LARGE:
            found.append(
                f"{term.path}: the weighted {what or 'value '}is {share:.3g} times the task loss's; "
                "lower the weight, or set balance"
            )
    if not row.gradient > 0:
        found.append(
            f"{term.path}: no gradient reaches the student's backbone: the term has no effect on what the student "
            "learns. Is the part before its variable frozen?"
        )
    for name in term.student if term.loss in _SOFTMAX_LOSSES else ():
        sigmoids = readers(merged, name) & _SIGMOIDS
        if sigmoids:
            found.append(
                f"{term.path}: {term.loss} compares softmax distributions, but {name} is read by "
                f"{', '.join(sorted(sigmoids))}; kd_bernoulli is made for sigmoid heads"
            )
    for mine, its in zip(term.student, term.teacher, strict=False):
        if np.array_equal(out[mine], out[its]):
            found.append(f"{term.path}: {mine} and {its} are equal on this batch; are teacher and student the same?")
    return found


def _schedule(term: Term) -> str:
    parts = [] if term.schedule is None else [str(term.schedule)]
    return "; ".join([*parts, *([f"balance {term.balance:g}"] if term.balance else [])]) or "-"


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.copysign(math.inf, part) if part else 0.0
