"""Lists of what can be named in a student and a teacher, and which of them fit together."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from slim_distill.common.errors import ConfigError
from slim_distill.config.schema import RunConfig
from slim_distill.graph import NamedProgram, dtype_of, shape_of, trace
from slim_distill.models.build import build_model
from slim_distill.report import text_table, tsv

__all__ = ["FORMATS", "Variable", "list_variables", "render"]

FORMATS = ("text", "tsv", "json")


@dataclass(frozen=True)
class Variable:
    """One named variable.

    Attributes:
        program: student | teacher.
        name: canonical name, without a teacher's prefix.
        aliases: other names of the same variable.
        shape: -1 for a dynamic axis.
        op: the operator that produces it.
        role: feed | parameter | statistic | head output | feature | loss | other.
        pair: number shared by the variables of equal shape in both programs, 0 where there is none; parameters
            and feeds are not paired.
    """

    program: str
    name: str
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    op: str
    role: str
    pair: int = 0


def list_variables(
    student: RunConfig,
    teacher: RunConfig | None = None,
    *,
    grep: str = "",
    shape: str = "",
    size_px: int | None = None,
) -> list[Variable]:
    """The variables of a student's training program and, beside it, of its teacher's.

    Args:
        student: the student's run.
        teacher: the teacher's run; it is built with the student's form of the loss, as in distillation.
        grep: regular expression that a name, an alias or the operator must match.
        shape: "N,C,H,W"; -1 or * matches any size.
        size_px: fixes the input's height and width, so that feature maps have known sizes.

    Raises:
        ConfigError: the expression or shape cannot be read.
    """
    programs = {"student": trace(build_model(student.model, "train", size=size_px))}
    if teacher is not None:
        programs["teacher"] = trace(build_model(teacher.model, "train", size=size_px))
    rows = [row for which, program in programs.items() for row in _rows(which, program)]
    rows = _mark_pairs(rows) if teacher is not None else rows
    return [row for row in rows if _matches(row, _expression(grep), _sizes(shape))]


def _rows(which: str, program: NamedProgram) -> list[Variable]:
    aliases: dict[str, list[str]] = {}
    for alias, name in program.aliases.items():
        aliases.setdefault(name, []).append(alias)
    rows = []
    for name, value in program.variables.items():
        op = value.get_defining_op().name()
        shape = shape_of(value)
        role = _role(name, value, op, shape)
        rows.append(Variable(which, name, tuple(aliases.get(name, ())), shape, dtype_of(value), op, role))
    return rows


def _role(name: str, value: object, op: str, shape: tuple[int, ...]) -> str:
    if op == "builtin.parameter":
        return "parameter" if value.trainable else "statistic"  # type: ignore[attr-defined]
    if op in ("pd_op.data", "pd_op.feed"):
        return "feed"
    if name.startswith("yolo_head."):
        return "head output"
    if name == "loss" or name.startswith(("loss.", "loss_")):
        return "loss"
    return "feature" if len(shape) == 4 else "other"


def _mark_pairs(rows: Sequence[Variable]) -> list[Variable]:
    """Number the (shape, dtype) combinations that both programs have, in the student's order."""
    keys = {
        which: {_key(row) for row in rows if row.program == which and _pairs(row)} for which in ("student", "teacher")
    }
    numbers: dict[tuple[tuple[int, ...], str], int] = {}
    for row in rows:
        if _pairs(row) and _key(row) in keys["student"] & keys["teacher"]:
            numbers.setdefault(_key(row), len(numbers) + 1)
    return [Variable(**{**asdict(r), "pair": numbers.get(_key(r), 0) if _pairs(r) else 0}) for r in rows]


def _key(row: Variable) -> tuple[tuple[int, ...], str]:
    return tuple(row.shape), row.dtype


def _pairs(row: Variable) -> bool:
    return row.role in ("feature", "head output") or (row.role == "other" and len(row.shape) >= 2)


def _expression(grep: str) -> "re.Pattern[str]":
    try:
        return re.compile(grep)
    except re.error as error:
        raise ConfigError(f"--grep: {grep!r} is no regular expression ({error})") from error


def _sizes(shape: str) -> tuple[int | None, ...] | None:
    if not shape:
        return None
    try:
        return tuple(None if part.strip() in ("*", "-1") else int(part) for part in shape.strip("[]()").split(","))
    except ValueError as error:
        raise ConfigError(f"--shape: {shape!r} is no list of sizes; write it like -1,75,*,*") from error


def _matches(row: Variable, expression: "re.Pattern[str]", sizes: tuple[int | None, ...] | None) -> bool:
    if not any(expression.search(text) for text in (row.name, row.op, *row.aliases)):
        return False
    if sizes is None:
        return True
    return len(sizes) == len(row.shape) and all(s is None or s == d for s, d in zip(sizes, row.shape, strict=True))


def render(rows: Sequence[Variable], style: str) -> str:
    """The rows as a text table (two programs side by side), as tsv, or as JSON."""
    if style == "json":
        return json.dumps([asdict(row) for row in rows], indent=1)
    if style == "tsv":
        headers = ["program", "name", "shape", "dtype", "role", "operator", "pair", "aliases"]
        return tsv(headers, [[r.program, r.name, _shape(r), r.dtype, r.role, r.op, r.pair, *_aliases(r)] for r in rows])
    sides = [[row for row in rows if row.program == which] for which in ("student", "teacher")]
    if not sides[1]:
        headers = ["name", "shape", "dtype", "role", "operator", "aliases"]
        return text_table(headers, [[*_cells(row), *_aliases(row)] for row in sides[0]])
    headers = ["student", "shape", "dtype", "role", "operator", "pair", "teacher", "shape", "dtype", "role", "operator"]
    table = [[*_cells(left), _mark(left, right), *_cells(right)] for left, right in _aligned(*sides)]
    return text_table(headers, table)


def _cells(row: Variable | None) -> list[str]:
    if row is None:
        return [""] * 5
    name = f"{row.name} ({row.aliases[-1]})" if row.aliases else row.name
    return [name, _shape(row), row.dtype, row.role, row.op.removeprefix("pd_op.")]


def _shape(row: Variable) -> str:
    return "x".join(map(str, row.shape)) or "scalar"


def _aliases(row: Variable) -> list[str]:
    return [" ".join(row.aliases)]


def _mark(*sides: Variable | None) -> str:
    pairs = [row.pair for row in sides if row is not None and row.pair]
    return f"#{pairs[0]}" if pairs else ""


def _aligned(left: Sequence[Variable], right: Sequence[Variable]) -> Iterator[tuple[Variable | None, Variable | None]]:
    """The two lists side by side as a diff would show them: rows of equal shape in one line where order allows."""
    matcher = difflib.SequenceMatcher(None, [_key(r) for r in left], [_key(r) for r in right], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            yield from zip(left[a:b], right[c:d], strict=True)
            continue
        yield from ((row, None) for row in left[a:b])
        yield from ((None, row) for row in right[c:d])
