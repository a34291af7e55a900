"""The data set that the project draws itself."""

import json
import sys

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.data import load_coco, load_voc, read_image
from slim_distill.data.digits import DIGIT_CLASSES, draw_scene, load_scans, write_digits

pytest.importorskip("sklearn", reason="scikit-learn (extra: demo) is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits")
    write_digits(path, seed=1, train=30, test=10)
    return path


def content(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_is_the_same_byte_for_byte(folder, tmp_path):
    write_digits(tmp_path / "again", seed=1, train=30, test=10)
    first = content(folder)
    assert content(tmp_path / "again") == first
    assert len(first) == 40 + 40 + 5
    write_digits(tmp_path / "more", seed=1, train=32, test=2)
    more = content(tmp_path / "more")
    assert all(more[f"JPEGImages/train_{i:05d}.jpg"] == first[f"JPEGImages/train_{i:05d}.jpg"] for i in range(30))
    write_digits(tmp_path / "other", seed=2, train=2, test=0)
    assert content(tmp_path / "other")["JPEGImages/train_00000.jpg"] != first["JPEGImages/train_00000.jpg"]


def test_voc_and_coco_say_the_same(folder):
    for part, count in (("train", 30), ("test", 10)):
        voc = load_voc(folder, f"ImageSets/Main/{part}.txt")
        coco = load_coco(folder, f"annotations/instances_{part}.json", images="JPEGImages")
        assert voc.classes == coco.classes == DIGIT_CLASSES
        assert len(voc) == len(coco) == count
        assert (voc.dropped_boxes, voc.clipped_boxes, coco.dropped_boxes, coco.clipped_boxes) == (0, 0, 0, 0)
        for a, b in zip(voc.records, coco.records, strict=True):
            assert a["im_file"] == b["im_file"]
            assert np.array_equal(a["gt_bbox"], b["gt_bbox"])
            assert np.array_equal(a["gt_class"], b["gt_class"])
            assert read_image(a["im_file"]).shape == (a["h"], a["w"], 3) == (160, 160, 3)


def test_training_and_test_images_show_different_scans(folder):
    scans = {}
    for part in ("train", "test"):
        rows = json.loads((folder / f"annotations/instances_{part}.json").read_text())["annotations"]
        scans[part] = {row["scan"] for row in rows}
    assert scans["train"]
    assert scans["test"]
    assert not scans["train"] & scans["test"]
    everything = [set(load_scans(part).numbers.tolist()) for part in ("train", "test")]
    assert not everything[0] & everything[1]
    assert len(everything[0] | everything[1]) == 1797


def test_boxes_surround_visible_ink_of_many_sizes():
    scans = load_scans("train")
    heights, contrasts, counts = [], [], []
    for seed in range(60):
        image, glyphs = draw_scene(scans, 160, np.random.default_rng(seed))
        counts.append(len(glyphs))
        for glyph in glyphs:
            x1, y1, x2, y2 = glyph.box
            assert 0 <= x1 < x2 < 160
            assert 0 <= y1 < y2 < 160
            heights.append(y2 - y1 + 1)
            contrasts.append(np.ptp(image[y1 : y2 + 1, x1 : x2 + 1].mean(axis=2)))
    assert min(counts) >= 2
    assert max(counts) == 12
    assert min(heights) <= 15
    assert max(heights) >= 42
    assert np.median(contrasts) > 60
    assert min(contrasts) > 25


def test_says_how_to_install_scikit_learn(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"scikit-learn: not installed.*pip install 'slim_distill\[demo\]'"):
        write_digits(tmp_path, seed=0, train=1, test=0)


def test_refuses_images_too_small_for_the_digits(tmp_path):
    with pytest.raises(DataError, match="size 90: digits are up to 48 px large"):
        write_digits(tmp_path, seed=0, train=1, test=0, size=90)
