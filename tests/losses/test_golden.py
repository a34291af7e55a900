"""Numbers that the published system computed."""

import json

import numpy as np
import paddle

from slim_distill.losses.l2 import l2


def test_l2_of_the_published_heads(golden):
    """Three head maps of VOC at 320; 100 * sum of l2, to 1e-5 relative."""
    student = np.load(golden / "voc_l2" / "heads_student_train.npz")
    teacher = np.load(golden / "voc_l2" / "heads_teacher_test.npz")
    losses = json.loads((golden / "voc_l2" / "losses.json").read_text())
    terms = [float(l2(paddle.to_tensor(student[f"head{i}"]), paddle.to_tensor(teacher[f"head{i}"]))) for i in range(3)]
    np.testing.assert_allclose(100 * sum(terms), losses["distill_loss"], rtol=1e-5)
