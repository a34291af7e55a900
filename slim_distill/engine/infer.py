"""Detect objects in a user's images and draw them."""

import json
import logging
from pathlib import Path

import numpy as np

from slim_distill.common.errors import ConfigError
from slim_distill.common.files import make_writable
from slim_distill.config.schema import RunConfig
from slim_distill.data.build import build_loader
from slim_distill.data.image import read_image
from slim_distill.engine import build
from slim_distill.engine.evaluate import detect
from slim_distill.engine.session import start_static_mode
from slim_distill.report import draw_boxes, save_png

__all__ = ["infer"]

log = logging.getLogger(__name__)


def infer(cfg: RunConfig, output_dir: str, draw_threshold: float) -> list[Path]:
    """Write `NAME.png` for each image of `cfg.data.test`, and all detections to `detections.json`.

    Args:
        cfg: a run whose `weights` and `data.test.dataset` (format images) are set.
        output_dir: folder of the pictures; made when missing.
        draw_threshold: smallest score of a drawn box, 0..1; the JSON file holds all.

    Returns:
        The pictures' paths.
    """
    start_static_mode()
    out = make_writable(output_dir, "--output_dir", error=ConfigError)
    loader = build_loader(cfg.data.test, seed=cfg.seed, train=False, path="data.test")
    classes = build.class_names(cfg)
    detector = build.build_detector(cfg, build.load_model(cfg))
    try:
        found = detect(detector.session, detector.program, loader.batches())
        records = {int(np.asarray(r["im_id"]).reshape(-1)[0]): r for r in loader.dataset.records}
    finally:
        loader.close()
    written: list[Path] = []
    listing = []
    for im_id, dets in found.by_image.items():
        source = Path(records[im_id]["im_file"])
        path = _free_name(out, source.stem, written)
        save_png(path, draw_boxes(read_image(source), dets, classes, threshold=draw_threshold))
        written.append(path)
        listing.append({"image": str(source), "detections": [_named(row, classes) for row in dets]})
        log.info("%s: %d boxes of at least %.2f", source, int((dets[:, 1] >= draw_threshold).sum()), draw_threshold)
    (out / "detections.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")
    return written


def _free_name(folder: Path, stem: str, taken: list[Path]) -> Path:
    path, number = folder / f"{stem}.png", 1
    while path in taken:
        path, number = folder / f"{stem}_{number}.png", number + 1
    return path


def _named(row: np.ndarray, classes: tuple[str, ...]) -> dict[str, object]:
    return {
        "class": classes[int(row[0])],
        "score": round(float(row[1]), 5),
        "box_xyxy_px": [round(float(v), 2) for v in row[2:]],
    }
