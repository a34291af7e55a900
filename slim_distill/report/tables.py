"""Tables as text: for Markdown pages, for terminals, for other programs."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from slim_distill.common.errors import DataError

__all__ = ["cell_grid", "format_cell", "markdown_table", "text_table", "tsv"]

Rows = Sequence[Sequence[Any]]


def format_cell(value: Any, digits: int = 3) -> str:
    """Return a value as people read it.

    None is "-", a truth value "yes" or "no", an integer from 10,000 up has commas, a float has `digits` decimals
    (so many significant digits and an exponent when it is tiny or huge), a shape is "[-1, 3, 320]".
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if _is_truth(value):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}" if abs(int(value)) >= 10000 else str(int(value))
    if isinstance(value, Real):
        number = float(value)
        plain = number == 0 or 10.0**-digits <= abs(number) < 1e6
        return f"{number:.{digits}f}" if plain else f"{number:.{digits}g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join('-' if v is None else str(v) for v in value)}]"
    return str(value)


def cell_grid(headers: Sequence[str], rows: Rows, digits: int) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return the titles, the formatted cells, and which columns hold numbers; every form of a table starts from these.

    Raises:
        DataError: a row of another length.
    """
    _check(headers, rows)
    cells = [[format_cell(v, digits) for v in row] for row in rows]
    return [str(h) for h in headers], cells, [_is_numeric([row[i] for row in rows]) for i in range(len(headers))]


def markdown_table(headers: Sequence[str], rows: Rows, *, digits: int = 3) -> str:
    """Return a Markdown table; columns of numbers stand at the right.

    Args:
        headers: column titles.
        rows: one value a column.
        digits: decimals of floats.

    Raises:
        DataError: a row of another length.
    """
    head, cells, right = cell_grid(headers, rows, digits)
    head, cells = [_escape(h) for h in head], [[_escape(c) for c in row] for row in cells]
    widths = [max(3, w) for w in _widths(head, cells)]
    rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
    lines = [_align(head, widths, right), rule, *(_align(row, widths, right) for row in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def text_table(headers: Sequence[str], rows: Rows, *, digits: int = 3) -> str:
    """Return a table with aligned columns for a terminal; columns of numbers stand at the right.

    Raises:
        DataError: a row of another length.
    """
    head, cells, right = cell_grid(headers, rows, digits)
    widths = _widths(head, cells)
    lines = [_align(head, widths, right), ["-" * w for w in widths], *(_align(row, widths, right) for row in cells)]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def tsv(headers: Sequence[str], rows: Rows) -> str:
    """Return tab-separated lines for other programs: numbers in full, None empty; tabs and line breaks become spaces.

    Raises:
        DataError: a row of another length.
    """
    _check(headers, rows)
    return "".join("\t".join(_raw(v) for v in row) + "\n" for row in [headers, *rows])


def _check(headers: Sequence[str], rows: Rows) -> None:
    for number, row in enumerate(rows):
        if len(row) != len(headers):
            raise DataError(f"table: row {number} has {len(row)} values for {len(headers)} columns: {list(row)}")


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # numpy's is no subclass of bool


def _is_numeric(values: Sequence[Any]) -> bool:
    present = [v for v in values if v is not None]
    return bool(present) and all(isinstance(v, Real) and not _is_truth(v) for v in present)


def _raw(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Real) and not isinstance(value, Integral) and not _is_truth(value):
        return repr(float(value))
    if isinstance(value, (list, tuple)):
        return format_cell(value)
    return " ".join(str(value).replace("\t", " ").splitlines())


def _escape(cell: str) -> str:
    return " ".join(cell.replace("\\", "\\\\").replace("|", "\\|").splitlines())


def _widths(head: list[str], cells: list[list[str]]) -> list[int]:
    return [max(len(row[i]) for row in [head, *cells]) for i in range(len(head))]


def _align(row: list[str], widths: list[int], right: list[bool]) -> list[str]:
    return [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
