"""The whole way on data that the project draws itself: teacher, control, distilled student, and what came of it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slim_distill.common.weights import write_weights
from slim_distill.config import load_config
from slim_distill.config.schema import ReaderConfig, RunConfig
from slim_distill.data.digits import write_digits
from slim_distill.data.image import read_image
from slim_distill.engine import build
from slim_distill.engine.evaluate import Evaluation, detect, score
from slim_distill.engine.hooks import read_lines
from slim_distill.engine.session import start_static_mode
from slim_distill.engine.train import BEST, FINAL, RECORD, train
from slim_distill.graph import trace
from slim_distill.models.build import build_model
from slim_distill.report import Page, draw_boxes, loss_curves, markdown_table, save_png, sheet

__all__ = ["DemoResult", "run_demo", "train_teacher"]

log = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "digits"
TEACHER_WEIGHTS = ASSETS / "teacher.safetensors"
TRAIN_IMAGES, TEST_IMAGES, SHOWN_IMAGES = 400, 120, 4


@dataclass(frozen=True)
class DemoResult:
    """Rows of the demo's table, and where its files are."""

    evaluations: Mapping[str, Evaluation]
    parameters: Mapping[str, int]
    table: str
    folder: Path
    seconds: float


def run_demo(folder: Path, *, seed: int = 0, iters: int | None = None) -> DemoResult:
    """Train a student alone and with the shipped teacher, and compare the three.

    Both students start from the same weights, see the same batches in the same order, and follow the same
    schedule; the control simply has no teacher.

    Args:
        folder: where data, runs, pictures and tables go.
        seed: of the students' first weights and data order.
        iters: steps of each student; None for the configuration's.
    """
    since = time.monotonic()
    start_static_mode()
    student, teacher_cfg = _configs(folder, seed)
    if iters:
        student = replace(student, train=replace(student.train, max_iters=iters, snapshot_iter=iters))
    _draw(student)
    teacher = build.Teacher(teacher_cfg, build.load_model(replace(teacher_cfg, weights=str(TEACHER_WEIGHTS))))
    log.info("1 of 2: the student alone")
    train(replace(student, name="control"))
    log.info("2 of 2: the same student with the teacher")
    train(replace(student, name="distilled"), {"teacher_": teacher})
    runs = {name: folder / name for name in ("control", "distilled")}
    models = {"teacher": (teacher_cfg, teacher.values)}
    for name, run in runs.items():
        models[name] = (student, build.load_model(replace(student, weights=str(run / FINAL))))
    return _report(folder, models, runs, time.monotonic() - since)


def train_teacher(folder: Path) -> Path:
    """Train the demo's teacher and write its weights, halved in precision, to where the package ships them."""
    _, cfg = _configs(folder, seed=0)
    start_static_mode()
    _draw(cfg)
    run = train(cfg).folder
    best = build.load_model(replace(cfg, weights=str(run / BEST)))
    write_weights(TEACHER_WEIGHTS, {name: array.astype("float16") for name, array in best.items()})
    return TEACHER_WEIGHTS


def _configs(folder: Path, seed: int) -> tuple[RunConfig, RunConfig]:
    """(student, teacher), with their data and output under `folder`."""

    def place(reader: ReaderConfig) -> ReaderConfig:
        return replace(reader, dataset=replace(reader.dataset, root=str(folder / "digits")))

    placed = []
    for name in ("student.yml", "teacher.yml"):
        cfg = load_config(ASSETS / name)
        data = replace(cfg.data, train=place(cfg.data.train), eval=place(cfg.data.eval), test=place(cfg.data.test))
        placed.append(replace(cfg, data=data, output_dir=str(folder), seed=seed))
    return placed[0], placed[1]


def _draw(cfg: RunConfig) -> None:
    root = Path(cfg.data.train.dataset.root)
    if (root / cfg.data.eval.dataset.annotations).is_file():
        log.info("the data set is in %s", root)
        return
    log.info("drawing %d + %d images of handwritten digits into %s", TRAIN_IMAGES, TEST_IMAGES, root)
    write_digits(root, seed=0, train=TRAIN_IMAGES, test=TEST_IMAGES)


def _report(
    folder: Path,
    models: Mapping[str, tuple[RunConfig, Mapping[str, np.ndarray]]],
    runs: Mapping[str, Path],
    seconds: float,
) -> DemoResult:
    evaluations, sizes, pictures = {}, {}, {}
    for name, (cfg, values) in models.items():
        loader = build.build_eval_loader(cfg)
        detector = build.build_detector(cfg, values)
        found = detect(detector.session, detector.program, loader.batches())
        evaluations[name] = score(found, loader.dataset.records, loader.dataset.classes, cfg.eval)
        sizes[name] = _trainable_count(cfg)
        classes = loader.dataset.classes
        shown = [r for r in loader.dataset.records if len(r["gt_bbox"]) > 2][:SHOWN_IMAGES]
        pictures[name] = [
            draw_boxes(
                read_image(r["im_file"]), found.by_image[int(np.asarray(r["im_id"]).reshape(-1)[0])], classes, 0.3
            )
            for r in shown
        ]
        loader.close()
    truth = [draw_boxes(read_image(r["im_file"]), _as_detections(r), classes, 0.0, show_scores=False) for r in shown]
    columns = {"ground truth": truth, **pictures}
    page_sheet = sheet(
        [list(row) for row in zip(*columns.values(), strict=True)],
        column_titles=[n if n not in evaluations else f"{n}: AP {100 * evaluations[n].metric:.1f}" for n in columns],
    )
    save_png(folder / "samples.png", page_sheet)
    loss_curves({name: _series(path) for name, path in runs.items()}, folder / "curves.png", title="demo: training")
    table = _table(evaluations, sizes)
    (folder / "results.md").write_text(table + "\n", encoding="utf-8")
    page = Page("Distillation on drawn handwriting")
    page.text(f"{seconds / 60:.1f} minutes in all. AP is the mean over IoU 0.50 to 0.95, in per cent.")
    page.table(*_rows(evaluations, sizes))
    page.picture(folder / "curves.png", "Losses and metric by step")
    page.picture(folder / "samples.png", "Boxes scored at least 0.3 on test images")
    page.save(folder / "report.html")
    return DemoResult(evaluations, sizes, table, folder, seconds)


def _as_detections(record: Mapping[str, np.ndarray]) -> np.ndarray:
    boxes = np.asarray(record["gt_bbox"], "float32")
    classes = np.asarray(record["gt_class"], "float32").reshape(-1, 1)
    return np.concatenate([classes, np.ones_like(classes), boxes], axis=1)


def _trainable_count(cfg: RunConfig) -> int:
    values = trace(build_model(cfg.model, "train")).trainable().values()
    return int(sum(np.prod(value.shape) for value in values))


def _series(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for line in read_lines(run / RECORD):
        for key in ("loss", "distill", "metric"):
            if key in line:
                steps, values = series.setdefault(key, ([], []))
                steps.append(line["step"])
                values.append(line[key])
    return series


def _rows(evaluations: Mapping[str, Evaluation], sizes: Mapping[str, int]) -> tuple[list[str], list[list[str]]]:
    headers = ["model", "AP", "AP50", "AP small", "trainable parameters", "ms per image"]
    rows = []
    for name, e in evaluations.items():
        percent = [f"{100 * e.figures[k]:.1f}" for k in ("AP", "AP50", "AP_small")]
        rows.append([name, *percent, f"{sizes[name]:,}", f"{e.ms_per_image:.1f}"])
    return headers, rows


def _table(evaluations: Mapping[str, Evaluation], sizes: Mapping[str, int]) -> str:
    return markdown_table(*_rows(evaluations, sizes))
