"""Steps on pixel values: decoding, mixing, colours, normalisation, channel order."""

from dataclasses import dataclass

import cv2
import numpy as np

from slim_distill.data.image import read_image
from slim_distill.data.transforms.base import Sample, SampleTransform

__all__ = ["ColorDistort", "DecodeImage", "MixupImage", "NormalizeImage", "Permute", "mixup"]

_GRAY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.array([[1.0, 0.956, 0.621], [1.0, -0.272, -0.647], [1.0, -1.107, 1.705]])


@dataclass(frozen=True)
class DecodeImage(SampleTransform):
    """Read `im_file` into `image`, uint8 [H, W, 3], unless the sample already holds an image; set h, w and im_size.

    Args:
        to_rgb: RGB (or else BGR) order of channels.
        with_mixup: also read the image of the mixup partner.
        with_cutmix: not supported, must be false.
    """

    to_rgb: bool = True
    with_mixup: bool = False
    with_cutmix: bool = False

    def __post_init__(self) -> None:
        if self.with_cutmix:
            raise ValueError("with_cutmix: true is not supported; remove it, or mix images with MixupImage")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample.get("image")
        if image is None:
            image = read_image(sample["im_file"])
            if not self.to_rgb:
                image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        h, w = image.shape[:2]
        out = {**sample, "image": image, "h": h, "w": w, "im_size": np.array([h, w], np.int32)}
        if self.with_mixup and "mixup" in sample:
            out["mixup"] = self(sample["mixup"], rng)
        return out


@dataclass(frozen=True)
class MixupImage(SampleTransform):
    """Blend the sample with its partner (`sample["mixup"]`, put there by the loader), by a Beta(alpha, beta) factor."""

    alpha: float = 1.5
    beta: float = 1.5

    def __post_init__(self) -> None:
        if self.alpha <= 0 or self.beta <= 0:
            raise ValueError(f"alpha {self.alpha} and beta {self.beta} must be positive")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if "mixup" not in sample:
            return sample
        own = {k: v for k, v in sample.items() if k != "mixup"}
        return mixup(own, sample["mixup"], float(rng.beta(self.alpha, self.beta)))


def mixup(sample: Sample, partner: Sample, factor: float) -> Sample:
    """Return factor * sample + (1 - factor) * partner, on a canvas that holds both, with the objects of both.

    Pixel values are cut to whole numbers as published. Scores of the objects are multiplied by their image's factor.
    A factor of 0 or 1 returns one of the two unchanged.
    """
    if factor >= 1:
        return sample
    if factor <= 0:
        return partner
    a, b = sample["image"], partner["image"]
    h, w = max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1])
    canvas = np.zeros((h, w, a.shape[2]), np.float32)
    canvas[: a.shape[0], : a.shape[1]] = a.astype(np.float32) * factor
    canvas[: b.shape[0], : b.shape[1]] += b.astype(np.float32) * (1.0 - factor)
    joined = {k: np.concatenate((sample[k], partner[k])) for k in ("gt_bbox", "gt_class", "is_crowd", "difficult")}
    score = np.concatenate((sample["gt_score"] * factor, partner["gt_score"] * (1.0 - factor)))
    return {**sample, **joined, "gt_score": score, "image": canvas.astype(np.uint8), "h": h, "w": w}


@dataclass(frozen=True)
class ColorDistort(SampleTransform):
    """Change brightness, contrast, saturation and hue by random amounts.

    Each is (lowest, highest, probability of NOT being applied): the published code compares the wrong way round, which
    makes no difference at its default of 0.5. The hue angle is the amount times pi radians, as published.

    All four are affine in RGB, so they are composed into one 3x4 matrix and applied once.

    Args:
        random_apply: shuffle the four (YOLO); or else brightness first and contrast before or after the rest (SSD).
        hsv_format: not supported, must be false.
        random_channel: with random_apply false, shuffle the channels of every second image.
        clip: round and clip to uint8. The published code does neither and goes on with float images of -380 to 744,
            which its RandomExpand then wraps around at 256; false keeps the float32 image.
    """

    hue: tuple[float, float, float] = (-18.0, 18.0, 0.5)
    saturation: tuple[float, float, float] = (0.5, 1.5, 0.5)
    contrast: tuple[float, float, float] = (0.5, 1.5, 0.5)
    brightness: tuple[float, float, float] = (0.5, 1.5, 0.5)
    random_apply: bool = True
    hsv_format: bool = False
    random_channel: bool = False
    clip: bool = True

    def __post_init__(self) -> None:
        if self.hsv_format:
            raise ValueError("hsv_format: true is not supported; hue and saturation are changed in YIQ")
        for name in ("hue", "saturation", "contrast", "brightness"):
            value = getattr(self, name)
            if value[0] > value[1]:
                raise ValueError(f"{name} is {value!r}; [lowest, highest, probability] is wanted")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        matrix = np.eye(3, 4)
        for name in self._order(rng):
            low, high, keep = getattr(self, name)
            if rng.uniform() >= keep:
                step = _STEPS[name](rng.uniform(low, high))
                matrix = step[:, :3] @ matrix
                matrix[:, 3] += step[:, 3]
        if self.random_channel and not self.random_apply and rng.integers(2):
            matrix = matrix[rng.permutation(3)]
        if np.array_equal(matrix, np.eye(3, 4)):
            return sample
        return {**sample, "image": _apply_colour(sample["image"], matrix, self.clip)}

    def _order(self, rng: np.random.Generator) -> list[str]:
        names = ["brightness", "contrast", "saturation", "hue"]
        if self.random_apply:
            return [names[i] for i in rng.permutation(4)]
        return names if rng.integers(2) else ["brightness", "saturation", "hue", "contrast"]


def _brightness(amount: float) -> np.ndarray:
    return np.hstack((np.eye(3), np.full((3, 1), amount)))


def _contrast(amount: float) -> np.ndarray:
    return amount * np.eye(3, 4)


def _saturation(amount: float) -> np.ndarray:
    return np.hstack((amount * np.eye(3) + (1.0 - amount) * np.tile(_GRAY, (3, 1)), np.zeros((3, 1))))


def _hue(amount: float) -> np.ndarray:
    c, s = np.cos(amount * np.pi), np.sin(amount * np.pi)
    turn = np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    return np.hstack((_FROM_YIQ @ turn @ _TO_YIQ, np.zeros((3, 1))))


_STEPS = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}


def _apply_colour(image: np.ndarray, matrix: np.ndarray, clip: bool) -> np.ndarray:
    if clip and image.dtype == np.uint8:
        return cv2.transform(image, matrix)  # rounds and saturates
    out = cv2.transform(image.astype(np.float32), matrix)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8) if clip else out


@dataclass(frozen=True)
class NormalizeImage(SampleTransform):
    """Scale to [0, 1] (`is_scale`), subtract `mean`, divide by `std`; the result is float32.

    Each of the three operations is rounded to float32, as numpy did it with float64 constants in the published reader.
    `is_channel_first` says whether the image is [C, H, W].
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    is_scale: bool = True
    is_channel_first: bool = True

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise ValueError(f"mean {self.mean} and std {self.std}: one number a channel each, std without zeros")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample["image"]
        if image.dtype == np.uint8 and not self.is_channel_first:
            # A byte has 256 values, so the arithmetic is done on those and looked up.
            levels = np.repeat(np.arange(256, dtype=np.float32)[None, :, None], len(self.mean), axis=2)
            return {**sample, "image": cv2.LUT(image, self._normalize(levels))}
        return {**sample, "image": self._normalize(image.astype(np.float32))}

    def _normalize(self, image: np.ndarray) -> np.ndarray:
        shape = (-1, 1, 1) if self.is_channel_first else (1, 1, -1)
        if self.is_scale:
            image = image / np.float32(255.0)
        image = (image - np.reshape(np.asarray(self.mean, np.float64), shape)).astype(np.float32)
        return (image / np.reshape(np.asarray(self.std, np.float64), shape)).astype(np.float32)


@dataclass(frozen=True)
class Permute(SampleTransform):
    """Reverse the order of channels (`to_bgr`) and make [H, W, C] into [C, H, W] (`channel_first`)."""

    to_bgr: bool = True
    channel_first: bool = True

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample["image"]
        if self.channel_first:
            image = image.transpose(2, 0, 1)  # a view: stacking the batch copies it anyway
            return {**sample, "image": image[::-1] if self.to_bgr else image}
        return {**sample, "image": image[..., ::-1] if self.to_bgr else image}
