"""Write the student alone as an inference model, and prove that the file computes the same."""

import logging
from pathlib import Path

import numpy as np

from slim_distill.common.errors import ConfigError, GraphError
from slim_distill.common.files import make_writable
from slim_distill.common.weights.sums import write_beside
from slim_distill.config.schema import RunConfig
from slim_distill.engine import build
from slim_distill.engine.session import Session, start_static_mode
from slim_distill.graph import Freeze, Slice, run_passes, trace
from slim_distill.models.build import build_model

__all__ = ["export"]

log = logging.getLogger(__name__)

TOLERANCE = 1e-5


def export(cfg: RunConfig, folder: str, size_px: int = 320) -> Path:
    """Write `model.json` and `model.pdiparams` for Paddle Inference and compare them with the model in memory.

    Beside each lies its checksum, `FILE.sha256`.

    Args:
        cfg: a run whose `weights` are set.
        folder: where the files go.
        size_px: height and width of the image that the comparison uses; the model takes any multiple of 32.

    Returns:
        The path prefix of the files, `folder/model`.

    Raises:
        ConfigError: the folder cannot be written, or the network cannot take images of this size.
        GraphError: the written model computes something else, or holds parameters that are not the student's.
    """
    start_static_mode()
    build_model(cfg.model, "infer", size_px)  # refuses a size that the network cannot take, before anything is written
    prefix = make_writable(folder, "--output_dir", error=ConfigError) / "model"
    session = Session(cfg.device)
    program = trace(build_model(cfg.model, "infer")).with_values(build.load_model(cfg))
    wanted = ("dets", "dets_num")
    program = run_passes(program, [Freeze(), Slice(wanted)]).program
    session.start(program, seed=0)
    try:
        session.save_inference(program, wanted, prefix)
        for suffix in (".json", ".pdiparams"):
            write_beside(prefix.with_name(prefix.name + suffix))
    except OSError as error:
        raise ConfigError(f"--output_dir: {prefix.parent} cannot be written ({error.strerror})") from error

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.standard_normal((1, 3, size_px, size_px)).astype("float32"),
        "im_size": np.full((1, 2), size_px, "int32"),
    }
    here = session.run(program, batch, wanted)
    there, parameters = Session(cfg.device).run_inference(prefix, batch)
    foreign = sorted(parameters - set(program.parameters()))
    if foreign:
        raise GraphError(f"{prefix}: holds parameters that are not the student's: {', '.join(foreign[:5])}")
    for name, expected, got in zip(wanted, here.values(), there, strict=True):
        if expected.shape != got.shape or not np.allclose(expected, got, rtol=TOLERANCE, atol=TOLERANCE):
            raise GraphError(f"{prefix}: {name} of the written model differs from the model in memory")
    log.info("%s: %d parameters, outputs agree with the model in memory to %g", prefix, len(parameters), TOLERANCE)
    return prefix
