"""The published commands as they are, on tiny data in the layouts of Pascal VOC and COCO, in processes of their own."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests import golden_formula
from tests.tiny import write_voc

ROOT = Path(__file__).resolve().parents[2]
VOC_NAMES = ("aeroplane", "bicycle")
COCO_IDS = (1, 90)  # person and toothbrush, the first and the last of 80


def run(folder: Path, tool: str, *arguments: str) -> str:
    """Run `python tools/TOOL.py ARGUMENTS` in `folder`; its standard output and error."""
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def write_teacher(path: Path, config: str) -> Path:
    """Weights of a teacher in the zoo's form: a tar holding a folder with one file per variable."""
    from slim_distill.common.weights import write_weights
    from slim_distill.config import load_config
    from slim_distill.graph import trace
    from slim_distill.models.build import build_model

    shapes = trace(build_model(load_config(ROOT / config).model, "eval")).parameter_shapes()
    write_weights(path / "teacher", golden_formula.all_weights(shapes))
    with tarfile.open(path / "teacher.tar", "w") as archive:
        archive.add(path / "teacher", "teacher")
    return path / "teacher.tar"


def voc(folder: Path) -> None:
    """Pascal VOC: dataset/voc/{trainval,test}.txt name pairs of image and annotation."""
    data = write_voc(folder / "dataset" / "voc", train=4, test=2)
    for path in (data / "Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("square", VOC_NAMES[0]).replace("disc", VOC_NAMES[1]))
    for part, name in (("train", "trainval"), ("test", "test")):
        ids = (data / "ImageSets" / "Main" / f"{part}.txt").read_text().split()
        lines = "".join(f"JPEGImages/{i}.jpg Annotations/{i}.xml\n" for i in ids)
        (data / f"{name}.txt").write_text(lines)


def coco(folder: Path) -> None:
    """COCO 2017 with its 80 categories, whose identifiers have gaps: dataset/coco/{annotations,train2017,val2017}."""
    from slim_distill.data.labels import COCO_CATEGORY_IDS, COCO_CLASSES

    data = write_voc(folder / "dataset" / "coco", train=4, test=2)
    for part, name in (("train", "train2017"), ("test", "val2017")):
        content = json.loads((data / "annotations" / f"{part}.json").read_text())
        names = zip(COCO_CATEGORY_IDS, COCO_CLASSES, strict=True)
        content["categories"] = [{"id": number, "name": label} for number, label in names]
        for annotation in content["annotations"]:
            annotation["category_id"] = COCO_IDS[annotation["category_id"] - 1]
        (data / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
        (data / name).mkdir()
        for image in content["images"]:
            (data / "JPEGImages" / image["file_name"]).rename(data / name / image["file_name"])


CASES = {
    "voc": (voc, "yolov3_mobilenet_v1_voc", "yolov3_r34_voc", (), "mAP@0.50 (11point)"),
    "coco": (coco, "yolov3_mobilenet_v1", "yolov3_r34", ("use_fine_grained_loss=true",), "AP75"),
}


@pytest.mark.parametrize("case", CASES)
def test_published_commands(case, static_mode, tmp_path):
    layout, student, teacher, options, figure = CASES[case]
    layout(tmp_path)
    weights = write_teacher(tmp_path, f"configs/{teacher}.yml")
    configs = ("-c", f"{ROOT}/configs/{student}.yml")
    pair = (*configs, "-t", f"{ROOT}/configs/{teacher}.yml")
    # What a test must change: the length, the batch, and that neither zoo weights nor a good teacher are here.
    short = ("max_iters=1", "snapshot_iter=1", "log_iter=1", "pretrain_weights=", "distill.force=true")
    small = [f"{part}Reader.{key}" for part in ("Train", "Eval") for key in ("batch_size=2", "worker_num=1")]
    options = ("-o", *options, *small, *short)

    said = run(tmp_path, "distill", *pair, "--teacher_pretrained", f"file://{weights}", *options)
    assert "teacher parameters unmoved" in said
    folder = tmp_path / "output" / student
    assert (folder / "1" / "manifest.json").is_file()

    more = ("-r", str(folder / "1"), *options, "max_iters=2")
    run(tmp_path, "distill", *pair, "--teacher_pretrained", str(weights), *more)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line for line in logged if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(np.isfinite(line["total"]) and line["distill"] > 0 for line in steps)
    assert sum(name.startswith("distill.") for name in steps[0]) == 3

    final = f"weights={folder}/model_final"
    assert figure in run(tmp_path, "eval", *configs, "-o", final, *small)
    if case == "coco":
        return  # the other commands differ in nothing but the data set
    image = next((tmp_path / "dataset").rglob("*.jpg"))
    run(
        tmp_path, "infer", *configs, f"--infer_img={image}", "--output_dir=infer_output", "--draw_threshold=0.5",
        "-o", final,
    )  # fmt: skip
    assert (tmp_path / "infer_output" / f"{image.stem}.png").is_file()

    listed = run(tmp_path, "list_vars", *pair, "--grep", r"^(teacher_)?conv2d_\d+\.tmp_1$", "--format", "json")
    assert "conv2d_20.tmp_1" in listed
