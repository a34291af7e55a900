"""The whole way on data that the project draws itself: teacher, control, distilled student, and what came of it."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from slim_distill.common.errors import ConfigError
from slim_distill.common.files import make_writable
from slim_distill.common.weights import write_weights
from slim_distill.config import load_config
from slim_distill.config.schema import ReaderConfig, RunConfig
from slim_distill.data.digits import write_digits
from slim_distill.engine import build
from slim_distill.engine.comparison import Contender, compare, write_pictures
from slim_distill.engine.evaluate import Evaluation
from slim_distill.engine.session import start_static_mode
from slim_distill.engine.train import BEST, FINAL, train
from slim_distill.report import Page, markdown_table

__all__ = ["DemoResult", "run_demo", "train_teacher"]

log = logging.getLogger(__name__)

ASSETS = Path(__file__).resolve().parents[1] / "assets" / "digits"
TEACHER_WEIGHTS = ASSETS / "teacher.safetensors"
TRAIN_IMAGES, TEST_IMAGES, IMAGE_PX = 2400, 160, 128


@dataclass(frozen=True)
class DemoResult:
    """Rows of the demo's table, and where its files are."""

    evaluations: Mapping[str, Evaluation]
    table: str
    folder: Path
    seconds: float


def run_demo(folder: Path, *, seed: int = 0, iters: int | None = None) -> DemoResult:
    """Train a student alone and with a teacher, and compare the three.

    Both students start from the same weights (neck and head are the teacher's, as FGD has it, where shapes agree), see
    the same batches in the same order, and follow the same schedule; the control simply has no teacher in training.

    Args:
        folder: where data, runs, pictures and tables go.
        seed: of the students' first weights and data order.
        iters: steps of each model; None for the configuration's.
    """
    since = time.monotonic()
    start_static_mode()
    student, teacher_cfg = _configs(folder, seed)
    if iters:
        student, teacher_cfg = (
            replace(cfg, train=replace(cfg.train, max_iters=iters, snapshot_iter=iters))
            for cfg in (student, teacher_cfg)
        )
        # A shortened run only shows that everything works.
        student = replace(student, distill=replace(student.distill, force=True))
    _draw(student)
    weights = TEACHER_WEIGHTS
    if not weights.is_file():
        log.info("first the teacher, as no weights of one ship with this version")
        weights = train(teacher_cfg).folder / BEST
    teacher = build.Teacher(teacher_cfg, build.load_model(replace(teacher_cfg, weights=str(weights))))
    student = replace(student, train=replace(student.train, pretrain_weights=str(weights)))
    log.info("the student alone")
    train(replace(student, name="control"))
    log.info("the same student with the teacher")
    train(replace(student, name="distilled"), {"teacher_": teacher})
    runs = {name: folder / name for name in ("control", "distilled")}
    models = {"teacher": Contender(teacher_cfg, teacher.values)}
    for name, run in runs.items():
        models[name] = Contender(student, build.load_model(replace(student, weights=str(run / FINAL))))
    result = compare(models, student)
    seconds = time.monotonic() - since
    write_pictures(result, runs, folder, title="demo", threshold=0.3)
    page = Page("Distillation on drawn handwriting")
    page.text(f"{seconds / 60:.1f} minutes in all. AP is the mean over IoU 0.50 to 0.95, in per cent.")
    page.table(*result.rows())
    page.picture(folder / "curves.png", "Losses and metric by step")
    page.picture(folder / "samples.png", "Boxes scored at least 0.3 on test images")
    page.save(folder / "report.html")
    table = markdown_table(*result.rows())
    (folder / "results.md").write_text(table + "\n", encoding="utf-8")
    return DemoResult(result.evaluations, table, folder, seconds)


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
    make_writable(root, "--output_dir", error=ConfigError)
    log.info("drawing %d + %d images of handwritten digits into %s", TRAIN_IMAGES, TEST_IMAGES, root)
    write_digits(root, seed=0, train=TRAIN_IMAGES, test=TEST_IMAGES, size=IMAGE_PX)
