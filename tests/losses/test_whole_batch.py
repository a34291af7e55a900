"""Which losses may be computed on parts of a batch: their value is the mean of the parts' values, image by image."""

from dataclasses import replace

import pytest

from slim_distill.losses.table import LOSSES, WHOLE_BATCH
from tests.losses import cases_basic, cases_features, cases_heads, cases_logits
from tests.losses.harness import as_list, run_eager

RANDOM = {"mgd"}  # draws a mask for every image, so that no part sees what the whole sees
CASES = [case for module in (cases_basic, cases_features, cases_heads, cases_logits) for case in module.CASES]


def part_of(case, first, end):
    """The same case with images `first` to `end` alone."""
    count = len(as_list(case.student)[0])

    def cut(side):
        return tuple(map(cut, side)) if isinstance(side, tuple) else None if side is None else side[first:end]

    tensors = {name: array[first:end] if array.shape[:1] == (count,) else array for name, array in case.tensors.items()}
    return replace(case, student=cut(case.student), teacher=cut(case.teacher), tensors=tensors)


def splits(case):
    """Whether the case's value is the mean of its parts' values, each by its number of images."""
    count = len(as_list(case.student)[0])
    whole = run_eager(case)
    ends = ((0, count // 2), (count // 2, count))
    parts = [run_eager(part_of(case, *end), params=whole.params or None).value * (end[1] - end[0]) for end in ends]
    return sum(parts) / count == pytest.approx(whole.value, rel=1e-9, abs=1e-12)


def test_the_table_names_exactly_the_losses_that_do_not_split():
    found = {}
    for case in CASES:
        found.setdefault(case.function.__name__, []).append(splits(case))
    assert set(found) >= set(LOSSES) - RANDOM
    assert {name for name, rows in found.items() if not all(rows)} - RANDOM == WHOLE_BATCH
