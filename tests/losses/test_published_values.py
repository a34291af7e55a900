"""Numbers that other projects publish in their documentation or tests, where the convention is the same as here.

Each row names its source. Tolerances are half a unit of the last digit printed, or what the row says.
"""

import numpy as np
import paddle
import pytest

from slim_distill.losses.table import LOSSES

SURE = 60.0  # a logit whose probability is 1 in float32


def logits(probabilities):
    """Class logits whose softmax is these probabilities up to a common factor."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(np.array(probabilities, "float64")), -SURE)


OPTAX_P = [
    [-2.9957, -3.5066, -3.9120, -1.2040, -0.6931, -2.3026],
    [-1.6094, -1.6094, -1.6094, -2.3026, -1.8971, -1.8971],
]
MMDET_A = [[0, 0, 10, 10], [10, 10, 20, 20], [32, 32, 38, 42]]
MMDET_B = [[0, 0, 10, 20], [0, 10, 10, 19], [10, 10, 20, 20]]
MMDET_GIOU = [[0.5, 0.0, -0.5], [-0.25, -0.05, 1.0], [-0.8371, -0.8766, -0.8214]]
SCIPY_A, SCIPY_B = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], [[13, 14, 15, 16], [17, 18, 19, 20], [21, 22, 23, 24]]

CASES = [
    # optax, test of kl_divergence: log predictions, targets (1e-4 there; its second row of targets does not sum to 1)
    ("kd", OPTAX_P[:1], logits([[0.2, 0.2, 0.2, 0.1, 0.15, 0.15]]), {"temperature": 1}, 0.8875577, 1e-4),
    # the same project, kl_divergence_with_log_targets: two rows
    ("kd", OPTAX_P, OPTAX_P[::-1], {"temperature": 1}, (0.8875625 + 0.7187435584901326) / 2, 1e-4),
    # whittle, test of DistillLoss: half of the cross entropy of label 0 and half of the divergence (1e-3 there)
    ("kd", [[0, 0]], [[10, 0]], {"temperature": 1, "alpha": 0.5, "labels": [0]}, 0.6931, 1e-3),
    # Keras, documentation of CategoricalCrossentropy
    ("soft_label", logits([[0.05, 0.95, 0], [0.1, 0.8, 0.1]]), [[0, SURE, 0], [0, 0, SURE]], {}, 1.177, 5e-4),
    # Keras, documentation of BinaryCrossentropy(from_logits=True); the target has no entropy (0.8654 is cut off)
    ("kd_bernoulli", [-18.6, 0.51, 2.94, -12.8], [-SURE, SURE, -SURE, -SURE], {}, 0.8654, 1e-4),
    # Keras, documentation of Huber
    ("smooth_l1", [[0.6, 0.4], [0.4, 0.6]], [[0, 1], [0, 0]], {}, 0.155, 5e-4),
    # SciPy, documentation of jensenshannon, which is the square root of the divergence
    ("js", logits([[1, 0]]), logits([[0.5, 0.5]]), {}, 0.46450140402245893**2, 1e-6),
    ("js", logits([[1, 0, 0]]), logits([[0, 1, 0]]), {}, np.log(2), 1e-6),
    ("js", logits(SCIPY_A), logits(SCIPY_B), {}, np.mean(np.square([0.1402339, 0.0399106, 0.0201815])), 1e-7),
    # MMDetection, documentation of bbox_overlaps(mode="giou"): every pair
    *(
        ("giou", [[a]], [[b]], {}, 1 - MMDET_GIOU[i][j], 5e-5)
        for i, a in enumerate(MMDET_A)
        for j, b in enumerate(MMDET_B)
    ),
]


@pytest.mark.parametrize(("loss", "student", "teacher", "options", "published", "tolerance"), CASES)
def test_it_gives_the_published_number(loss, student, teacher, options, published, tolerance):
    options = {k: paddle.to_tensor(v) if k == "labels" else v for k, v in options.items()}
    value = LOSSES[loss](*(paddle.to_tensor(np.array(v, "float32")) for v in (student, teacher)), **options)
    assert float(value) == pytest.approx(float(published), abs=tolerance)
