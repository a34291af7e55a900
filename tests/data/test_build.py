"""From a reader's configuration to a loader."""

import pytest

from slim_distill.common.errors import ConfigError, DataError
from slim_distill.config.schema import DatasetConfig, ReaderConfig, TransformConfig
from slim_distill.data import build_dataset, build_loader
from tests.data.conftest import xml


def reader(root, *, transforms=(), batch_transforms=(), **options):
    data = DatasetConfig("voc", str(root), "list.txt")
    return ReaderConfig(data, transforms, batch_transforms, **({"batch_size": 2, "workers": 0} | options))


def test_builds_a_loader_and_leaves_the_configuration_alone(voc):
    args = {"target_size": [16], "interp": 1}
    steps = (TransformConfig("DecodeImage"), TransformConfig("ResizeImage", args), TransformConfig("PadBox"))
    cfg = reader(voc(3), transforms=steps, batch_transforms=(TransformConfig("Permute"),))
    loader = build_loader(cfg, seed=0, train=False, workers=0)
    assert len(loader) == 2
    assert args == {"target_size": [16], "interp": 1}
    batch = next(loader.batches())
    assert batch["gt_bbox"].shape == (2, 50, 4)
    assert build_loader(cfg, seed=0, train=True, workers=3).workers == 3


def test_errors_name_the_place_in_the_configuration(voc):
    root = voc(1)
    with pytest.raises(ConfigError, match=r"data\.train\.transforms\[0\]: transform 'Decode' .*'DecodeImage'"):
        build_loader(reader(root, transforms=(TransformConfig("Decode"),)), seed=0, train=True, path="data.train")
    with pytest.raises(ConfigError, match=r"data\.train\.dataset\.format: data set format 'vok' .*'voc'"):
        build_loader(ReaderConfig(DatasetConfig("vok")), seed=0, train=True, path="data.train")
    target = TransformConfig("Gt2YoloTarget", {"anchors": [[1, 2]], "anchor_masks": [[0]], "downsample_ratios": [8]})
    with pytest.raises(ConfigError, match=r"batch_transforms\[0\]\.num_classes: is 80, but .* has 3 classes"):
        build_loader(reader(root, batch_transforms=(target,)), seed=0, train=True)


def test_images_without_boxes_are_left_out_when_asked(voc):
    root = voc(3)
    (root / "Annotations" / "im1.xml").write_text(xml([]))
    steps = (TransformConfig("DecodeImage"), TransformConfig("ResizeImage", {"target_size": 16}))
    assert len(build_loader(reader(root, transforms=steps), seed=0, train=False).dataset) == 3
    assert len(build_loader(reader(root, transforms=steps, drop_empty=True), seed=0, train=False).dataset) == 2
    for i in (0, 2):
        (root / "Annotations" / f"im{i}.xml").write_text(xml([]))
    with pytest.raises(DataError, match="none of its 3 images has a box"):
        build_loader(reader(root, transforms=steps, drop_empty=True), seed=0, train=False)


def test_reads_every_format(voc, tmp_path):
    root = voc(2)
    assert len(build_dataset(DatasetConfig("images", str(root), images="JPEGImages", classes=("a",)))) == 2
    (root / "gt.json").write_text('{"images": [], "categories": []}')
    with pytest.raises(DataError, match="is empty"):
        build_dataset(DatasetConfig("coco", str(root), "gt.json"))
