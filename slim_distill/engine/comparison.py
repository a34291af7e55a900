"""Several models on one data set: scores, sizes, times, curves of their runs, and their boxes side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.config.schema import RunConfig
from slim_distill.data.image import read_image
from slim_distill.engine import build
from slim_distill.engine.evaluate import Detections, Evaluation, detect, score
from slim_distill.engine.hooks import read_lines
from slim_distill.engine.train import RECORD
from slim_distill.graph import shape_of, trace
from slim_distill.models.build import build_model
from slim_distill.report import draw_boxes, loss_curves, save_png, sheet

__all__ = ["Comparison", "Contender", "compare", "write_pictures"]

Series = dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True)
class Contender:
    """A model to be compared: its run configuration and its parameters."""

    cfg: RunConfig
    values: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """What came of a comparison, by model: scores, boxes, trainable parameters; and the data set's records."""

    evaluations: Mapping[str, Evaluation]
    detections: Mapping[str, Detections]
    parameters: Mapping[str, int]
    records: tuple[Mapping[str, Any], ...]
    classes: tuple[str, ...]

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """(headers, rows) of a table with one model a row; figures in per cent."""
        first = next(iter(self.evaluations.values()))
        keys = [k for k in ("AP", "AP50", "AP_small", "mAP") if k in first.figures]
        classes = list(first.per_class) if len(first.per_class) <= 5 else []
        headers = ["model", *keys, *classes, "trainable parameters", "ms per image"]
        rows = []
        for name, e in self.evaluations.items():
            figures = [e.figures[k] for k in keys] + [e.per_class.get(c, float("nan")) for c in classes]
            percent = [f"{100 * value:.1f}" for value in figures]
            rows.append([name, *percent, f"{self.parameters[name]:,}", f"{e.ms_per_image:.1f}"])
        return headers, rows


def compare(models: Mapping[str, Contender], judge: RunConfig) -> Comparison:
    """Score every model on the evaluation data and by the metric of `judge`."""
    loader = build.build_eval_loader(judge)
    evaluations, detections, sizes = {}, {}, {}
    try:
        records, classes = loader.dataset.records, loader.dataset.classes
        for name, model in models.items():
            detector = build.build_detector(model.cfg, model.values)
            found = detect(detector.session, detector.program, loader.batches())
            detections[name] = found
            evaluations[name] = score(found, records, classes, judge.eval)
            program = trace(build_model(model.cfg.model, "train"))  # must live as long as its values are looked at
            sizes[name] = int(sum(np.prod(shape_of(value)) for value in program.trainable().values()))
    finally:
        loader.close()
    return Comparison(evaluations, detections, sizes, tuple(records), tuple(classes))


def write_pictures(
    result: Comparison,
    runs: Mapping[str, Path],
    folder: Path,
    *,
    title: str,
    threshold: float,
    images: int = 4,
    cell_px: int = 420,
) -> None:
    """Write `samples.png`, the first images with several objects as every model sees them, and `curves.png`.

    Args:
        result: what to draw.
        runs: name -> folder of a training run, for the curves.
        folder: where the pictures go.
        title: above the curves.
        threshold: smallest score of a drawn box, 0..1.
        images: rows of the sheet.
        cell_px: longer side of a picture in it.
    """
    shown = [record for record in result.records if len(record["gt_bbox"]) > 2][:images]
    photos = [read_image(record["im_file"]) for record in shown]
    pairs = list(zip(photos, shown, strict=True))
    columns = {"ground truth": [draw_boxes(p, _truth(r), result.classes, 0.0, show_scores=False) for p, r in pairs]}
    for name, found in result.detections.items():
        heading = f"{name}: {100 * result.evaluations[name].metric:.1f}"
        columns[heading] = [draw_boxes(p, found.by_image[_number(r)], result.classes, threshold) for p, r in pairs]
    grid = [list(row) for row in zip(*columns.values(), strict=True)]
    save_png(folder / "samples.png", sheet(grid, column_titles=list(columns), cell_px=cell_px))
    series = {name: _series(run) for name, run in runs.items()}
    loss_curves(series, folder / "curves.png", title=title, shares=("metric",))


def _number(record: Mapping[str, Any]) -> int:
    return int(np.asarray(record["im_id"]).reshape(-1)[0])


def _truth(record: Mapping[str, Any]) -> np.ndarray:
    boxes = np.asarray(record["gt_bbox"], "float32")
    classes = np.asarray(record["gt_class"], "float32").reshape(-1, 1)
    return np.concatenate([classes, np.ones_like(classes), boxes], axis=1)


def _series(run: Path) -> Series:
    series: Series = {}
    for line in read_lines(run / RECORD):
        for key in ("loss", "distill", "metric"):
            if key in line:
                steps, values = series.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(line[key])
    return series
