"""Figures of text recognition: greedy CTC decoding, sequence accuracy, edit distance."""

from collections.abc import Sequence

import numpy as np

from slim_distill.common.errors import DataError

__all__ = ["ctc_greedy_decode", "edit_distance", "edit_similarity", "sequence_accuracy"]


def ctc_greedy_decode(
    probabilities: np.ndarray, characters: Sequence[str], *, blank: int = 0
) -> list[tuple[str, float]]:
    """Return (text, confidence) for each sequence: the best class at each step, repeats joined, blanks left out.

    The confidence is the mean probability of the steps kept, 0.0 for an empty text.

    Args:
        probabilities: [N, T, C], the output of a softmax; with raw scores the texts are right, the confidences are not.
        characters: [C] character of each class; that of `blank` is not used.
        blank: class of the blank.

    Raises:
        DataError: the shape is not [N, T, C], or C is not the number of characters.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 3 or probabilities.shape[2] != len(characters):
        raise DataError(
            f"CTC decoding: probabilities of shape {probabilities.shape} for {len(characters)} characters; "
            f"[N, T, {len(characters)}] is wanted (the blank included)"
        )
    best = probabilities.argmax(axis=2)
    before = np.pad(best[:, :-1], ((0, 0), (1, 0)), constant_values=-1)[:, : best.shape[1]]
    keep = (best != before) & (best != blank)
    sure = probabilities.max(axis=2, initial=0.0)
    return [
        ("".join(characters[c] for c in row[kept]), float(values[kept].mean()) if kept.any() else 0.0)
        for row, kept, values in zip(best, keep, sure, strict=True)
    ]


def sequence_accuracy(predictions: Sequence[str], targets: Sequence[str], *, ignore_space: bool = True) -> float:
    """Return the share of predictions that equal their target, by default with spaces taken out of both.

    Raises:
        DataError: no pairs, or as many predictions as targets are not there.
    """
    pairs = _pairs(predictions, targets, ignore_space)
    return sum(p == t for p, t in pairs) / len(pairs)


def edit_similarity(predictions: Sequence[str], targets: Sequence[str], *, ignore_space: bool = True) -> float:
    """Return 1 minus the mean of edit distance over the longer length: PaddleOCR's `norm_edit_dis`, 1 is perfect.

    Raises:
        DataError: no pairs, or as many predictions as targets are not there.
    """
    pairs = _pairs(predictions, targets, ignore_space)
    return 1.0 - sum(edit_distance(p, t) / max(len(p), len(t), 1) for p, t in pairs) / len(pairs)


def edit_distance(a: str, b: str) -> int:
    """Return the least number of characters to insert, delete or replace that turns `a` into `b` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def _pairs(predictions: Sequence[str], targets: Sequence[str], ignore_space: bool) -> list[tuple[str, str]]:
    if len(predictions) != len(targets) or not targets:
        raise DataError(f"{len(predictions)} predictions for {len(targets)} targets; one for each, and at least one")
    pairs = zip(predictions, targets, strict=True)
    return [(p.replace(" ", ""), t.replace(" ", "")) if ignore_space else (p, t) for p, t in pairs]
