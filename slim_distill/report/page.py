"""Web pages in one file: pictures inside, nothing loaded from elsewhere, no scripts."""

import base64
import html
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.errors import DataError
from slim_distill.common.files import atomic_write
from slim_distill.report.pictures import encode_png
from slim_distill.report.tables import cell_grid

__all__ = ["Picture", "Section", "Table", "html_page", "write_page"]

STYLE = """
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #222226; max-width: 72rem; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.8rem; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #d8d8de; padding-bottom: .2rem; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #e6e6ea; text-align: left; }
th { border-bottom: 2px solid #222226; } .number { text-align: right; } tbody tr:hover { background: #f5f5f8; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; } figcaption { color: #5a5a62; font-size: .9rem; }
.wide { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Table:
    """A table: column titles, rows of values, decimals of floats."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Any]]
    digits: int = 3


@dataclass(frozen=True)
class Picture:
    """A picture: an RGB array [H, W, 3] uint8 or a file (.png, .jpg, .svg), and what it shows."""

    image: np.ndarray | str | Path
    caption: str


@dataclass(frozen=True)
class Section:
    """A headed part of a page; strings are paragraphs, parted by empty lines, taken as plain text."""

    title: str
    parts: Sequence[str | Table | Picture]


def html_page(title: str, sections: Sequence[Section]) -> str:
    """Return a page with its pictures inside, as one HTML text.

    Raises:
        DataError: a picture that is no image or cannot be read, a table row of another length.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        body.append(f"<section>\n<h2>{html.escape(section.title)}</h2>")
        body.extend(_part(part) for part in section.parts)
        body.append("</section>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write `html_page` to a file and return its path.

    Raises:
        DataError: as `html_page`, or the file cannot be written.
    """
    content = html_page(title, sections)
    with atomic_write(path, "w", error=DataError) as handle:
        handle.write(content)
    return Path(path)


def _part(part: str | Table | Picture) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Picture):
        return _picture(part)
    return "\n".join(f"<p>{html.escape(p.strip())}</p>" for p in part.split("\n\n") if p.strip())


def _table(table: Table) -> str:
    head, cells, right = cell_grid(table.headers, table.rows, table.digits)

    def line(tag: str, row: Sequence[str]) -> str:
        kinds = (' class="number"' if r else "" for r in right)
        return (
            "<tr>" + "".join(f"<{tag}{k}>{html.escape(c)}</{tag}>" for k, c in zip(kinds, row, strict=True)) + "</tr>"
        )

    body = "\n".join(line("td", row) for row in cells)
    return (
        f'<div class="wide"><table>\n<thead>\n{line("th", head)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
    )


def _picture(picture: Picture) -> str:
    if isinstance(picture.image, np.ndarray):
        kind, content = "image/png", encode_png(picture.image)
    else:
        kind, content = _read_picture(Path(picture.image))
    caption, data = html.escape(picture.caption), base64.b64encode(content).decode("ascii")
    return (
        f'<figure>\n<img src="data:{kind};base64,{data}" alt="{caption}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )


def _read_picture(path: Path) -> tuple[str, bytes]:
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise DataError(f"{path}: is not a picture by its ending; .png, .jpg or .svg is wanted")
    try:
        return kind, path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
