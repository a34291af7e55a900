"""Transforms: laws, numpy references, and that a box stays on its object."""

import cv2
import numpy as np
import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.data.transforms import (
    TRANSFORMS,
    BatchTransform,
    BboxXYXY2XYWH,
    ColorDistort,
    DecodeImage,
    ExpandImage,
    MixupImage,
    NormalizeBox,
    NormalizeImage,
    PadBatch,
    PadBox,
    Permute,
    RandomCrop,
    RandomExpand,
    RandomFlipImage,
    RandomInterpImage,
    RandomShape,
    ResizeImage,
    make_batch_transforms,
    make_transforms,
    mixup,
)

OBJECTS = {(255, 0, 0): (20, 12, 69, 41), (0, 255, 0): (90, 50, 119, 89), (0, 0, 255): (5, 60, 44, 99)}


def make_sample(dtype=np.uint8):
    """A grey image of 120x160 pixels with three coloured rectangles, and their boxes (the last pixel included)."""
    image = np.full((120, 160, 3), 90, dtype)
    for colour, (x1, y1, x2, y2) in OBJECTS.items():
        image[y1 : y2 + 1, x1 : x2 + 1] = colour
    n = len(OBJECTS)
    return {
        "im_id": np.array([7]),
        "im_file": "x.png",
        "image": image,
        "h": 120,
        "w": 160,
        "gt_bbox": np.array(list(OBJECTS.values()), np.float32),
        "gt_class": np.arange(n, dtype=np.int32)[:, None],
        "gt_score": np.ones((n, 1), np.float32),
        "is_crowd": np.zeros((n, 1), np.int32),
        "difficult": np.array([[0], [1], [0]], np.int32),
    }


def found_box(image, number):
    """Corners of the pixels that have the colour of object `number`, or None."""
    colour = np.array(list(OBJECTS)[number])
    rows, columns = np.nonzero((np.abs(image.astype(int) - colour) < 60).all(axis=2))
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def rng(seed=0):
    return np.random.default_rng(seed)


def frozen(sample):
    """Copies of the arrays, to see that nothing is changed in place."""
    return {k: v.copy() for k, v in sample.items() if isinstance(v, np.ndarray)}


STEPS = [
    RandomFlipImage(prob=1.0),
    RandomExpand(prob=0.0, fill_value=(1.0, 2.0, 3.0)),
    RandomCrop(allow_no_crop=False),
    RandomCrop(allow_no_crop=False, aspect_ratio=None, thresholds=(0.1,), num_attempts=200),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("seed", range(8))
def test_boxes_stay_on_their_objects(step, seed):
    sample = make_sample()
    before = frozen(sample)
    out = step(sample, rng(seed))
    assert len(out["gt_bbox"]) > 0
    assert out["image"].shape[:2] == (out["h"], out["w"])
    for box, (number,) in zip(out["gt_bbox"], out["gt_class"], strict=True):
        # The published crop ends a cut box at the region's end, one further than its last pixel.
        assert np.abs(np.array(found_box(out["image"], number)) - box).max() <= isinstance(step, RandomCrop)
    for key, value in before.items():
        assert np.array_equal(sample[key], value), f"{key} was changed in place"


def test_flipping_twice_is_the_identity():
    sample = make_sample()
    flip = RandomFlipImage(prob=1.0)
    once = flip(sample, rng())
    assert not np.array_equal(once["image"], sample["image"])
    twice = flip(once, rng())
    assert np.array_equal(twice["image"], sample["image"])
    assert np.array_equal(twice["gt_bbox"], sample["gt_bbox"])
    assert RandomFlipImage(prob=0.0)(sample, rng()) is sample


def test_flips_normalised_boxes():
    sample = make_sample() | {"gt_bbox": np.array([[0.1, 0.2, 0.4, 0.9]], np.float32)}
    flipped = RandomFlipImage(prob=1.0, is_normalized=True)(sample, rng())["gt_bbox"]
    assert np.allclose(flipped, [[0.6, 0.2, 0.9, 0.9]], atol=1e-6)


def test_expand_keeps_the_image_and_fills_the_rest():
    out = RandomExpand(ratio=3.0, prob=0.0, fill_value=(123.675, 116.28, 103.53))(make_sample(), rng(3))
    x, y = (int(v) for v in out["gt_bbox"][0, :2] - (20, 12))
    canvas = out["image"].copy()
    assert np.array_equal(canvas[y : y + 120, x : x + 160], make_sample()["image"])
    canvas[y : y + 120, x : x + 160] = (123, 116, 103)
    assert (canvas == (123, 116, 103)).all()
    assert 120 < out["h"] <= 360


def test_expand_of_normalised_boxes_keeps_them_on_their_object():
    sample = make_sample()
    scale = np.array([160, 120, 160, 120], np.float32)
    before = sample | {"gt_bbox": sample["gt_bbox"] / scale}
    out = ExpandImage(max_ratio=3.0, prob=1.0, mean=(1, 2, 3))(before, rng(3))
    h, w = out["image"].shape[:2]
    assert (h, w) == (out["h"], out["w"])
    assert h > 120
    for old, new in zip(sample["gt_bbox"], out["gt_bbox"] * np.array([w, h, w, h]), strict=True):
        x1, y1, x2, y2 = (round(float(v)) for v in new)
        a, b, c, d = (round(float(v)) for v in old)
        assert np.array_equal(out["image"][y1:y2, x1:x2], sample["image"][b:d, a:c])
    assert ExpandImage(max_ratio=3.0, prob=0.0)(before, rng(3)) is before


def test_expand_does_not_wrap_float_colours_around():
    out = RandomExpand(prob=0.0)(make_sample() | {"image": np.full((20, 30, 3), 300.7, np.float32)}, rng())
    assert out["image"].max() == 255
    assert set(np.unique(out["image"])) == {127, 255}


def test_crop_reaches_the_threshold_and_keeps_centres_only():
    for seed in range(30):
        out = RandomCrop(thresholds=(0.3,), allow_no_crop=False)(make_sample(), rng(seed))
        if out["image"].shape == (120, 160, 3):
            continue
        area = np.prod(out["gt_bbox"][:, 2:] - out["gt_bbox"][:, :2], axis=1)
        whole = np.array([49 * 29, 29 * 39, 39 * 39], np.float64)[out["gt_class"][:, 0]]
        assert (area / (whole + out["h"] * out["w"] - area)).max() >= 0.3
        assert (area / whole > 0.24).all()  # its centre inside: at least half of each side
        assert len(out["gt_bbox"]) == len(out["gt_class"]) == len(out["gt_score"]) == len(out["difficult"])


def test_crop_draws_every_kind_of_region():
    sizes = np.array(
        [RandomCrop(allow_no_crop=False, thresholds=(0.0,))._regions((200, 400, 3), rng(i)) for i in range(9)]
    )
    x1, y1, x2, y2 = sizes.reshape(-1, 4).T
    assert x1.min() >= 0
    assert y1.min() >= 0
    assert x2.max() <= 400
    assert y2.max() <= 200
    relative = ((x2 - x1) / 400) / ((y2 - y1) / 200)
    assert 0.48 < relative.min() < 0.7
    assert 1.5 < relative.max() < 2.1
    scale = np.sqrt((x2 - x1) / 400 * (y2 - y1) / 200)
    assert 0.29 < scale.min() < 0.4
    assert 0.9 < scale.max() <= 1.0


def test_crop_leaves_a_sample_without_objects_alone():
    sample = make_sample() | {"gt_bbox": np.zeros((0, 4), np.float32)}
    assert RandomCrop()(sample, rng()) is sample


@pytest.mark.parametrize("interp", [0, 1, 2, 3, 4])
def test_resize_moves_objects_with_the_scale(interp):
    out = ResizeImage(target_size=80, interp=interp)(make_sample(), rng())
    assert out["image"].shape == (80, 80, 3)
    assert (out["h"], out["w"]) == (120, 160)
    for number, (x1, y1, x2, y2) in enumerate(OBJECTS.values()):
        expected = np.array([x1 / 2, y1 * 2 / 3, x2 / 2, y2 * 2 / 3])
        assert np.abs(np.array(found_box(out["image"], number)) - expected).max() <= 1.5


def test_resize_can_keep_the_aspect_ratio():
    assert ResizeImage(60, max_size=1000)(make_sample(), rng())["image"].shape == (60, 80, 3)
    assert ResizeImage(60, max_size=40)(make_sample(), rng())["image"].shape == (30, 40, 3)
    shapes = {ResizeImage((32, 64))(make_sample(), rng(i))["image"].shape[0] for i in range(20)}
    assert shapes == {32, 64}
    hashes = {RandomInterpImage(33)(make_sample(), rng(i))["image"].tobytes() for i in range(40)}
    assert len(hashes) == 5


def published_distort(image, steps):
    """The published arithmetic, one step after the other, in float64."""
    image = image.astype(np.float64)
    for name, delta in steps:
        if name == "brightness":
            image = image + delta
        elif name == "contrast":
            image = image * delta
        elif name == "saturation":
            grey = (image * [0.299, 0.587, 0.114]).sum(axis=2, keepdims=True)
            image = image * delta + grey * (1 - delta)
        else:
            u, w = np.cos(delta * np.pi), np.sin(delta * np.pi)
            turn = np.array([[1, 0, 0], [0, u, -w], [0, w, u]])
            to = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
            back = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.107, 1.705]])
            image = image @ (back @ turn @ to).T
    return image


@pytest.mark.parametrize("random_apply", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_colour_distortion_equals_the_published_steps(seed, random_apply):
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    always = {"hue": (-18, 18, 0.0), "saturation": (0.5, 1.5, 0.0), "contrast": (0.5, 1.5, 0.0)}
    step = ColorDistort(**always, brightness=(-20, 20, 0.0), random_apply=random_apply, clip=False)
    replay = rng(seed)
    order = step._order(replay)
    steps = []
    for name in order:
        low, high, _ = getattr(step, name)
        replay.uniform()
        steps.append((name, replay.uniform(low, high)))
    expected = published_distort(image, steps)
    out = step({"image": image}, rng(seed))["image"]
    assert out.dtype == np.float32
    assert np.abs(out - expected).max() < 1e-3  # of 255; float32
    clipped = ColorDistort(**always, brightness=(-20, 20, 0.0), random_apply=random_apply)({"image": image}, rng(seed))
    assert clipped["image"].dtype == np.uint8
    assert np.abs(clipped["image"] - np.clip(expected, 0, 255)).max() <= 1.0  # rounding, and fixed point in OpenCV
    if random_apply:
        assert len({tuple(step._order(rng(i))) for i in range(200)}) == 24
    else:
        assert {next(iter(step._order(rng(i)))) for i in range(20)} == {"brightness"}


def test_colour_distortion_applies_with_one_minus_the_probability():
    sample = make_sample()
    never = ColorDistort(*[(0.5, 0.6, 1.0)] * 4)
    assert never(sample, rng()) is sample
    some = ColorDistort(hue=(0, 0, 1.0), saturation=(1, 1, 1.0), contrast=(0.5, 0.5, 0.8), brightness=(0, 0, 1.0))
    fired = sum(some(sample, rng(i)) is not sample for i in range(400))
    assert 50 < fired < 110  # 0.2 * 400


def test_mixup_adds_up_pixels_and_scores():
    a, b = make_sample(), make_sample()
    b["image"] = np.full((140, 100, 3), 200, np.uint8)
    b["gt_bbox"] = b["gt_bbox"][:1] + 1
    for key in ("gt_class", "gt_score", "is_crowd", "difficult"):
        b[key] = b[key][:1]
    out = mixup(a, b, 0.25)
    assert out["image"].shape == (140, 160, 3)
    assert (out["h"], out["w"]) == (140, 160)
    assert out["image"][0, 0].tolist() == [172] * 3  # 0.25 * 90 + 0.75 * 200 = 172.5, cut
    assert out["image"][0, 159].tolist() == [22] * 3
    assert out["image"][139, 0].tolist() == [150] * 3
    assert out["image"][139, 159].tolist() == [0] * 3
    assert out["gt_score"][:, 0].tolist() == [0.25] * 3 + [0.75]
    assert out["gt_score"].dtype == np.float32
    assert np.array_equal(out["gt_bbox"], np.concatenate((a["gt_bbox"], b["gt_bbox"])))
    assert mixup(a, b, 1.0) is a
    assert mixup(a, b, 0.0) is b


def test_mixup_needs_a_partner_and_follows_the_beta_distribution():
    sample = make_sample()
    assert MixupImage()(sample, rng()) is sample
    factors = [MixupImage()(sample | {"mixup": make_sample()}, rng(i))["gt_score"][0, 0] for i in range(300)]
    assert abs(np.mean(factors) - 0.5) < 0.05
    assert abs(np.var(factors) - 0.0625) < 0.02  # variance of Beta(1.5, 1.5): 1/16
    assert "mixup" not in MixupImage()(sample | {"mixup": make_sample()}, rng())


def test_decode_reads_the_image_and_its_partner(tmp_path):
    image = make_sample()["image"]
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    record = {"im_file": str(tmp_path / "a.png"), "h": 1, "w": 2}
    out = DecodeImage(with_mixup=True)(record | {"mixup": dict(record)}, rng())
    for sample in (out, out["mixup"]):
        assert np.array_equal(sample["image"], image)
        assert (sample["h"], sample["w"]) == (120, 160)
        assert sample["im_size"].tolist() == [120, 160]
        assert sample["im_size"].dtype == np.int32
    assert np.array_equal(DecodeImage(to_rgb=False)(record, rng())["image"], image[..., ::-1])
    given = DecodeImage()({"im_file": "nowhere", "image": image}, rng())
    assert given["image"] is image


@pytest.mark.parametrize("channel_first", [True, False])
@pytest.mark.parametrize("is_scale", [True, False])
def test_normalisation_rounds_each_step_to_float32(channel_first, is_scale):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    expected = image.astype(np.float32)
    if is_scale:
        expected = expected / np.float32(255)
    expected -= np.array(mean)
    expected /= np.array(std)
    step = NormalizeImage(mean, std, is_scale, channel_first)
    for kind in (np.uint8, np.float32):
        given = image.astype(kind).transpose(2, 0, 1) if channel_first else image.astype(kind)
        out = step({"image": given}, rng())["image"]
        assert out.dtype == np.float32
        assert np.array_equal(out.transpose(1, 2, 0) if channel_first else out, expected)


def test_permute():
    image = np.arange(24).reshape(2, 4, 3)
    for to_bgr in (True, False):
        channels = image[..., ::-1] if to_bgr else image
        assert np.array_equal(Permute(to_bgr, False)({"image": image}, rng())["image"], channels)
        assert np.array_equal(Permute(to_bgr, True)({"image": image}, rng())["image"], channels.transpose(2, 0, 1))


def test_boxes_are_normalised_padded_and_centred():
    sample = NormalizeBox()(make_sample(), rng())
    assert sample["gt_bbox"].dtype == np.float32
    assert np.allclose(sample["gt_bbox"][0], [20 / 160, 12 / 120, 69 / 160, 41 / 120], atol=1e-7)
    padded = PadBox(5)(sample, rng())
    assert padded["gt_class"].tolist() == [0, 1, 2, 0, 0]
    assert padded["gt_score"].tolist() == [1, 1, 1, 0, 0]
    assert padded["is_difficult"].tolist() == [0, 1, 0, 0, 0]
    assert padded["gt_bbox"][3:].tolist() == [[0] * 4] * 2
    assert [padded[k].dtype.name for k in ("gt_bbox", "gt_class", "gt_score")] == ["float32", "int32", "float32"]
    assert np.array_equal(PadBox(2)(sample, rng())["gt_bbox"], sample["gt_bbox"][:2])
    centred = BboxXYXY2XYWH()(make_sample(), rng())["gt_bbox"][0]
    assert centred.tolist() == [44.5, 26.5, 49, 29]


def test_random_shape_gives_one_size_to_a_batch_and_scales_boxes_when_asked():
    batch = [make_sample(), make_sample() | {"image": np.zeros((60, 60, 3), np.uint8)}]
    seen = set()
    for seed in range(40):
        out = RandomShape((32, 64), random_inter=True)(batch, rng(seed))
        assert out[0]["image"].shape == out[1]["image"].shape
        assert out[0]["gt_bbox"] is batch[0]["gt_bbox"]
        seen.add(out[0]["image"].tobytes())
    assert len(seen) == 10  # two sizes, five interpolations
    out = RandomShape((80,), resize_box=True)(batch, rng())[0]
    for number, box in enumerate(out["gt_bbox"]):
        assert np.abs(np.array(found_box(out["image"], number)) - box).max() <= 1.5
    assert (
        RandomShape((40,))(batch, rng())[0]["image"].tobytes()
        == RandomShape((40,))(batch, rng(9))[0]["image"].tobytes()
    )


def test_pad_batch_pads_to_a_multiple():
    batch = [{"image": np.ones((3, 33, 10), np.float32)}, {"image": np.ones((3, 5, 70), np.float32)}]
    out = PadBatch(32)(batch, rng())
    assert [s["image"].shape for s in out] == [(3, 64, 96)] * 2
    assert [s["image"].sum() for s in out] == [3 * 330, 3 * 350]
    assert out[0]["image"][:, :33, :10].all()
    assert PadBatch()(batch, rng()) is batch


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("RandomFlip", {}, r"t\[0\]: transform 'RandomFlip' is not known; did you mean 'RandomFlipImage'"),
        ("RandomFlipImage", {"probability": 1.0}, r"t\[0\]: RandomFlipImage: argument 'probability'.*'prob'"),
        ("RandomFlipImage", {"prob": "0.5"}, "'prob' is '0.5'; float is wanted"),
        ("DecodeImage", {"to_rgb": 1}, "'to_rgb' is 1; bool is wanted"),
        ("DecodeImage", {"with_cutmix": True}, "with_cutmix: true is not supported"),
        ("RandomShape", {}, "argument 'sizes' is missing"),
        ("RandomShape", {"sizes": []}, "sizes is \\(\\)"),
        ("RandomShape", {"sizes": 320}, "argument 'sizes' is 320; list of int is wanted"),
        ("ResizeImage", {}, "target_size is 0"),
        ("ResizeImage", {"target_size": "a"}, "'target_size' is 'a'; int or list of int is wanted"),
        ("RandomCrop", {"aspect_ratio": [1]}, r"is \[1\]; list of 2 float or null is wanted"),
        ("ResizeImage", {"target_size": 32, "interp": 9}, "interp is 9"),
        ("ResizeImage", {"target_size": 32, "use_cv2": False}, "use_cv2: false is not supported"),
        ("RandomExpand", {"ratio": 1}, "ratio is 1.0"),
        ("RandomCrop", {"scaling": [0.5, 1.5]}, "scaling is"),
        ("ColorDistort", {"hsv_format": True}, "hsv_format: true is not supported"),
        ("ColorDistort", {"hue": [1, 0, 0.5]}, "hue is"),
        ("MixupImage", {"alpha": 0}, "must be positive"),
        ("NormalizeImage", {"std": [1, 0, 1]}, "without zeros"),
        ("PadBox", {"num_max_boxes": 0}, "at least 1"),
        (
            "Gt2YoloTarget",
            {"anchors": [[1, 2]], "anchor_masks": [[0]], "downsample_ratios": []},
            "1 anchor_masks but 0",
        ),
        ("Gt2YoloTarget", {"anchors": [[1, 2]], "anchor_masks": [[3]], "downsample_ratios": [8]}, "name anchor 3"),
    ],
)
def test_refuses_unknown_names_and_wrong_arguments(name, args, message):
    with pytest.raises(ConfigError, match=message):
        make_batch_transforms([(name, args)], "t")


def test_tables():
    assert make_transforms([("ResizeImage", {"target_size": [32, 64]})], "t") == (ResizeImage((32, 64)),)
    assert all(name == kind.__name__ for name, kind in TRANSFORMS.items())
    assert issubclass(TRANSFORMS["RandomShape"], BatchTransform)
    with pytest.raises(ConfigError, match=r"t\[1\]: RandomShape works on whole batches"):
        make_transforms([("PadBox", {}), ("RandomShape", {"sizes": [32]})], "t")
