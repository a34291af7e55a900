"""The pages of the loss library, made from docstrings and signatures: `python -m slim_distill.losses.describe`."""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slim_distill.common.errors import LossError
from slim_distill.common.names import pick
from slim_distill.losses.signature import format_signature, read_signature, type_text
from slim_distill.losses.table import GROUPS, LOSSES

__all__ = [
    "ArgumentPage",
    "LossPage",
    "describe",
    "describe_all",
    "main",
    "page_text",
    "to_json",
    "to_markdown",
    "to_text",
]

SECTIONS = ("Formula", "Attaches", "Shapes", "Args", "Reduction", "Gradient", "Minimum", "Source", "Differences")
_HEADING = re.compile(rf"^({'|'.join(SECTIONS)}):(.*)$")
_ARGUMENT = re.compile(r"^    (\w+): (.*)$")
_MINIMUM = "0, at student = teacher."  # what holds where a docstring does not say otherwise

_PREFACE = """\
# Losses

Made from the docstrings by `python -m slim_distill.losses.describe --write docs/losses.md`.

A term of a recipe names a loss, the student's and the teacher's variables, a weight, and the loss's arguments:

```yaml
- {loss: cwd, student: backbone.c4, teacher: backbone.c4, weight: 5, temperature: 4, adapter: conv1x1_bn}
```

The weight multiplies the value; no loss contains one of its own unless it says so. The teacher's variables never get
a gradient. All is computed in float32 at least, and in log space where probabilities are compared; the batch, and the
height and width of maps, may be open in a program.

Two arguments are understood by every loss that compares variables one by one. `adapter` (`identity`, `conv1x1`,
`conv1x1_bn`, `linear`) maps the student's channels to the teacher's by a trained layer; `resize` (`none`, `student`,
`teacher`) resizes one of two maps to the other's size, bilinearly. The parameters of adapters, and of losses that own
layers, are named `distill.` and the number of the term; they are trained and checkpointed with the student, and are no
part of what is exported.

An argument that takes a *variable* names a variable of the program; one that takes a *teacher variable* names one of
the teacher, written without its prefix.
"""


@dataclass(frozen=True)
class ArgumentPage:
    """One argument: its name, what it takes, its default (None with `required`), and what it means."""

    name: str
    type: str
    default: Any
    required: bool
    text: str


@dataclass(frozen=True)
class LossPage:
    """All that is said of one loss.

    Attributes:
        name: in a recipe; group: what it is made for; summary: one line.
        signature: as a line; student, teacher: how many variables ("1", "2", "one or more", "0").
        owns_layers: it has parameters of its own.
        sections: text by heading (Formula, Attaches, Shapes, Reduction, Gradient, Minimum, Source, Differences).
        arguments: in the order of the signature.
    """

    name: str
    group: str
    summary: str
    signature: str
    student: str
    teacher: str
    owns_layers: bool
    sections: Mapping[str, str]
    arguments: tuple[ArgumentPage, ...]


def describe(name: str, table: Mapping[str, Callable[..., Any]] = LOSSES) -> LossPage:
    """Return the page of one loss.

    Raises:
        LossError: there is no such loss; the message shows the nearest.
    """
    function = pick(table, name, "loss", LossError)
    signature = read_signature(function)
    summary, sections, texts = _parse(inspect.getdoc(function) or "")
    arguments = tuple(
        ArgumentPage(a.name, type_text(a), a.default, a.required, texts.get(a.name, "")) for a in signature.arguments
    )
    group = next((group for group, names in GROUPS.items() if name in names), "custom")
    student, teacher = (_number(count) for count in (signature.student, signature.teacher))
    line = format_signature(name, signature)
    return LossPage(name, group, summary, line, student, teacher, signature.takes_layers, sections, arguments)


def describe_all(table: Mapping[str, Callable[..., Any]] = LOSSES) -> tuple[LossPage, ...]:
    """Return the page of every loss, group by group."""
    grouped = [name for names in GROUPS.values() for name in names if name in table]
    return tuple(describe(name, table) for name in [*grouped, *sorted(set(table) - set(grouped))])


def page_text(page: LossPage) -> str:
    """Return one page as plain text."""
    lines = [page.signature, "", page.summary, ""]
    lines += [f"{heading}: {text}".replace("\n", "\n  ") for heading, text in page.sections.items()]
    if page.owns_layers:
        lines.append("Layers: has parameters of its own, trained with the student.")
    lines += ["", "Arguments:"] if page.arguments else ["", "No arguments."]
    for a in page.arguments:
        given = "required" if a.required else f"default {a.default!r}"
        lines.append(f"  {a.name} ({a.type}, {given}): {a.text}")
    return "\n".join(lines) + "\n"


def to_text(pages: Sequence[LossPage]) -> str:
    """Return a table of the losses, one line each."""
    width = max((len(page.name) for page in pages), default=0)
    groups = max((len(page.group) for page in pages), default=0)
    return "".join(f"{page.name:<{width}}  {page.group:<{groups}}  {page.summary}\n" for page in pages)


def to_json(pages: Sequence[LossPage]) -> str:
    """Return the pages as a JSON list."""
    return json.dumps([asdict(page) for page in pages], indent=2, ensure_ascii=False) + "\n"


def to_markdown(pages: Sequence[LossPage]) -> str:
    """Return the pages as one Markdown document with a table of contents."""
    lines = [_PREFACE]
    for group in dict.fromkeys(page.group for page in pages):
        lines += [f"## {group.capitalize()}", "", "| loss | what it compares |", "|---|---|"]
        members = [page for page in pages if page.group == group]
        lines += [f"| [`{page.name}`](#{page.name}) | {page.summary} |" for page in members]
        lines.append("")
        for page in members:
            lines += _markdown_page(page)
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages to a file, or print them."""
    parser = argparse.ArgumentParser(prog="python -m slim_distill.losses.describe", description=__doc__)
    parser.add_argument("name", nargs="?", help="show the page of this loss only")
    parser.add_argument("--json", action="store_true", help="all pages as JSON")
    parser.add_argument("--write", metavar="FILE", help="write all pages to this Markdown file")
    args = parser.parse_args(argv)
    pages = describe_all() if args.name is None else (describe(args.name),)
    if args.write:
        Path(args.write).write_text(to_markdown(pages), encoding="utf-8")
        return 0
    sys.stdout.write(to_json(pages) if args.json else to_text(pages) if args.name is None else page_text(pages[0]))
    return 0


def _markdown_page(page: LossPage) -> list[str]:
    lines = [f"### {page.name}", "", page.summary, "", "```", page.sections.get("Formula", ""), "```", ""]
    lines += [f"- **{heading}**: {text}" for heading, text in page.sections.items() if heading != "Formula"]
    if page.owns_layers:
        lines.append("- **Layers**: has parameters of its own, trained with the student.")
    lines.append("")
    if page.arguments:
        lines += ["| argument | takes | default | meaning |", "|---|---|---|---|"]
        for a in page.arguments:
            cells = (f"`{a.name}`", a.type, "required" if a.required else f"`{a.default!r}`", a.text)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return lines


def _parse(doc: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return summary, text by heading, and text by argument of a docstring in this package's form."""
    summary, _, body = doc.partition("\n\n")
    sections: dict[str, list[str]] = {}
    arguments: dict[str, list[str]] = {}
    current: list[str] = []
    in_arguments = False
    for line in body.splitlines():
        heading, argument = _HEADING.match(line), _ARGUMENT.match(line)
        if heading:
            in_arguments = heading[1] == "Args"
            current = sections.setdefault(heading[1], [heading[2]])
        elif in_arguments and argument:
            current = arguments.setdefault(argument[1], [argument[2]])
        else:
            current.append(line)
    sections.pop("Args", None)
    # A formula keeps its lines, text is joined.
    joined = {
        heading: ("\n" if heading == "Formula" else " ").join(part.strip() for part in parts).strip()
        for heading, parts in sections.items()
    }
    if joined and "Minimum" not in joined:
        joined["Minimum"] = _MINIMUM
    ordered = {heading: joined[heading] for heading in SECTIONS if heading in joined}
    return " ".join(summary.split()), ordered, {k: " ".join(p.strip() for p in v) for k, v in arguments.items()}


def _number(count: int | None) -> str:
    return "one or more" if count is None else str(count)


if __name__ == "__main__":
    sys.exit(main())
