"""Web pages in one file."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.report import Page, encode_png, save_png

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
    page = Page("A <title>")
    page.heading("Part & parcel")
    page.text("One.\n\nTwo <b>.")
    page.table(["run", "AP"], [["a <i>&</i> b", 0.5], ["c", None]], digits=2)
    page.heading("Second")
    content = page.html()
    parser = Balanced()
    parser.feed(content)
    assert parser.open == []
    text = "".join(parser.text)
    places = [text.index(p) for p in ("Part & parcel", "One.", "Two <b>.", "a <i>&</i> b", "0.50", "Second")]
    assert places == sorted(places)
    assert text.count("A <title>") == 2  # of the window and on the page
    assert content.count("<p>") == 2
    assert '<td class="number">0.50</td>' in content
    assert "<b>" not in content
    assert "<i>" not in content


def test_pictures_are_inside_the_page(tmp_path):
    page = Page("t")
    page.picture(IMAGE, 'an "array"')
    page.picture(save_png(tmp_path / "a.png", IMAGE), "a file")
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page.html())
    assert [base64.b64decode(f) for f in found] == [encode_png(IMAGE)] * 2
    assert 'alt="an &quot;array&quot;"' in page.html()


def test_nothing_is_loaded_from_elsewhere():
    page = Page("t")
    page.text("see https://example.org")
    page.picture(IMAGE, "c")
    assert "<script" not in page.html()
    assert "<link" not in page.html()
    assert not re.search(r'(src|href)="(?!data:)', page.html())


def test_saved_page_is_the_page(tmp_path):
    page = Page("t")
    page.text("Größe")
    path = page.save(tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8") == page.html()


def test_refusals(tmp_path):
    page = Page("t")
    with pytest.raises(DataError, match=r"gone\.png: cannot be read: No such file"):
        page.picture(tmp_path / "gone.png", "")
    with pytest.raises(DataError, match=r"a\.txt: is not a picture by its ending"):
        page.picture(tmp_path / "a.txt", "")
    with pytest.raises(DataError, match="row 0 has 1 values for 2 columns"):
        page.table(["a", "b"], [[1]])
    with pytest.raises(DataError, match="image is float64"):
        page.picture(np.zeros((2, 2, 3)), "")
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*taken/a\.html"):
        page.save(tmp_path / "taken" / "a.html")
