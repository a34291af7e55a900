"""Web pages in one file."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.report import Picture, Section, Table, encode_png, html_page, save_png, write_page

IMAGE = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of turn; collects the text."""

    def __init__(self):
        super().__init__()
        self.open, self.text = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_well_formed_and_holds_its_parts():
    table = Table(["run", "AP"], [["a <i>&</i> b", 0.5], ["c", None]], digits=2)
    page = html_page("A <title>", [Section("Part & parcel", ["One.\n\nTwo <b>.", table]), Section("Second", [])])
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    text = "".join(parser.text)
    for piece in ("A <title>", "Part & parcel", "Two <b>.", "a <i>&</i> b", "0.50", "Second"):
        assert piece in text
    assert page.count("<p>") == 2
    assert '<td class="number">0.50</td>' in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_pictures_are_inside_the_page(tmp_path):
    file = save_png(tmp_path / "a.png", IMAGE)
    page = html_page("t", [Section("s", [Picture(IMAGE, 'an "array"'), Picture(file, "a file")])])
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(f) for f in found] == [encode_png(IMAGE)] * 2
    assert 'alt="an &quot;array&quot;"' in page


def test_nothing_is_loaded_from_elsewhere():
    page = html_page("t", [Section("s", ["see https://example.org", Picture(IMAGE, "c")])])
    assert "<script" not in page
    assert "<link" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_write_page(tmp_path):
    sections = [Section("s", ["Größe"])]
    path = write_page(tmp_path / "new" / "page.html", "t", sections)
    assert path.read_text(encoding="utf-8") == html_page("t", sections)


def test_refusals(tmp_path):
    def page(part):
        return html_page("t", [Section("s", [part])])

    with pytest.raises(DataError, match=r"gone\.png: cannot be read: No such file"):
        page(Picture(tmp_path / "gone.png", ""))
    with pytest.raises(DataError, match=r"a\.txt: is not a picture by its ending"):
        page(Picture(tmp_path / "a.txt", ""))
    with pytest.raises(DataError, match="row 0 has 1 values for 2 columns"):
        page(Table(["a", "b"], [[1]]))
    with pytest.raises(DataError, match="image is float64"):
        page(Picture(np.zeros((2, 2, 3)), ""))
