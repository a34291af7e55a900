"""Laws that every loss of the table obeys."""

import numpy as np
import pytest

from slim_distill.losses import LOSSES
from tests.losses import cases_basic, cases_features, cases_heads, cases_logits, harness

CASES = [*cases_basic.CASES, *cases_logits.CASES, *cases_features.CASES, *cases_heads.CASES]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


def test_every_loss_of_the_table_has_a_case():
    assert {case.function for case in CASES} == set(LOSSES.values())


def test_value_and_gradient_agree_with_numpy(case):
    harness.check_value_and_gradient(case)


def test_teacher_gets_no_gradient_and_student_does(case):
    harness.check_teacher_gets_no_gradient(case)


def test_student_equal_to_teacher_is_the_stated_minimum(case):
    harness.check_minimum(case)


def test_eager_fixed_and_dynamic_batch_agree(case, request):
    eager = harness.run_eager(case, "float32")
    request.getfixturevalue("static_mode")
    harness.check_static_modes(case, eager)


def test_half_precision_inputs_are_computed_in_float32(case):
    value = harness.run_eager(case, "float16").value
    assert np.isfinite(value)
    np.testing.assert_allclose(value, harness.run_eager(case).value, rtol=2e-2, atol=1e-4)
