"""What a pass is, and how passes are run: checked before and after, on a copy, with errors that name the pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from slim_distill.common.errors import GraphError, SlimDistillError
from slim_distill.graph.program import NamedProgram

__all__ = ["Pass", "PassResult", "run_passes"]


@dataclass(frozen=True)
class PassResult:
    """What a pass did.

    Attributes:
        program: the rewritten program.
        changed: whether anything was changed; a second run of the same pass changes nothing.
        notes: one line for each thing done or refused, for the log: which operator, and why.
        counts: what was done, in numbers: "operators cut" -> 868.
        refusals: reason -> number of operators that were left as they are for it.
    """

    program: NamedProgram
    changed: bool
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """What was done and what was refused, in one line: "868 operators cut, 36 norms folded; 1 stays: REASON"."""
        done = ", ".join(f"{number} {what}" for what, number in self.counts.items() if number)
        left = "; ".join(f"{number} {_stay(number)}: {why}" for why, number in self.refusals.items())
        return "; ".join(part for part in (done or "nothing to change", left) if part)


def _stay(number: int) -> str:
    return "stays" if number == 1 else "stay"


class Pass(Protocol):
    """A rewrite of one program. Options are the fields of a frozen dataclass.

    `apply` may edit the program it is given: `run_passes` hands it a copy.
    """

    @property
    def name(self) -> str:
        """The pass's name in logs and errors."""

    def requires(self, program: NamedProgram) -> None:
        """Raise GraphError when the program does not have what the pass needs."""

    def apply(self, program: NamedProgram) -> PassResult:
        """Rewrite."""

    def ensures(self, program: NamedProgram) -> None:
        """Raise GraphError when the result is not what the pass promises."""


def run_passes(program: NamedProgram, passes: Sequence[Pass]) -> PassResult:
    """Run passes in order on a copy of `program`, which itself is left unchanged.

    Returns:
        The last program; `changed` if any pass changed something; all notes, each with its pass's name before it; all
        counts and refusals, added up.

    Raises:
        GraphError: a pass's needs or promises do not hold; the message names it and the passes before it.
    """
    current = program.clone()
    changed = False
    notes: list[str] = []
    done: list[str] = []
    counts: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    for step in passes:
        try:
            step.requires(current)
            result = step.apply(current)
            step.ensures(result.program)
        except SlimDistillError as error:
            before = f" (after {', '.join(done)})" if done else ""
            raise type(error)(f"pass {step.name}{before}: {error}") from error
        current = result.program
        changed |= result.changed
        notes += [f"{step.name}: {note}" for note in result.notes]
        counts.update(result.counts)
        refusals.update(result.refusals)
        done.append(step.name)
    if not passes:
        raise GraphError("run_passes was given no pass")
    return PassResult(current, changed, tuple(notes), counts, refusals)
