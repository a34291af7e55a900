"""Parity with the published reader: arrays that PaddleDetection 0.4 made from three photographs of BCCD."""

import hashlib
import json

import numpy as np
import pytest

from slim_distill.config.schema import DatasetConfig, ReaderConfig, TransformConfig
from slim_distill.data import build_loader, load_voc, read_image
from slim_distill.data.image import resize
from slim_distill.data.transforms import DecodeImage, NormalizeImage, Permute, RandomFlipImage, mixup, yolo_targets
from tests.data.test_targets import ANCHORS, MASKS, STRIDES

pytestmark = pytest.mark.golden

NAMES = ("BloodImage_00000", "BloodImage_00005", "BloodImage_00338")
CLASSES = ("RBC", "WBC", "Platelets")
INTERPOLATIONS = {"nearest": 0, "linear": 1, "cubic": 2, "area": 3, "lanczos4": 4}
NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_channel_first": False}


@pytest.fixture
def root(tmp_path, bccd):
    """A data set of the three photographs."""
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / name).symlink_to(bccd / name)
    (tmp_path / "list.txt").write_text("\n".join(NAMES))
    return tmp_path


@pytest.fixture
def records(root):
    return load_voc(root, "list.txt", classes=CLASSES).records


def steps(*pairs):
    return tuple(TransformConfig(name, args) for name, args in pairs)


def run(root, transforms, batch_transforms=(), train=False):
    data = DatasetConfig("voc", str(root), "list.txt", classes=CLASSES)
    reader = ReaderConfig(data, transforms, batch_transforms, batch_size=3, workers=0)
    return next(build_loader(reader, seed=0, train=train).batches())


def evaluate(root, size):
    resizing = ("ResizeImage", {"target_size": size, "interp": 2})
    padding = (("NormalizeImage", NORMALIZE), ("PadBox", {}), ("Permute", {"to_bgr": False}))
    return run(root, steps(("DecodeImage", {}), resizing, *padding))


def train(root, size):
    boxes = (("NormalizeBox", {}), ("PadBox", {}), ("BboxXYXY2XYWH", {}))
    target = {"anchors": ANCHORS, "anchor_masks": MASKS, "downsample_ratios": STRIDES, "num_classes": 3}
    shape = ("RandomShape", {"sizes": [size]})
    batch = steps(shape, ("NormalizeImage", NORMALIZE), ("Permute", {"to_bgr": False}), ("Gt2YoloTarget", target))
    return run(root, steps(("DecodeImage", {}), *boxes), batch, train=True)


def test_decoded_pixels(golden, records):
    expected = json.loads((golden / "reader/meta.json").read_text())["images"]
    for name, record in zip(NAMES, records, strict=True):
        image = read_image(record["im_file"])
        assert hashlib.sha256(image.tobytes()).hexdigest() == expected[name]["decoded_rgb_sha256"]


def test_annotations(golden, records):
    with np.load(golden / "reader/roidb.npz") as expected:
        for name, record in zip(NAMES, records, strict=True):
            for key in ("gt_bbox", "gt_class", "gt_score", "difficult", "im_id", "h", "w"):
                assert np.array_equal(record[key], expected[f"{key}/{name}"]), (name, key)


def test_evaluation_batch(golden, root):
    batch = evaluate(root, 128)
    with np.load(golden / "reader/eval_128.npz") as expected:
        assert set(batch) == set(expected.files)
        for key in expected.files:
            assert batch[key].dtype == expected[key].dtype, key
            assert np.array_equal(batch[key], expected[key]), key
    assert batch["image"].flags.c_contiguous


@pytest.mark.parametrize("size", [128, 320, 608])
def test_evaluation_crops(golden, root, size):
    image = evaluate(root, size)["image"]
    half = size // 2
    with np.load(golden / "reader/crops.npz") as expected:
        for i, name in enumerate(NAMES):
            crops = {
                "top_left_24": image[i, :, :24, :24],
                "bottom_right_24": image[i, :, -24:, -24:],
                "centre_24": image[i, :, half - 12 : half + 12, half - 12 : half + 12],
            }
            for key, crop in crops.items():
                assert np.abs(crop - expected[f"eval{size}/{name}/{key}"]).max() <= 1e-5


def test_training_batch(golden, root):
    batch = train(root, 128)
    with np.load(golden / "reader/train_128_nearest.npz") as expected:
        assert set(batch) == set(expected.files)
        for key in expected.files:
            assert batch[key].dtype == expected[key].dtype, key
            assert np.array_equal(batch[key], expected[key]), key


def test_training_targets_at_another_size(golden, root):
    batch = train(root, 320)
    with np.load(golden / "reader/train_320_targets.npz") as expected:
        for key in expected.files:
            assert np.array_equal(batch[key], expected[key]), key


@pytest.mark.parametrize(("size", "kind"), [*((128, kind) for kind in INTERPOLATIONS), (320, "linear")])
def test_training_crops(golden, records, size, kind):
    rng = np.random.default_rng(0)
    with np.load(golden / "reader/crops.npz") as expected:
        for name, record in zip(NAMES, records, strict=True):
            image = resize(read_image(record["im_file"]), size, size, INTERPOLATIONS[kind])
            sample = NormalizeImage((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True, False)({"image": image}, rng)
            image = Permute(to_bgr=False)(sample, rng)["image"]
            for key, crop in (("top_left_24", image[:, :24, :24]), ("bottom_right_24", image[:, -24:, -24:])):
                assert np.array_equal(crop, expected[f"train{size}_{kind}/{name}/{key}"])


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("size", [96, 200])
@pytest.mark.parametrize("kind", INTERPOLATIONS)
def test_resize_is_the_published_one_to_the_bit(golden, kind, size, dtype):
    """Without the switch in `resize`, Intel's IPP differs: cubic by one level, floats by 1e-3."""
    with np.load(golden / "reader/resize_synthetic.npz") as z:
        expected = z[f"{kind}_{size}_{dtype}"]
        h, w = expected.shape[:2]
        out = resize(z["input"].astype(dtype), size, size, INTERPOLATIONS[kind])
    assert np.array_equal(out[size - h :, size - w :], expected)


def test_targets_of_hand_made_boxes(golden):
    with np.load(golden / "reader/gt2yolotarget_hand.npz") as z:
        for size in (128, 320):
            options = {"anchors": ANCHORS, "anchor_masks": MASKS, "downsample_ratios": STRIDES, "num_classes": 5}
            got = yolo_targets(z["gt_bbox"][None], z["gt_class"][None], z["gt_score"][None], (size, size), **options)
            for i, target in enumerate(got):
                assert np.array_equal(target[0], z[f"s{size}_target{i}"]), (size, i)


def test_flip_and_mixup(golden, records):
    rng = np.random.default_rng(0)
    first, second = (DecodeImage()(record, rng) for record in records[:2])
    with np.load(golden / "reader/augment_fixed.npz") as z:
        flipped = RandomFlipImage(prob=1.0)(first, rng)
        assert np.array_equal(flipped["gt_bbox"], z["flip/gt_bbox"])
        assert np.array_equal(flipped["image"][:32, :32], z["flip/image_top_left_32"])
        mixed = mixup(first, second, 0.6)
        for key in ("gt_bbox", "gt_class", "gt_score"):
            assert np.array_equal(mixed[key], z[f"mixup0.6/{key}"]), key
        assert np.array_equal(mixed["image"][:32, :32], z["mixup0.6/image_top_left_32"])
    expected = json.loads((golden / "reader/meta.json").read_text())["mixup_image"]
    assert mixed["image"].sum(dtype=np.int64) == expected["sum"]
