"""The steps of a reader, under the names and argument names of PaddleDetection 0.4."""

from collections.abc import Iterable, Mapping
from typing import Any

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import pick
from slim_distill.data.transforms.base import BatchTransform, Sample, SampleTransform, create
from slim_distill.data.transforms.batch import Gt2YoloTarget, PadBatch, RandomShape, yolo_targets
from slim_distill.data.transforms.boxes import BboxXYXY2XYWH, NormalizeBox, PadBox
from slim_distill.data.transforms.geometry import (
    ExpandImage,
    RandomCrop,
    RandomExpand,
    RandomFlipImage,
    RandomInterpImage,
    ResizeImage,
)
from slim_distill.data.transforms.image import (
    ColorDistort,
    DecodeImage,
    MixupImage,
    NormalizeImage,
    Permute,
    mixup,
)

__all__ = [
    "TRANSFORMS",
    "BatchTransform",
    "BboxXYXY2XYWH",
    "ColorDistort",
    "DecodeImage",
    "ExpandImage",
    "Gt2YoloTarget",
    "MixupImage",
    "NormalizeBox",
    "NormalizeImage",
    "PadBatch",
    "PadBox",
    "Permute",
    "RandomCrop",
    "RandomExpand",
    "RandomFlipImage",
    "RandomInterpImage",
    "RandomShape",
    "ResizeImage",
    "Sample",
    "SampleTransform",
    "make_batch_transforms",
    "make_transforms",
    "mixup",
    "yolo_targets",
]

TRANSFORMS: dict[str, type[SampleTransform] | type[BatchTransform]] = {
    "BboxXYXY2XYWH": BboxXYXY2XYWH,
    "ColorDistort": ColorDistort,
    "DecodeImage": DecodeImage,
    "ExpandImage": ExpandImage,
    "Gt2YoloTarget": Gt2YoloTarget,
    "MixupImage": MixupImage,
    "NormalizeBox": NormalizeBox,
    "NormalizeImage": NormalizeImage,
    "PadBatch": PadBatch,
    "PadBox": PadBox,
    "Permute": Permute,
    "RandomCrop": RandomCrop,
    "RandomExpand": RandomExpand,
    "RandomFlipImage": RandomFlipImage,
    "RandomInterpImage": RandomInterpImage,
    "RandomShape": RandomShape,
    "ResizeImage": ResizeImage,
}


def make_transforms(steps: Iterable[tuple[str, Mapping[str, Any]]], path: str) -> tuple[SampleTransform, ...]:
    """Build the steps of a sample from (name, arguments) pairs; `path` is their place in the configuration.

    Raises:
        ConfigError: unknown name or argument, wrong value, or a step that works on batches only.
    """
    made = []
    for i, (name, args) in enumerate(steps):
        step = _make(name, args, f"{path}[{i}]")
        if isinstance(step, BatchTransform):
            raise ConfigError(f"{path}[{i}]: {name} works on whole batches; move it to batch_transforms")
        made.append(step)
    return tuple(made)


def make_batch_transforms(
    steps: Iterable[tuple[str, Mapping[str, Any]]], path: str
) -> tuple[SampleTransform | BatchTransform, ...]:
    """Build the steps of a batch; those of a sample are allowed too and are applied to each.

    Raises:
        ConfigError: unknown name or argument, wrong value.
    """
    return tuple(_make(name, args, f"{path}[{i}]") for i, (name, args) in enumerate(steps))


def _make(name: str, args: Mapping[str, Any], path: str) -> SampleTransform | BatchTransform:
    kind = pick(TRANSFORMS, name, f"{path}: transform", ConfigError)
    try:
        return create(kind, args)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {name}: {error}") from error
