"""From the run configuration to terms."""

from collections.abc import Callable, Mapping
from typing import Any

from slim_distill.common.errors import LossError
from slim_distill.common.names import nearest
from slim_distill.config.schema import DistillConfig, TermConfig
from slim_distill.losses.signature import read_signature
from slim_distill.losses.table import LOSSES
from slim_distill.losses.terms import Term

__all__ = ["terms_from_config"]


def terms_from_config(cfg: DistillConfig, table: Mapping[str, Callable[..., Any]] = LOSSES) -> tuple[Term, ...]:
    """Return the terms of a recipe, the teacher's names with the prefix of the teacher meant.

    Prefixed are `teacher` and those arguments that a loss declares as variables of the teacher.

    Raises:
        LossError: a term's source is not the prefix of a configured teacher.
    """
    return tuple(_term(cfg, term, f"distill.terms[{index}]", table) for index, term in enumerate(cfg.terms))


def _term(cfg: DistillConfig, term: TermConfig, path: str, table: Mapping[str, Callable[..., Any]]) -> Term:
    if cfg.teachers and term.source not in cfg.teachers:
        near = nearest(term.source, cfg.teachers, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise LossError(f"{path}.from: no teacher {term.source!r}; {hint}configured: {', '.join(sorted(cfg.teachers))}")
    of_teacher: set[str] = set()
    if term.loss in table:  # an unknown loss is reported, with its neighbours, when the term is bound
        of_teacher = {a.name for a in read_signature(table[term.loss]).arguments if a.kind == "teacher"}
    args = {
        name: term.source + value if name in of_teacher and isinstance(value, str) else value
        for name, value in term.args.items()
    }
    teacher = tuple(term.source + name for name in term.teacher)
    return Term(term.loss, tuple(term.student), teacher, term.weight, args, path)
