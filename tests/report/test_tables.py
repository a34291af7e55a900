"""Tables as text."""

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.report import format_cell, markdown_table, text_table, tsv


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (7, "7"),
        (np.int64(-9999), "-9999"),
        (24500000, "24,500,000"),
        (0.0, "0.000"),
        (0.81249, "0.812"),
        (np.float32(12.5), "12.500"),
        (-3.21e-7, "-3.21e-07"),
        (1.5e9, "1.5e+09"),
        (float("nan"), "nan"),
        ((-1, 3, None), "[-1, 3, -]"),
        ([], "[]"),
        ("a|b", "a|b"),
    ],
)
def test_cells(value, text):
    assert format_cell(value) == text


def test_digits_are_those_asked_for():
    assert format_cell(0.12345, 1) == "0.1"
    assert format_cell(0.012, 1) == "0.01"


HEADERS = ["run", "AP", "shape"]
ROWS = [["teacher", 0.8125, (1, 3)], ["a|b\nc", None, ()]]


def test_markdown_table():
    assert markdown_table(HEADERS, ROWS) == (
        "| run     |    AP | shape  |\n"
        "| ------- | ----: | ------ |\n"
        "| teacher | 0.812 | [1, 3] |\n"
        "| a\\|b c  |     - | []     |\n"
    )


def test_text_table():
    assert text_table(HEADERS, [["teacher", 0.8125, (1, 3)], ["l2", 12, ()]]) == (
        "run         AP  shape\n-------  -----  ------\nteacher  0.812  [1, 3]\nl2          12  []\n"
    )


def test_tsv_keeps_numbers_in_full_and_one_line_a_row():
    lines = tsv(HEADERS, [["a\tb\nc", 1 / 3, (1, 3)], [10**6, None, np.float32(0.5)]]).split("\n")
    assert lines == ["run\tAP\tshape", f"a b c\t{1 / 3!r}\t[1, 3]", "1000000\t\t0.5", ""]


def test_tables_without_rows():
    assert text_table(["a", "bb"], []) == "a  bb\n-  --\n"
    assert markdown_table(["a"], []) == "| a   |\n| --- |\n"
    assert tsv(["a"], []) == "a\n"


@pytest.mark.parametrize("table", [markdown_table, text_table, tsv])
def test_ragged_rows_are_refused(table):
    with pytest.raises(DataError, match=r"row 1 has 1 values for 2 columns: \['x'\]"):
        table(["a", "b"], [[1, 2], ["x"]])
