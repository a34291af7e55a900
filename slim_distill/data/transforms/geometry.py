"""Steps that move pixels, and the boxes with them: flip, expand, crop, resize."""

from dataclasses import dataclass

import cv2
import numpy as np

from slim_distill.data.image import resize
from slim_distill.data.transforms.base import Sample, SampleTransform

__all__ = [
    "INTERPOLATIONS",
    "ExpandImage",
    "RandomCrop",
    "RandomExpand",
    "RandomFlipImage",
    "RandomInterpImage",
    "ResizeImage",
]

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)

_PER_BOX = ("gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult")


@dataclass(frozen=True)
class RandomFlipImage(SampleTransform):
    """Mirror left and right with probability `prob`.

    Boxes in pixels become x1' = w - 1 - x2, x2' = w - 1 - x1; normalised ones (`is_normalized`) 1 - x2, 1 - x1.
    `is_mask_flip` is not supported and must be false: there are no masks.
    """

    prob: float = 0.5
    is_normalized: bool = False
    is_mask_flip: bool = False

    def __post_init__(self) -> None:
        if self.is_mask_flip:
            raise ValueError("is_mask_flip: true is not supported; there are no masks")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.uniform() >= self.prob:
            return sample
        edge = 1 if self.is_normalized else sample["image"].shape[1] - 1
        box = sample["gt_bbox"].copy()
        box[:, 0], box[:, 2] = edge - sample["gt_bbox"][:, 2], edge - sample["gt_bbox"][:, 0]
        return {**sample, "image": cv2.flip(sample["image"], 1), "gt_bbox": box}


@dataclass(frozen=True)
class RandomExpand(SampleTransform):
    """Put the image somewhere on a canvas 1 to `ratio` times as large.

    Args:
        ratio: largest canvas size in image sizes, above 1.01.
        prob: probability of NOT expanding: the published code compares the wrong way round (its default is 0.5).
        fill_value: colour of the canvas, cut to whole numbers: one number or three.
        is_mask_expand: not supported, must be false.
    """

    ratio: float = 4.0
    prob: float = 0.5
    fill_value: float | tuple[float, ...] = (127.5, 127.5, 127.5)
    is_mask_expand: bool = False

    def __post_init__(self) -> None:
        if self.ratio <= 1.01:
            raise ValueError(f"ratio is {self.ratio}; it must be above 1.01")
        if self.is_mask_expand:
            raise ValueError("is_mask_expand: true is not supported; there are no masks")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.uniform() < self.prob:
            return sample
        image = sample["image"]
        height, width = image.shape[:2]
        factor = rng.uniform(1.0, self.ratio)
        h, w = int(height * factor), int(width * factor)
        if h <= height or w <= width:
            return sample
        y, x = int(rng.integers(h - height)), int(rng.integers(w - width))
        if image.dtype != np.uint8:
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        fill = np.broadcast_to(np.asarray(self.fill_value), (3,)).astype(np.uint8).tolist()
        canvas = _on_canvas(image, y, x, h, w, fill)
        box = sample["gt_bbox"] + np.array([x, y, x, y], np.float32)
        return {**sample, "image": canvas, "gt_bbox": box, "h": h, "w": w}


@dataclass(frozen=True)
class ExpandImage(SampleTransform):
    """Put the image somewhere on a canvas 1 to `max_ratio` times as large; boxes are normalised (after NormalizeBox).

    Args:
        max_ratio: largest canvas size in image sizes.
        prob: probability of expanding (unlike RandomExpand's).
        mean: colour of the canvas, three numbers, cut to whole ones.
    """

    max_ratio: float
    prob: float = 0.5
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if self.max_ratio < 1.01 or rng.uniform() >= self.prob:
            return sample
        image = sample["image"]
        height, width = image.shape[:2]
        factor = rng.uniform(1.0, self.max_ratio)
        h, w = int(height * factor), int(width * factor)
        y, x = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
        fill = np.asarray(self.mean).astype(np.uint8).tolist()
        box = sample["gt_bbox"] * np.array([width, height, width, height], np.float32)
        box = (box + np.array([x, y, x, y], np.float32)) / np.array([w, h, w, h], np.float32)
        return {**sample, "image": _on_canvas(image, y, x, h, w, fill), "gt_bbox": box, "h": h, "w": w}


def _on_canvas(image: np.ndarray, y: int, x: int, h: int, w: int, fill: list[int]) -> np.ndarray:
    """`image` at (y, x) of an h x w picture of colour `fill`."""
    bottom, right = h - image.shape[0] - y, w - image.shape[1] - x
    return cv2.copyMakeBorder(image, y, bottom, x, right, cv2.BORDER_CONSTANT | cv2.BORDER_ISOLATED, value=fill)


@dataclass(frozen=True)
class RandomCrop(SampleTransform):
    """Cut out a random region that overlaps an object enough; keep the objects whose centre lies in it.

    A threshold is drawn from `thresholds` (plus, with `allow_no_crop`, "leave it"); up to `num_attempts` regions are
    tried until the best overlap (IoU) with an object reaches it and an object's centre is inside; else the next
    threshold is tried.

    Args:
        aspect_ratio: smallest and largest width / height of the region relative to the image's; None for free sides,
            whose height / width must be 0.5 to 2 then.
        thresholds: IoUs to choose from.
        scaling: smallest and largest size of the region, as a share of the image's.
        num_attempts: regions tried for each threshold.
        allow_no_crop: sometimes return the sample as it is.
        cover_all_box: every object must reach the threshold, not just one.
        is_mask_crop: not supported, must be false.
    """

    aspect_ratio: tuple[float, float] | None = (0.5, 2.0)
    thresholds: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    scaling: tuple[float, float] = (0.3, 1.0)
    num_attempts: int = 50
    allow_no_crop: bool = True
    cover_all_box: bool = False
    is_mask_crop: bool = False

    def __post_init__(self) -> None:
        if self.is_mask_crop:
            raise ValueError("is_mask_crop: true is not supported; there are no masks")
        if not 0 < self.scaling[0] <= self.scaling[1] <= 1:
            raise ValueError(f"scaling is {self.scaling}; [smallest, largest] within 0 to 1 is wanted")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        box = sample["gt_bbox"]
        if not len(box):
            return sample
        thresholds: list[float | None] = [*self.thresholds, *([None] if self.allow_no_crop else [])]
        centre = (box[:, :2] + box[:, 2:]) / 2
        for i in rng.permutation(len(thresholds)):
            threshold = thresholds[i]
            if threshold is None:
                return sample
            regions = self._regions(sample["image"].shape, rng)
            corner = regions[:, None].astype(np.float32)  # [attempts, 1, 4] against boxes [n, 4]
            top_left = np.maximum(box[:, :2], corner[..., :2])
            bottom_right = np.minimum(box[:, 2:], corner[..., 2:])
            size = np.clip(bottom_right - top_left, 0, None)
            iou = _iou(size, box, corner)
            good = iou.max(axis=1) >= threshold
            if self.cover_all_box:
                good &= iou.min(axis=1) >= threshold
            inside = ((corner[..., :2] <= centre) & (centre < corner[..., 2:]) & (size > 0)).all(axis=2)
            good &= inside.any(axis=1)
            if good.any():
                k = int(good.argmax())
                moved = np.hstack((top_left[k], bottom_right[k])) - np.tile(corner[k, :, :2], 2)
                return _cut_out(sample, regions[k].tolist(), moved, inside[k])
        return sample

    def _regions(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Draw `num_attempts` regions [num, 4], x1, y1, x2, y2 in whole pixels."""
        size = np.array(shape[:2], np.float64)
        scale = rng.uniform(*self.scaling, size=(self.num_attempts, 2))
        if self.aspect_ratio is not None:
            scale = scale[:, :1]
            low = np.maximum(self.aspect_ratio[0], scale**2)
            root = np.sqrt(rng.uniform(low, np.minimum(self.aspect_ratio[1], scale**-2)))
            crop = size * np.hstack((scale / root, scale * root))
        else:
            crop = size * scale
            ratio = crop[:, 0] / crop[:, 1]
            crop = crop[(ratio >= 0.5) & (ratio <= 2.0)]
        crop = np.maximum(1, crop.astype(int))
        corner = rng.integers(np.maximum(1, size.astype(int) - crop))
        return np.hstack((corner[:, ::-1], (corner + crop)[:, ::-1]))


def _iou(overlap: np.ndarray, box: np.ndarray, region: np.ndarray) -> np.ndarray:
    """IoU [a, n] from widths and heights of the overlaps [a, n, 2]; boxes [n, 4], regions [a, 1, 4]; no extra pixel."""
    shared = overlap.prod(axis=2)
    areas = np.prod(box[:, 2:] - box[:, :2], axis=1) + np.prod(region[..., 2:] - region[..., :2], axis=2)
    return shared / (areas - shared + 1e-10)


def _cut_out(sample: Sample, region: list[int], boxes: np.ndarray, kept: np.ndarray) -> Sample:
    x1, y1, x2, y2 = region
    out = {**sample, "image": sample["image"][y1:y2, x1:x2], "h": y2 - y1, "w": x2 - x1}
    out.update({key: sample[key][kept] for key in _PER_BOX if key in sample})
    out["gt_bbox"] = boxes[kept]
    return out


@dataclass(frozen=True)
class ResizeImage(SampleTransform):
    """Resize to `target_size` x `target_size` pixels; boxes stay as they are, in pixels of the original.

    With `max_size` > 0 the aspect ratio stays instead: the short side becomes `target_size`, unless the long one would
    exceed `max_size`. Several target sizes mean a random choice. `interp` is OpenCV's number: 0 nearest, 1 linear,
    2 cubic, 3 area, 4 Lanczos. `use_cv2: false` (PIL) is not supported.
    """

    target_size: int | tuple[int, ...] = 0
    max_size: int = 0
    interp: int = cv2.INTER_LINEAR
    use_cv2: bool = True

    def __post_init__(self) -> None:
        if not self.use_cv2:
            raise ValueError("use_cv2: false is not supported; images are resized with OpenCV")
        if np.min(self.target_size) < 1:
            raise ValueError(f"target_size is {self.target_size!r}; a number of pixels or a list of them is wanted")
        if self.interp not in INTERPOLATIONS:
            raise ValueError(f"interp is {self.interp}; 0 nearest, 1 linear, 2 cubic, 3 area or 4 Lanczos is wanted")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample["image"]
        size = int(rng.choice(self.target_size)) if isinstance(self.target_size, tuple) else self.target_size
        height = width = size
        if self.max_size > 0:
            short, long = sorted(image.shape[:2])
            scale = size / short if round(size / short * long) <= self.max_size else self.max_size / long
            height, width = (round(side * scale) for side in image.shape[:2])
        return {**sample, "image": resize(image, width, height, self.interp)}


@dataclass(frozen=True)
class RandomInterpImage(SampleTransform):
    """ResizeImage with an interpolation drawn anew for every sample."""

    target_size: int = 0
    max_size: int = 0

    def __post_init__(self) -> None:
        ResizeImage(self.target_size, self.max_size)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return ResizeImage(self.target_size, self.max_size, int(rng.choice(INTERPOLATIONS)))(sample, rng)
