"""Scores of detections by the run's evaluation settings."""

import numpy as np
import pytest

from slim_distill.config.schema import EvalConfig
from slim_distill.engine.evaluate import Detections, score

BOX = [10.0, 10.0, 50.0, 60.0]


def records(count):
    fields = {"gt_class": np.array([[0]]), "gt_bbox": np.array([BOX], "float32"), "difficult": np.array([[0]])}
    return [{"im_id": np.array([k]), **fields} for k in range(count)]


@pytest.mark.parametrize(("batch_size", "wanted"), [(0, 0.5), (1, 1.0), (2, 1.0), (4, 0.5)])
def test_empty_batches_are_forgotten_only_when_asked(batch_size, wanted):
    """Two of four images have a perfect detection, the other two none."""
    found = {k: np.array([[0, 0.9, *BOX]], "float32") if k < 2 else np.zeros((0, 6), "float32") for k in range(4)}
    cfg = EvalConfig(map_type="integral", skip_empty_batches=batch_size)
    result = score(Detections(found, 1.0), records(4), ("thing",), cfg)
    assert result.metric == pytest.approx(wanted)
    assert result.per_class == {"thing": pytest.approx(wanted)}
