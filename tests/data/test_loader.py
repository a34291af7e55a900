"""The loader: the same batches whatever the workers and the start, bad images, workers that fail or die."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from slim_distill.common.errors import ConfigError, DataError
from slim_distill.data import Loader, load_voc, read_image
from slim_distill.data.transforms import (
    BboxXYXY2XYWH,
    ColorDistort,
    DecodeImage,
    Gt2YoloTarget,
    MixupImage,
    NormalizeBox,
    NormalizeImage,
    PadBox,
    Permute,
    RandomCrop,
    RandomExpand,
    RandomFlipImage,
    RandomShape,
    ResizeImage,
    SampleTransform,
)

AUGMENT = (
    DecodeImage(with_mixup=True),
    MixupImage(),
    ColorDistort(),
    RandomExpand(),
    RandomCrop(),
    RandomFlipImage(),
    NormalizeBox(),
    PadBox(),
    BboxXYXY2XYWH(),
)
TARGETS = Gt2YoloTarget(((10, 10), (30, 30)), ((1,), (0,)), (32, 16), num_classes=3)
BATCH = (RandomShape((32, 64), random_inter=True), NormalizeImage(is_channel_first=False), Permute(), TARGETS)
EVALUATE = (DecodeImage(), ResizeImage(32, interp=2), NormalizeImage(is_channel_first=False), PadBox(4), Permute())


class Explode(SampleTransform):
    """Fails, or kills its process, on one image."""

    def __init__(self, name, kill=False):
        self.name, self.kill = name, kill

    def __call__(self, sample, rng):
        if self.name in sample["im_file"]:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("boom")
        return sample


class Report(SampleTransform):
    """Writes what the worker has imported, and its process id, into the sample."""

    def __call__(self, sample, rng):
        image = np.array([int("paddle" in sys.modules), os.getpid()], np.int64)
        return {**sample, "image": image}


def training(root, **options):
    options = {"batch_size": 4, "shuffle": True, "seed": 3, "mixup_epochs": 2} | options
    return Loader(load_voc(root, "list.txt"), AUGMENT, BATCH, **options)


def evaluation(root, **options):
    return Loader(load_voc(root, "list.txt", max_bad_share=0.5), EVALUATE, train=False, **({"batch_size": 4} | options))


def take(loader, count, start=0):
    batches = loader.batches(start)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_training_feeds(voc):
    batch = take(training(voc(7)), 1)[0]
    size = batch["image"].shape[-1]
    shapes = {k: (v.shape, v.dtype.name) for k, v in batch.items()}
    assert shapes == {
        "image": ((4, 3, size, size), "float32"),
        "gt_bbox": ((4, 50, 4), "float32"),
        "gt_class": ((4, 50), "int32"),
        "gt_score": ((4, 50), "float32"),
        "target0": ((4, 1, 9, size // 32, size // 32), "float32"),
        "target1": ((4, 1, 9, size // 16, size // 16), "float32"),
    }
    assert all(v.flags.c_contiguous for v in batch.values())


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers_or_start(voc, workers):
    root = voc(7)
    straight = take(training(root), 8)  # four epochs of two batches, the second of 3 samples
    assert [len(b["image"]) for b in straight] == [4, 3] * 4
    assert len({b["image"].tobytes() for b in straight}) == 8
    for start, batch in enumerate(take(training(root, workers=workers), 8)):
        assert equal(batch, straight[start])
    for batch, expected in zip(take(training(root, workers=workers), 3, start=5), straight[5:], strict=True):
        assert equal(batch, expected)
    for batch, expected in zip(take(training(root), 2, start=3), straight[3:5], strict=True):
        assert equal(batch, expected)
    assert not equal(take(training(root, seed=4), 1)[0], straight[0])


def test_starting_far_on_costs_no_more(voc):
    loader = training(voc(7))
    since = time.perf_counter()
    take(loader, 1, start=10**12)
    assert time.perf_counter() - since < 1.0


def test_every_epoch_is_another_permutation(voc):
    maker = training(voc(7)).maker
    epochs = [maker.indices(2 * e) + maker.indices(2 * e + 1) for e in range(6)]
    assert all(sorted(e) == list(range(7)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 3
    assert training(voc(7), drop_last=True).maker.per_epoch == 1


def test_augmentation_changes_with_epoch_and_sample_but_not_with_the_batch(voc):
    options = {"shuffle": False, "mixup_epochs": -1}
    data = load_voc(voc(4), "list.txt")
    two, four = (
        Loader(data, (*AUGMENT[:-3], ResizeImage(32), PadBox()), batch_size=n, seed=3, **options) for n in (2, 4)
    )
    halves, wholes = take(two, 4), take(four, 2)
    for epoch, whole in enumerate(wholes):
        assert np.array_equal(whole["image"][2:], halves[2 * epoch + 1]["image"])
    assert all(not np.array_equal(a, b) for a, b in zip(wholes[0]["image"], wholes[1]["image"], strict=True))
    again = Loader(data, (*AUGMENT[:-3], ResizeImage(32), PadBox()), batch_size=1, seed=3, **options)
    moments = [take(again, 1, start=k)[0]["image"].mean() for k in range(8)]
    assert len(set(moments)) == 8


def test_mixup_ends_after_its_epochs(voc):
    batches = take(training(voc(7)), 6)
    objects = [(b["gt_score"] > 0).sum(axis=1) for b in batches]
    # A crop may drop one of the two, and a factor of 0 or 1 too; without a partner there is never more than one.
    assert max(n.max() for n in objects[:4]) == 2
    assert max(n.max() for n in objects[4:]) == 1
    partial = [s for b in batches[:4] for s in b["gt_score"][b["gt_score"] > 0]]
    assert all(0 < s < 1 for s in partial)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_one_pass_with_a_short_end(voc, workers):
    loader = evaluation(voc(7), workers=workers)
    batches = list(loader.batches())
    assert len(loader) == len(batches) == 2
    assert [len(b["image"]) for b in batches] == [4, 3]
    first = batches[0]
    assert set(first) == {"image", "im_size", "im_id", "gt_bbox", "gt_class", "is_difficult"}
    assert first["im_id"].tolist() == [[0], [1], [2], [3]]
    assert first["im_id"].dtype == np.int64
    assert first["im_size"].tolist() == [[48, 64]] * 4
    assert first["im_size"].dtype == np.int32
    assert equal(list(loader.batches())[1], batches[1])


def test_boxes_that_are_not_padded_are_not_fed(voc):
    loader = Loader(load_voc(voc(2), "list.txt"), [EVALUATE[0], EVALUATE[1]], train=False)
    assert set(next(loader.batches())) == {"image", "im_size", "im_id"}


def test_images_of_different_sizes_cannot_be_stacked(voc):
    root = voc(3)
    loader = Loader(load_voc(root, "list.txt"), [DecodeImage(), RandomExpand(prob=0.0)], seed=1)
    with pytest.raises(DataError, match=r"im\d\.png: image is \(.*\), but \(.*\) for .*add a step"):
        next(loader.batches())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_replaced_by_the_next_while_training(voc, workers, caplog):
    root = voc(6)
    data = load_voc(root, "list.txt", max_bad_share=0.4)
    (root / "JPEGImages/im2.png").write_bytes(b"not an image")
    (root / "JPEGImages/im3.png").unlink()
    loader = Loader(data, [DecodeImage(), PadBox()], batch_size=6, workers=workers)
    with caplog.at_level(logging.WARNING, "slim_distill.data"):
        first, second = take(loader, 2)
    assert len(first["image"]) == 6
    assert np.array_equal(first["image"][2], first["image"][4])  # im2 -> im3 is gone too -> im4
    assert np.array_equal(first["image"][3], first["image"][4])
    assert first["gt_class"][2, 0] == 1  # the object is that of im4
    for i in (0, 1, 4, 5):
        assert np.array_equal(first["image"][i], read_image(root / f"JPEGImages/im{i}.png"))
    assert equal(first, second)
    names = {file.rsplit("/", 1)[1]: reason for file, reason in loader.skipped.items()}
    assert set(names) == {"im2.png", "im3.png"}
    assert "not an image" in names["im2.png"]
    assert caplog.text.count("im2.png: skipped") == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_images_stop_training(voc, workers):
    root = voc(6)
    data = load_voc(root, "list.txt", max_bad_share=0.2)
    for i in (1, 4):
        (root / f"JPEGImages/im{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 6 images cannot be used.*im1\.png: the file is empty"):
        list(zip(range(4), Loader(data, AUGMENT, BATCH, batch_size=2, workers=workers).batches(), strict=False))


def test_a_mixup_partner_that_is_unreadable_is_replaced_too(voc):
    root = voc(3)
    data = load_voc(root, "list.txt", max_bad_share=0.9)
    (root / "JPEGImages/im1.png").write_bytes(b"x")
    mix = Loader(data, [DecodeImage(with_mixup=True), MixupImage(), PadBox()], batch_size=3, mixup_epochs=9)
    assert [len(b["image"]) for b in take(mix, 5)] == [3] * 5
    assert len(mix.skipped) == 1


def test_no_readable_image_at_all_is_an_error(voc):
    root = voc(2)
    data = load_voc(root, "list.txt", max_bad_share=1.0)
    for i in range(2):
        (root / f"JPEGImages/im{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="none of its 2 images can be read"):
        next(Loader(data, [DecodeImage()]).batches())


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_unreadable_images_out(voc, workers):
    root = voc(6)
    loader = evaluation(root, workers=workers, batch_size=2)
    for i in (1, 2, 3):
        (root / f"JPEGImages/im{i}.png").write_bytes(b"x")
    assert [b["im_id"][:, 0].tolist() for b in loader.batches()] == [[0], [4, 5]]
    assert len(loader.skipped) == 3


def test_crowds_are_left_out_while_training(voc):
    data = load_voc(voc(1), "list.txt")
    record = data.records[0]
    for key in ("gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult"):
        record[key] = np.repeat(record[key], 2, axis=0)
    record["is_crowd"] = np.array([[1], [0]], np.int32)
    train = next(Loader(data, [DecodeImage(), PadBox(3)]).batches())
    assert (train["gt_bbox"][0].any(axis=1)).tolist() == [True, False, False]
    kept = next(Loader(data, [DecodeImage(), PadBox(3)], train=False).batches())
    assert (kept["gt_bbox"][0].any(axis=1)).tolist() == [True, True, False]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_that_fails_is_reported_with_its_file(voc, workers):
    loader = Loader(load_voc(voc(4), "list.txt"), [DecodeImage(), Explode("im2")], batch_size=1, workers=workers)
    batches = loader.batches()
    next(batches)
    next(batches)
    with pytest.raises(DataError, match=r"im2\.png: Explode failed: ZeroDivisionError\('boom'\)"):
        next(batches)


def test_a_batch_step_that_fails_is_reported_with_its_files(voc):
    wrong = Gt2YoloTarget(((10, 10),), ((0,),), (32,), num_classes=1)
    loader = Loader(load_voc(voc(2), "list.txt"), AUGMENT, (RandomShape((32,)), Permute(), wrong))
    with pytest.raises(DataError, match=r"im0\.png, .*im1\.png: Gt2YoloTarget failed on batch 0: .*does not fit"):
        next(loader.batches())


def test_a_worker_that_dies_is_reported_with_its_file(voc, capfd):
    steps = [DecodeImage(), Explode("im3", kill=True), PadBox()]
    loader = Loader(load_voc(voc(6), "list.txt"), steps, batch_size=2, workers=2)
    batches = loader.batches()
    next(batches)
    with pytest.raises(DataError, match=r"died with signal SIGKILL while it prepared .*im3\.png \(batch 1\)"):
        next(batches)


class Unloadable(SampleTransform):
    """Cannot be unpickled."""

    def __reduce__(self):
        return os.getcwd, (1,)


def test_a_worker_that_cannot_start_is_reported(voc, capfd):
    loader = Loader(load_voc(voc(2), "list.txt"), [Unloadable()], workers=1)
    with pytest.raises(DataError, match="died with exit code 1 while it started"):
        next(loader.batches())
    assert "getcwd() takes no arguments" in capfd.readouterr().err


def test_workers_import_no_paddle_and_end_with_the_iterator(voc):
    loader = Loader(load_voc(voc(4), "list.txt"), [DecodeImage(), Report()], batch_size=1, workers=2)
    batches = loader.batches()
    seen = np.concatenate([next(batches)["image"] for _ in range(4)])
    assert not seen[:, 0].any()
    workers = set(seen[:, 1].tolist())
    assert len(workers) == 2
    assert os.getpid() not in workers
    loader.close()
    assert not any(alive(pid) for pid in workers)
    with pytest.raises(DataError, match="the loader was closed"):
        next(batches)


SCRIPT = """
import sys
from slim_distill.data import Loader, load_voc
from tests.data.test_loader import Report
from slim_distill.data.transforms import DecodeImage
loader = Loader(load_voc(sys.argv[1], "list.txt"), [DecodeImage(), Report()], batch_size=1, workers=2)
batches = loader.batches()
print(*[next(batches)["image"][0, 1] for _ in range(4)], flush=True)
sys.stdin.read()
"""


def test_workers_end_when_the_parent_is_killed(voc):
    command = [sys.executable, "-c", SCRIPT, str(voc(4))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        workers = {int(pid) for pid in parent.stdout.readline().split()}
        assert len(workers) == 2
        assert all(alive(pid) for pid in workers)
        parent.kill()
    assert all_end(workers)


def all_end(pids, within_s=10):
    """Whether these processes end, which may take a moment."""
    until = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def alive(pid):
    """Whether process `pid` runs (a zombie that nobody waits for does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_refuses_numbers_that_make_no_sense(voc):
    data = load_voc(voc(2), "list.txt")
    for wrong in ({"batch_size": 0}, {"workers": -1}, {"seed": -1}):
        with pytest.raises(ConfigError, match="are wanted"):
            Loader(data, AUGMENT, **wrong)
    with pytest.raises(DataError, match=r"2 images are less than one batch of 8, and drop_last"):
        Loader(data, AUGMENT, drop_last=True)
