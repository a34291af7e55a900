"""What one training step costs: operators, floating-point operations, parameters, bytes, and milliseconds."""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import first_few
from slim_distill.config.schema import RunConfig, TeacherConfig
from slim_distill.engine import build
from slim_distill.engine.compiling import fixed_step, initial_values, place, usual_size
from slim_distill.engine.profile import match_times, profile
from slim_distill.engine.session import Session, runs_in_order
from slim_distill.engine.training import TrainingProgram
from slim_distill.graph import PHASES, NamedProgram, OpCost, dtype_of, operator_costs, shape_of
from slim_distill.losses.build import terms_from_config
from slim_distill.report import text_table, tsv

__all__ = ["Cost", "StepCost", "render_costs", "step_cost"]

log = logging.getLogger(__name__)

TEACHER = "teacher_"
STUDENT_SIDE, TEACHER_SIDE = SIDES = ("student", "teacher")


@dataclass(frozen=True)
class Cost:
    """A group of operators of one network, or one operator.

    Attributes:
        level: what is grouped: phase | kind | operator.
        program: student | teacher.
        name: the phase ("step" for all of them), the kind of operator, or the variable an operator computes.
        kind: of one operator; "" for a group.
        operators: how many.
        flops: floating-point operations in a step; None where none of them is known.
        parameters: numbers in parameters, running statistics included; each is counted where it is first read.
        weight_bytes: memory of these.
        activation_bytes: memory of all results.
        ms: measured time; None where it was not measured.
    """

    level: str
    program: str
    name: str
    kind: str
    operators: int
    flops: int | None
    parameters: int
    weight_bytes: int
    activation_bytes: int
    ms: float | None = None


@dataclass(frozen=True)
class StepCost:
    """The cost of a step.

    Attributes:
        size_px: height and width of the images.
        batch: images in a step.
        rows: totals by phase, then by kind of operator, then single operators where they were asked for.
        uncounted: kinds of operators whose FLOPs are not known.
        step_ms: a whole step by the clock; None where it was not measured.
    """

    size_px: int
    batch: int
    rows: tuple[Cost, ...]
    uncounted: tuple[str, ...]
    step_ms: float | None = None


@dataclass(frozen=True)
class _Operator:
    """An operator of the program, or (`planned` is False) one that the executor added by itself."""

    cost: OpCost
    ms: float | None
    planned: bool = True

    @property
    def side(self) -> str:
        return TEACHER_SIDE if self.cost.owner else STUDENT_SIDE


def step_cost(
    student: RunConfig,
    teacher: RunConfig | None = None,
    *,
    size_px: int | None = None,
    batch: int = 1,
    grep: str | None = None,
    time: bool = False,
) -> StepCost:
    """What one training step of a student, with its teacher if there is one, costs as this project runs it.

    The teacher counts as it runs in the step: cut to what the terms read, folded and fused.

    Args:
        student: the student's run; its recipe, optimizer and `compile` keys count.
        teacher: the teacher's run; its weights are not needed.
        size_px: height and width of the images; None for the usual one of the training reader.
        batch: images in a step.
        grep: also give single operators, those whose variable or kind matches this regular expression.
        time: run the step on random images and measure each operator.

    Raises:
        ConfigError: no size is known, the batch is empty, the expression cannot be read, the recipe reads nothing of
            the teacher, or `time` is asked for on another device than a CPU or where operators run in any order.
    """
    expression = _expression(grep)
    if batch < 1:
        raise ConfigError(f"--batch: at least 1 image, found {batch}")
    size_px = size_px if size_px is not None else usual_size(student.data.train)
    if size_px is None:
        raise ConfigError("--size: the training reader gives images no fixed size; say which one is meant")
    session = Session(student.device)
    if time and not session.on_cpu:
        raise ConfigError("--time measures operators on a CPU only; add -o device=cpu, or leave it out for --cost")
    if time and not runs_in_order():
        raise ConfigError("--time needs operators to run one after the other; unset FLAGS_new_executor_serial_run")
    training = _training(student, teacher, size_px, batch, on_cpu=session.on_cpu)
    costs = operator_costs(training.program)
    step_ms, operators = None, [_Operator(cost, None) for cost in costs]
    if time:
        step_ms, operators = _timed(session, training, costs)
    rows = [*_by_phase(operators), *_by_kind(operators)]
    if expression is not None:
        rows += [_single(o) for o in operators if expression.search(o.cost.name) or expression.search(o.cost.kind)]
    uncounted = sorted({cost.kind for cost in costs if cost.flops is None})
    return StepCost(size_px, batch, tuple(rows), tuple(uncounted), step_ms)


def _expression(grep: str | None) -> "re.Pattern[str] | None":
    try:
        return re.compile(grep) if grep else None
    except re.error as error:
        raise ConfigError(f"--grep: {grep!r} is no regular expression ({error})") from error


def _training(
    student: RunConfig, teacher: RunConfig | None, size_px: int, batch: int, *, on_cpu: bool
) -> TrainingProgram:
    teachers = {}
    if teacher is not None:
        frozen = student.distill.teachers.get(TEACHER, TeacherConfig()).frozen
        values = initial_values(build.build_teacher(teacher, student, size_px=size_px, batch=batch)).values
        teachers[TEACHER] = build.Teacher(teacher, values, frozen)
    steps = student.train.max_iters  # stands for those of a pass over the data, too: a schedule costs the same anyway
    terms = terms_from_config(student.distill, max_iters=steps, epoch_steps=steps) if teachers else ()
    training = fixed_step(student, teachers, terms, size_px=size_px, batch=batch, on_cpu=on_cpu)
    keys = student.compile
    placed = place(
        training.program, keys.placement, on_cpu=on_cpu, fixed=lambda: training.program, kernels=keys.kernels
    )
    return replace(training, program=placed.program)


def _timed(session: Session, training: TrainingProgram, costs: Sequence[OpCost]) -> tuple[float, list[_Operator]]:
    program = training.program
    session.start(program, seed=0)
    feeds, fetch = _random_batch(program), list(training.losses.values())
    measured = profile(lambda: session.run(program, feeds, fetch))
    times, extra = match_times([cost.kind for cost in costs], measured.kernels)
    missed = [cost.name or cost.kind for cost, ms in zip(costs, times, strict=True) if ms is None]
    if missed:
        log.warning(
            "%d operators were not found among those that ran, and count 0 ms: %s", len(missed), first_few(missed)
        )
    operators = [_Operator(cost, ms if ms is not None else 0.0) for cost, ms in zip(costs, times, strict=True)]
    for before, kind, ms in extra:
        # It belongs to the side of the operator that it stands behind.
        added = replace(costs[before], kind=f"added {kind}", flops=0, parameters=0, weight_bytes=0, activation_bytes=0)
        operators.append(_Operator(added, ms, planned=False))
    return measured.step_ms, operators


def _random_batch(program: NamedProgram) -> dict[str, np.ndarray]:
    """Numbers between 0.2 and 0.8 for every feed, and class 0; only their shapes matter."""
    rng = np.random.RandomState(0)
    batch = {}
    for name, value in program.feeds.items():
        numbers = rng.uniform(0.2, 0.8, shape_of(value))
        batch[name] = numbers.astype(dtype_of(value))
    return batch


def _group(level: str, program: str, name: str, members: Sequence[_Operator]) -> Cost:
    known = [o.cost.flops for o in members if o.cost.flops is not None]
    times = [o.ms for o in members if o.ms is not None]
    return Cost(
        level=level,
        program=program,
        name=name,
        kind="",
        operators=sum(o.planned for o in members),
        flops=sum(known) if known else None,
        parameters=sum(o.cost.parameters for o in members),
        weight_bytes=sum(o.cost.weight_bytes for o in members),
        activation_bytes=sum(o.cost.activation_bytes for o in members),
        ms=sum(times) if times else None,
    )


def _single(operator: _Operator) -> Cost:
    return replace(_group("operator", operator.side, operator.cost.name, [operator]), kind=operator.cost.kind)


def _sides(operators: Iterable[_Operator]) -> dict[str, list[_Operator]]:
    sides: dict[str, list[_Operator]] = {}
    for operator in operators:
        sides.setdefault(operator.side, []).append(operator)
    return {side: sides[side] for side in SIDES if side in sides}


def _by_phase(operators: Sequence[_Operator]) -> list[Cost]:
    rows = []
    for side, members in _sides(operators).items():
        for phase in PHASES:
            part = [o for o in members if o.cost.phase == phase]
            rows += [_group("phase", side, phase, part)] if part else []
        rows.append(_group("phase", side, "step", members))
    return rows


def _by_kind(operators: Sequence[_Operator]) -> list[Cost]:
    """The most expensive kind first: by time where it was measured, else by FLOPs."""
    rows = []
    for side, members in _sides(operators).items():
        kinds: dict[str, list[_Operator]] = {}
        for operator in members:
            kinds.setdefault(operator.cost.kind, []).append(operator)
        rows += [_group("kind", side, kind, part) for kind, part in kinds.items()]
    return sorted(rows, key=lambda row: (-(row.ms or 0.0), -(row.flops or 0), row.name))


def render_costs(result: StepCost, style: str) -> str:
    """The cost as text tables (student and teacher side by side), as tsv, or as JSON."""
    if style == "json":
        return json.dumps(asdict(result), indent=1)
    if style == "tsv":
        rows = [list(asdict(row).values()) for row in result.rows]
        return tsv(list(Cost.__dataclass_fields__), rows)
    parts = [f"one training step, {result.batch} x 3 x {result.size_px} x {result.size_px}\n"]
    parts += [_beside(result, level) for level in ("phase", "kind")]
    single = [row for row in result.rows if row.level == "operator"]
    if single:
        table = [[row.program, row.name, row.kind, *_figures(row, result)] for row in single]
        parts.append(text_table(["program", "variable", "operator", *_headers(result)], table, digits=2))
    return "\n".join(parts) + _footer(result)


def _headers(result: StepCost) -> list[str]:
    timed = ["ms", "%"] if result.step_ms is not None else []
    return ["ops", "MFLOPs", "params", "weights MB", "results MB", *timed]


def _figures(row: Cost | None, result: StepCost) -> list[float | None]:
    if row is None:
        return [None] * len(_headers(result))
    mega = None if row.flops is None else row.flops / 1e6
    figures = [row.operators, mega, row.parameters, row.weight_bytes / 1e6, row.activation_bytes / 1e6]
    if result.step_ms is not None:
        figures += [row.ms, None if row.ms is None else 100 * row.ms / result.step_ms]
    return [round(f, 2) if isinstance(f, float) else f for f in figures]


def _beside(result: StepCost, level: str) -> str:
    found: Mapping[tuple[str, str], Cost] = {(r.program, r.name): r for r in result.rows if r.level == level}
    names = list(dict.fromkeys(name for _, name in found))
    if level == "phase":
        names = [name for name in (*PHASES, "step") if name in names]
    sides = [side for side in SIDES if any(program == side for program, _ in found)]
    headers = [level, *(f"{side}: {h}" if h == "ops" else h for side in sides for h in _headers(result))]
    table = [[name, *(f for side in sides for f in _figures(found.get((side, name)), result))] for name in names]
    return text_table(headers, table, digits=2)


def _footer(result: StepCost) -> str:
    lines = []
    if result.uncounted:
        lines.append(f"FLOPs not counted: {', '.join(result.uncounted)}")
    if result.step_ms is not None:
        total = sum(row.ms or 0.0 for row in result.rows if row.level == "phase" and row.name == "step")
        share = 100 * total / result.step_ms
        lines.append(f"step {result.step_ms:.1f} ms by the clock; its operators {total:.1f} ms ({share:.1f} %)")
    return "".join(f"{line}\n" for line in lines)
