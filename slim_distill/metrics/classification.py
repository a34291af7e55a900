"""Figures of image classification."""

from collections.abc import Sequence

import numpy as np

from slim_distill.common.errors import DataError

__all__ = ["topk_accuracy"]


def topk_accuracy(scores: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 5)) -> dict[int, float]:
    """Return {k: share of rows whose label is among the k highest scores}.

    Of equal scores the class with the smaller number is the higher.

    Args:
        scores: [N, C], logits or probabilities.
        labels: [N] or [N, 1], the right classes.
        ks: the k asked for; one of at least C gives 1.

    Raises:
        DataError: shapes that do not fit, no rows, scores that are not numbers, a label that is no class.
    """
    scores, labels = np.asarray(scores), np.asarray(labels).reshape(-1)
    if scores.ndim != 2 or len(scores) != len(labels) or len(labels) == 0:
        raise DataError(f"top-k accuracy: scores {scores.shape} and {len(labels)} labels; [N, C] and [N] with N > 0")
    if np.isnan(scores).any():
        raise DataError(f"top-k accuracy: row {int(np.flatnonzero(np.isnan(scores).any(axis=1))[0])} has a NaN score")
    wrong = (labels < 0) | (labels >= scores.shape[1])
    if wrong.any():
        raise DataError(f"top-k accuracy: label {labels[wrong][0]} with {scores.shape[1]} classes")
    own = scores[np.arange(len(labels)), labels][:, None]
    ahead = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]))
    rank = ahead.sum(axis=1)
    return {k: float((rank < k).mean()) for k in ks}
