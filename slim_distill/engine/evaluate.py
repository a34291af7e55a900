"""Detections of a program over a data set, and their score."""

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from slim_distill.config.schema import EvalConfig
from slim_distill.engine.distributed import SLOW, Ranks
from slim_distill.engine.session import Session
from slim_distill.graph import NamedProgram
from slim_distill.metrics import coco_ap, coco_from_records, voc_ap

__all__ = ["Detections", "Evaluation", "detect", "renumber", "score", "score_together"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Detections:
    """Boxes by image id, each [K, 6] of class, score, x1, y1, x2, y2 in pixels; and the time it took.

    `ms_per_image` is the median over the batches but the first of the whole run of a batch, in ms an image.
    """

    by_image: Mapping[int, np.ndarray]
    ms_per_image: float


@dataclass(frozen=True)
class Evaluation:
    """A score: the metric that models are chosen by, in 0..1, its name, and what it is made of."""

    metric: float
    name: str
    per_class: Mapping[str, float]
    figures: Mapping[str, float]
    ms_per_image: float = float("nan")

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {100 * value:.1f}" for name, value in self.per_class.items())
        return f"{self.name} {100 * self.metric:.2f} ({classes})"


def detect(session: Session, program: NamedProgram, batches: Iterable[Mapping[str, np.ndarray]]) -> Detections:
    """Run a detection program (`dets`, `dets_num`) over batches that carry `im_id`."""
    by_image: dict[int, np.ndarray] = {}
    times = []
    for batch in batches:
        since = time.perf_counter()
        out = session.run(program, batch, ("dets", "dets_num"))
        ids = np.asarray(batch["im_id"]).reshape(-1)
        times.append((time.perf_counter() - since) * 1e3 / len(ids))
        counts = np.asarray(out["dets_num"]).reshape(-1)
        rows = np.asarray(out["dets"], "float32").reshape(-1, 6) if counts.sum() else np.zeros((0, 6), "float32")
        for im_id, part in zip(ids, np.split(rows, np.cumsum(counts)[:-1]), strict=True):
            by_image[int(im_id)] = part
    return Detections(by_image, float(np.median(times[1:] or times)) if times else float("nan"))


def renumber(detections: Detections, index: Sequence[int]) -> Detections:
    """The same detections with class `index[k]` called k; those of other classes are left out."""
    number = {old: new for new, old in enumerate(index)}

    def renumbered(rows: np.ndarray) -> np.ndarray:
        rows = rows[np.isin(rows[:, 0].astype(int), list(number))].copy()
        rows[:, 0] = [number[int(old)] for old in rows[:, 0]]
        return rows

    return replace(detections, by_image={im_id: renumbered(rows) for im_id, rows in detections.by_image.items()})


def score(detections: Detections, records: Sequence[Record], classes: Sequence[str], cfg: EvalConfig) -> Evaluation:
    """Compare detections with a data set's records by the configured metric."""
    if cfg.metric == "coco":
        figures = coco_ap(detections.by_image, coco_from_records(records, classes))
        per_class = {name: figures[f"AP/{name}"] for name in classes if figures.get(f"AP/{name}", -1) >= 0}
        total = {k: v for k, v in figures.items() if "/" not in k}
        return Evaluation(figures["AP"], "AP@[.50:.95]", per_class, total, detections.ms_per_image)
    result = voc_ap(
        detections.by_image,
        {record["im_id_number"]: record for record in _numbered(records)},
        len(classes),
        iou_threshold=cfg.iou_threshold,
        map_type=cfg.map_type,
        evaluate_difficult=cfg.evaluate_difficult,
        skip_empty_batches=cfg.skip_empty_batches,
    )
    per_class = {name: c.ap for name, c in zip(classes, result.per_class, strict=True) if c.ap is not None}
    name = f"mAP@{cfg.iou_threshold:.2f} ({cfg.map_type})"
    return Evaluation(result.map, name, per_class, {"mAP": result.map}, detections.ms_per_image)


def score_together(
    found: Detections, ranks: Ranks, records: Sequence[Record], judge: Callable[[Detections], Evaluation]
) -> Evaluation:
    """The score of all ranks' detections, the same in every rank.

    Args:
        found: this rank's detections.
        ranks: who else has some.
        records: those of the whole data set, whose order the detections take.
        judge: scores all of them; called in rank 0.
    """
    if ranks.count == 1:
        return judge(found)

    def decide(handed_in: Sequence[bytes]) -> bytes:
        parts = [_unpack(data) for data in handed_in]
        by_image = {im_id: rows for part in parts for im_id, rows in part.by_image.items()}
        order = [record["im_id_number"] for record in _numbered(records)]
        times = [part.ms_per_image for part in parts if np.isfinite(part.ms_per_image)]
        joined = {im_id: by_image[im_id] for im_id in order if im_id in by_image}
        with ranks.limited("scoring an evaluation", SLOW):
            return json.dumps(asdict(judge(Detections(joined, float(np.mean(times)))))).encode()

    return Evaluation(**json.loads(ranks.settle(_pack(found), decide)))


def _pack(found: Detections) -> bytes:
    file = io.BytesIO()
    np.savez(
        file,
        ids=np.asarray(list(found.by_image), "int64"),
        counts=np.asarray([len(rows) for rows in found.by_image.values()], "int64"),
        rows=np.concatenate([np.zeros((0, 6), "float32"), *found.by_image.values()]),
        ms=found.ms_per_image,
    )
    return file.getvalue()


def _unpack(data: bytes) -> Detections:
    arrays = np.load(io.BytesIO(data), allow_pickle=False)
    parts = np.split(arrays["rows"], np.cumsum(arrays["counts"]))[:-1]
    return Detections({int(im_id): rows for im_id, rows in zip(arrays["ids"], parts, strict=True)}, float(arrays["ms"]))


def _numbered(records: Sequence[Record]) -> list[dict[str, Any]]:
    return [{**record, "im_id_number": int(np.asarray(record["im_id"]).reshape(-1)[0])} for record in records]
