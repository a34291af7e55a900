import json

import numpy as np
import pytest

from tests.golden_formula import boxes, images, weights


def test_weights_have_the_published_check_values(golden):
    entries = json.loads((golden / "formula_check.json").read_text())
    checked = 0
    for name, cases in entries.items():
        for case in cases if isinstance(cases, list) else []:
            if "first3" not in case or "shape" not in case or name.startswith("image"):
                continue
            try:
                array = weights(name, case["shape"])
            except ValueError:
                continue
            np.testing.assert_array_equal(array.ravel()[:3], np.array(case["first3"], np.float32), err_msg=name)
            assert float(array.astype(np.float64).sum()) == pytest.approx(case["sum_float64"], rel=1e-12)
            checked += 1
    assert checked >= 12


def test_images_and_boxes_equal_the_stored_ones(golden):
    inputs = np.load(golden / "voc_l2" / "inputs.npz")
    stored = np.load(golden / "voc_l2" / "traj_gt.npz")
    np.testing.assert_array_equal(images(1000, 2, 320, 320), inputs["image"])
    for seed in (1001, 1006):
        for name, array in zip(("gt_bbox", "gt_class", "gt_score"), boxes(seed, 2, 20), strict=True):
            np.testing.assert_array_equal(array, stored[f"{name}_{seed}"])


def test_a_salted_weight_differs_from_the_plain_one():
    assert not np.array_equal(weights("conv1_weights", (4, 3, 3, 3)), weights("conv1_weights", (4, 3, 3, 3), True))


def test_refuses_a_name_without_a_rule():
    with pytest.raises(ValueError, match="no rule for a parameter called 'velocity'"):
        weights("velocity", (3,))
