"""What bad input gets: exit code 2, one clear message, nothing lost. One case each."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from slim_distill.cli import main
from slim_distill.engine import checkpoint as checkpoint_module
from slim_distill.engine.checkpoint import latest_checkpoint, load_checkpoint
from tests.tiny import run_config, write_config, write_voc

pytestmark = pytest.mark.usefixtures("static_mode")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a data set and a run of two steps; copied for every test."""
    root = tmp_path_factory.mktemp("trained")
    write_config(root / "run.yml", run_config(write_voc(root / "data"), root / "out"))
    import paddle

    assert main(["train", "-c", str(root / "run.yml"), "-o", "train.max_iters=2"]) == 0
    paddle.disable_static()
    return root


@pytest.fixture
def world(trained, tmp_path, monkeypatch):
    """A copy of the trained run in which a test may break things."""
    shutil.copytree(trained, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    data = run_config(Path("data"), Path("out"))
    data["distill"]["min_teacher_metric"] = 0.0
    write_config(Path("run.yml"), data)
    return Path("w")


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail, and return its message."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error[error.index("error:") :]


def rewrite(change) -> None:
    """Change run.yml as data."""
    import yaml

    data = yaml.safe_load(Path("run.yml").read_text())
    change(data)
    write_config(Path("run.yml"), data)


WEIGHTS = "weights=out/tiny/model_final"
DISTIL = ("distill", "-c", "run.yml", "-t", "run.yml", "--teacher_pretrained", "out/tiny/model_final")


def test_configuration_missing(world, capsys):
    assert "nowhere.yml" in refused(capsys, "train", "-c", "nowhere.yml")


def test_configuration_malformed(world, capsys):
    Path("bad.yml").write_text("name: a\nmodel: [1, 2\n")
    assert "bad.yml:" in refused(capsys, "train", "-c", "bad.yml")


def test_unknown_key_shows_the_nearest(world, capsys):
    message = refused(capsys, "train", "-c", "run.yml", "-o", "train.max_iter=3")
    assert "train.max_iter" in message
    assert "max_iters" in message


def test_wrong_type_shows_the_dotted_path(world, capsys):
    message = refused(capsys, "train", "-c", "run.yml", "-o", "data.train.batch_size=many")
    assert "data.train.batch_size" in message
    assert "many" in message


def test_class_count_of_the_data(world, capsys):
    message = refused(capsys, "train", "-c", "run.yml", "-o", "model.num_classes=3")
    assert "data.train.dataset.classes: must be as many as model.num_classes, 3, found 2: square, disc" in message


def test_class_count_of_a_label_file(world, capsys):
    Path("data/labels.txt").write_text("square\ndisc\nring\n")
    rewrite(lambda d: [d["data"][k]["dataset"].update(classes=[], labels="labels.txt") for k in ("train", "eval")])
    message = refused(capsys, "train", "-c", "run.yml")
    assert "num_classes is 2" in message
    assert "has 3 classes (square, disc, ring)" in message


def test_class_count_of_the_teacher(world, capsys):
    teacher = run_config(Path("data"), Path("out"), name="other")
    teacher["model"]["num_classes"] = 3
    for split in ("train", "eval", "test"):
        teacher["data"][split]["dataset"]["classes"] = ["square", "disc", "ring"]
    write_config(Path("teacher.yml"), teacher)
    weights = load_file("out/tiny/model_final/model.safetensors")
    for i in range(3):
        for part in ("weights", "bias"):
            name = f"yolo_output.{i}.conv.{part}"
            weights[name] = np.resize(weights[name], (24, *weights[name].shape[1:]))
    save_file(weights, "three.safetensors")
    arguments = ("distill", "-c", "run.yml", "-t", "teacher.yml", "--teacher_pretrained")
    assert "the teacher 'teacher_' has 3 classes, the student 2" in refused(capsys, *arguments, "three.safetensors")
    message = refused(capsys, *arguments, "out/tiny/2")
    assert "235 of 241 variables fit; 6 of another shape: yolo_output." in message
    assert "(wanted [24" in message


@pytest.mark.parametrize("damage", ["missing", "truncated", "not an image"])
def test_a_few_bad_images_are_skipped_and_counted_and_many_stop(world, capsys, damage):
    images = sorted(Path("data/JPEGImages").glob("*.jpg"))

    def spoil(path: Path) -> None:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:400] if damage == "truncated" else b"no image at all")

    rewrite(lambda d: d["data"]["eval"]["dataset"].update(max_bad_share=0.3))
    spoil(images[-1])
    assert main(["eval", "-c", "run.yml", "-o", WEIGHTS]) == 0
    assert images[-1].name.split(".")[0] in capsys.readouterr().err
    spoil(images[-2])
    message = refused(capsys, "eval", "-c", "run.yml", "-o", WEIGHTS)
    assert "2 of 4" in message


def annotation(text: str, new: str) -> None:
    path = Path("data/Annotations/im000.xml")
    path.write_text(path.read_text().replace(text, new, 1))


def test_unknown_class_names_file_class_and_known_ones(world, capsys):
    annotation("<name>disc</name>", "<name>disk</name>")
    message = refused(capsys, "train", "-c", "run.yml")
    assert "im000.xml" in message
    assert "'disk'" in message
    assert "disc" in message


@pytest.mark.parametrize("box", [("<xmin>", "<xmin>-5000"), ("<xmax>", "<xmax>9999"), ("<xmin>", "<xmin>9999")])
def test_boxes_outside_or_without_area_are_clipped_or_dropped_and_training_goes_on(world, capsys, box):
    annotation(*box)
    assert main(["train", "-c", "run.yml", "-o", "train.max_iters=1", "name=boxes"]) == 0
    assert "boxes" in capsys.readouterr().err


def test_empty_data_set(world, capsys):
    Path("data/ImageSets/Main/train.txt").write_text("\n")
    message = refused(capsys, "train", "-c", "run.yml")
    assert "train.txt" in message


def test_data_set_missing(world, capsys):
    shutil.rmtree("data")
    message = refused(capsys, "train", "-c", "run.yml")
    assert "data/ImageSets/Main/train.txt" in message


def test_weights_missing(world, capsys):
    assert "nowhere" in refused(capsys, "eval", "-c", "run.yml", "-o", "weights=out/nowhere")
    assert "give -o weights=" in refused(capsys, "eval", "-c", "run.yml")


def test_weights_of_another_architecture_list_what_does_not_fit(world, capsys):
    other = ("model.backbone.type=resnet", "model.backbone.depth=18")
    message = refused(capsys, "eval", "-c", "run.yml", "-o", WEIGHTS, *other)
    assert "conv1_weights" in message or "res2a" in message


def test_weights_truncated(world, capsys):
    path = Path("out/tiny/model_final/model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors" in refused(capsys, "eval", "-c", "run.yml", "-o", WEIGHTS)


def test_unknown_variable_shows_nearest_names_with_shapes(world, capsys):
    message = refused(capsys, *DISTIL, "-o", "distill.terms.1.student=[yolo_haed.1]")
    assert "distill.terms[1]" in message
    assert "yolo_head.1 [-1, 21" in message


def test_shapes_of_a_pair_that_differ_show_both(world, capsys):
    message = refused(capsys, *DISTIL, "-o", "distill.terms.0.student=[neck.p5]")
    assert "distill.terms[0]" in message
    assert "neck.p5" in message
    assert "yolo_head.0" in message


def test_output_folder_that_cannot_be_made(world, capsys):
    Path("file").write_text("in the way")
    message = refused(capsys, "train", "-c", "run.yml", "-o", "output_dir=file/out")
    assert "output_dir: file/out/tiny cannot be written" in message


def test_disk_full_while_saving_keeps_the_previous_checkpoint(world, capsys, monkeypatch):
    before = load_checkpoint(Path("out/tiny/2"))

    def full(arrays, path):
        save_file(dict(list(arrays.items())[:3]), path)
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_module, "save_file", full)
        steps = ("-o", "train.max_iters=6", "train.eval_iter=6")
        message = refused(capsys, "train", "-c", "run.yml", "-r", "auto", *steps)
    assert "No space left" in message
    assert "out/tiny/4" in message
    assert latest_checkpoint(Path("out/tiny")) == Path("out/tiny/2")
    after = load_checkpoint(Path("out/tiny/2"))
    assert all(np.array_equal(before.model[n], after.model[n]) for n in before.model)


def test_damaged_checkpoint_is_named_and_an_older_one_taken(world, capsys):
    assert main(["train", "-c", "run.yml", "-r", "auto", "-o", "train.max_iters=4"]) == 0
    state = Path("out/tiny/4/state.safetensors")
    blob = bytearray(state.read_bytes())
    blob[-50] ^= 1
    state.write_bytes(bytes(blob))
    assert "state.safetensors is damaged" in refused(capsys, "train", "-c", "run.yml", "-r", "out/tiny/4")
    assert latest_checkpoint(Path("out/tiny")) == Path("out/tiny/2")


def test_checkpoint_of_another_run(world, capsys):
    message = refused(capsys, "train", "-c", "run.yml", "-r", "out/tiny/2", "-o", "optimizer.ema=0.9")
    assert "the checkpoint is of another run: it lacks" in message


def test_a_teacher_worse_than_chance_stops_unless_forced(world, capsys):
    floor = "distill.min_teacher_metric=0.9"
    message = refused(capsys, *DISTIL, "-o", floor)
    assert "below distill.min_teacher_metric 0.9" in message
    assert main([*DISTIL, "-o", floor, "distill.force=true", "name=forced", "train.max_iters=1"]) == 0


def test_non_finite_loss_names_the_step_and_keeps_the_checkpoint(world, capsys):
    weights = load_file("out/tiny/model_final/model.safetensors")
    weights["yolo_output.0.conv.bias"][:] = np.nan
    Path("bad").mkdir()
    save_file(weights, "bad/model.safetensors")
    message = refused(
        capsys, "train", "-c", "run.yml", "-o", "name=nan", "train.pretrain_weights=bad/model.safetensors"
    )
    assert "step 0: loss" in message
    assert "learning rate" in message


def test_teacher_missing(world, capsys):
    assert "no teacher: give -t" in refused(capsys, "distill", "-c", "run.yml")


def test_image_folder_without_images(world, capsys):
    Path("empty").mkdir()
    message = refused(capsys, "infer", "-c", "run.yml", "--infer_img", "empty", "-o", WEIGHTS)
    assert "empty" in message


def test_a_bad_expression_for_list_vars(world, capsys):
    assert "--grep" in refused(capsys, "list-vars", "-c", "run.yml", "--grep", "(")
    assert "--shape" in refused(capsys, "list-vars", "-c", "run.yml", "--shape", "a,b")


def test_manifest_is_readable_json(world):
    manifest = json.loads(Path("out/tiny/2/manifest.json").read_text())
    assert manifest["step"] == 2
    assert manifest["seed"] == 0
