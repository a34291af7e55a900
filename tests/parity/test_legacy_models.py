"""Inference models that Paddle 1.8.5 wrote give the outputs that it computed."""

import numpy as np
import pytest

from tests.parity.conftest import paddle_static

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("folder", ["infer_separate", "infer_combined"])
def test_the_stored_outputs_come_out(golden, record, folder):
    from slim_distill import api
    from slim_distill.graph import load_inference_program

    with paddle_static(), np.load(golden / "legacy_ckpt" / "infer_io.npz") as sample:
        api.start_static_mode()
        loaded = load_inference_program(golden / "legacy_ckpt" / folder)
        out = api.start(loaded).run({"image": sample["image"]}, loaded.info["outputs"])
        for name, key in zip(loaded.info["outputs"], ("prob", "head"), strict=True):
            record.check(f"legacy_ckpt: {folder}", out[name], sample[key], 1e-5)
