"""Web pages in one file: pictures inside, nothing loaded from elsewhere, no scripts."""

import base64
import html
import mimetypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.errors import DataError
from slim_distill.common.files import atomic_write
from slim_distill.report.pictures import encode_png
from slim_distill.report.tables import cell_grid

__all__ = ["Page"]

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


class Page:
    """A page that is put together from top to bottom.

    Args:
        title: the page's title; plain text, like every text of a page.
    """

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._body: list[str] = []

    def heading(self, title: str) -> None:
        """Begin a section."""
        self._body.append(f"<h2>{html.escape(title)}</h2>")

    def text(self, text: str) -> None:
        """Add paragraphs, parted by empty lines."""
        self._body.extend(f"<p>{html.escape(p.strip())}</p>" for p in text.split("\n\n") if p.strip())

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Any]], *, digits: int = 3) -> None:
        """Add a table: column titles, rows of values, decimals of floats.

        Raises:
            DataError: a row of another length.
        """
        self._body.append(_table(*cell_grid(headers, rows, digits)))

    def picture(self, image: np.ndarray | str | Path, caption: str) -> None:
        """Add a picture, an RGB array [H, W, 3] uint8 or a file (.png, .jpg, .svg), and say what it shows.

        Raises:
            DataError: an array or a file that is no picture, or a file that cannot be read.
        """
        kind, content = (
            ("image/png", encode_png(image)) if isinstance(image, np.ndarray) else _read_picture(Path(image))
        )
        data, text = base64.b64encode(content).decode("ascii"), html.escape(caption)
        self._body.append(
            f'<figure>\n<img src="data:{kind};base64,{data}" alt="{text}">\n<figcaption>{text}</figcaption>\n</figure>'
        )

    def html(self) -> str:
        """Return the whole page."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{self._title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{self._title}</h1>\n"
            + "\n".join(self._body)
            + "\n</body>\n</html>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, making the folder if need be, and return its path.

        Raises:
            DataError: the file cannot be written.
        """
        with atomic_write(path, "w", error=DataError) as handle:
            handle.write(self.html())
        return Path(path)


def _table(head: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        kinds = (' class="number"' if r else "" for r in right)
        return (
            "<tr>" + "".join(f"<{tag}{k}>{html.escape(c)}</{tag}>" for k, c in zip(kinds, row, strict=True)) + "</tr>"
        )

    body = "\n".join(line("td", row) for row in cells)
    table = f"<table>\n<thead>\n{line('th', head)}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="wide">{table}</div>'


def _read_picture(path: Path) -> tuple[str, bytes]:
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        raise DataError(f"{path}: is not a picture by its ending; .png, .jpg or .svg is wanted")
    try:
        return kind, path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
