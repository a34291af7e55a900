"""The files under configs/: all load, and hold the published settings."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from slim_distill.config import RunConfig, ScheduleConfig, dump_config, load_config
from slim_distill.data.transforms import make_batch_transforms, make_transforms
from tests.config.samples import CONFIGS

INCLUDED = {"yolov3_reader.yml", "_base.yml"}  # parts of other files
FILES = sorted(p for p in CONFIGS.rglob("*.yml") if p.name not in INCLUDED and p.parent.name != "recipes")
PUBLISHED = [path for path in FILES if path.parent == CONFIGS]
BCCD = CONFIGS / "bccd"


def named(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def test_all_files_are_here():
    assert {named(path) for path in FILES} >= {
        "yolov3_mobilenet_v1.yml", "yolov3_mobilenet_v1_voc.yml", "yolov3_r34.yml", "yolov3_r34_voc.yml",
        "yolov3_darknet.yml", "yolov3_darknet_voc.yml", "yolov3_mobilenet_v3.yml",
        "bccd/yolov3_r34.yml", "bccd/yolov3_mobilenet_v1.yml", "bccd/yolov3_mobilenet_v1_fine.yml",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_loads_and_survives_a_dump(path: Path, tmp_path: Path):
    cfg = load_config(path)
    dumped = tmp_path / "dumped.yml"
    dumped.write_text(dump_config(cfg), encoding="utf-8")
    assert load_config(dumped) == cfg


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_transforms_of_every_file_exist_and_take_their_arguments(path: Path):
    fine = ["use_fine_grained_loss=true"] if path in PUBLISHED else []
    data = load_config(path, fine).data
    for reader in (data.train, data.eval, data.test):
        assert len(make_transforms([(t.type, t.args) for t in reader.transforms], "transforms")) > 0
        make_batch_transforms([(t.type, t.args) for t in reader.batch_transforms], "batch_transforms")


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_fine_grained_loss_can_be_switched_on(path: Path):
    cfg = load_config(path, ["use_fine_grained_loss=true"])
    assert cfg.data.train.batch_transforms[-1].type == "Gt2YoloTarget"
    assert cfg.data.train.batch_transforms[-1].args["num_classes"] == cfg.model.num_classes
    assert [term.weight for term in cfg.distill.terms] == [1000.0] * 3


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_published_settings(path: Path):
    cfg = load_config(path)
    voc = path.stem.endswith("_voc")
    assert cfg.name == path.stem
    assert cfg.model.num_classes == (20 if voc else 80)
    assert cfg.train.max_iters == (70_000 if voc else 500_000)
    assert cfg.eval.metric == ("voc" if voc else "coco")
    assert cfg.model.loss.label_smooth is (not voc and "v3" not in path.stem.removeprefix("yolov3"))
    assert cfg.weights == f"output/{path.stem}/model_final"
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.9, 0.0005)
    assert [len(cfg.data.train.transforms), len(cfg.data.train.batch_transforms)] == [9, 3]
    assert (cfg.data.train.batch_size, cfg.data.train.mixup_epochs, cfg.data.train.drop_last) == (8, 250, True)
    lists = [cfg.data.train.dataset.annotations, cfg.data.eval.dataset.annotations]
    if voc:
        assert lists == ["trainval.txt", "test.txt"]
        assert {cfg.data.train.dataset.root, cfg.data.eval.dataset.root} == {"dataset/voc"}
        assert {cfg.data.train.dataset.labels, cfg.data.test.dataset.labels} == {"voc"}
    else:
        assert lists == ["annotations/instances_train2017.json", "annotations/instances_val2017.json"]
        assert [cfg.data.train.dataset.images, cfg.data.eval.dataset.images] == ["train2017", "val2017"]
        assert cfg.data.test.dataset.labels == "coco"


def rate(schedule: ScheduleConfig, step: int) -> float:
    """The learning rate at a step, written down once more."""
    if step < schedule.warmup_steps:
        start = schedule.warmup_start_factor
        return schedule.base_lr * (start + (1 - start) * step / schedule.warmup_steps)
    return schedule.base_lr * schedule.gamma ** sum(step >= milestone for milestone in schedule.milestones)


@pytest.mark.golden
@pytest.mark.parametrize(("setup", "name"), [("voc", "yolov3_mobilenet_v1_voc"), ("coco", "yolov3_mobilenet_v1")])
def test_learning_rates_are_the_golden_ones(golden: Path, setup: str, name: str):
    schedule = load_config(CONFIGS / f"{name}.yml").schedule
    rates = json.loads((golden / "lr_schedule.json").read_text())[setup]["lr_at_step(zero based)"]
    assert len(rates) > 10
    for step, expected in rates.items():
        assert math.isclose(rate(schedule, int(step)), expected, rel_tol=1e-6, abs_tol=1e-12), step


def load_bccd(name: str) -> RunConfig:
    return load_config(BCCD / f"{name}.yml")


def test_bccd_runs_differ_in_what_they_compare_only():
    teacher, student, fine = (load_bccd(n) for n in ("yolov3_r34", "yolov3_mobilenet_v1", "yolov3_mobilenet_v1_fine"))
    assert (teacher.model.backbone.type, teacher.model.backbone.depth) == ("resnet", 34)
    assert teacher.data.eval == student.data.eval
    assert teacher.data.train.transforms == student.data.train.transforms
    assert teacher.data.train.batch_transforms == student.data.train.batch_transforms[:-1]
    assert student.data.train.batch_transforms[-1].type == "Gt2YoloTarget"
    for field in ("data", "model", "schedule", "optimizer", "train", "seed"):
        assert getattr(student, field) == getattr(fine, field), field
    assert student.model.loss.fine_grained
    assert [t.loss for t in student.distill.terms] == ["l2"] * 3
    assert [t.loss for t in fine.distill.terms] == ["yolo_objectness"] * 3


def test_bccd_recipes_name_the_published_pairs():
    published = load_config(CONFIGS / "yolov3_mobilenet_v1_voc.yml")
    ours = load_bccd("yolov3_mobilenet_v1").distill.terms
    assert [replace(term, weight=100.0) for term in ours] == list(published.distill.terms)
    published = load_config(CONFIGS / "yolov3_mobilenet_v1_voc.yml", ["use_fine_grained_loss=true"])
    assert load_bccd("yolov3_mobilenet_v1_fine").distill.terms == published.distill.terms


def test_bccd_files_fit_the_data_set(bccd: Path):
    cfg = load_bccd("yolov3_r34")
    for dataset in (cfg.data.train.dataset, cfg.data.eval.dataset):
        ids = (bccd / dataset.annotations).read_text().split()
        assert (bccd / dataset.images / f"{ids[0]}.jpg").is_file()
    assert cfg.data.train.dataset.annotations != cfg.data.eval.dataset.annotations
