"""From the configuration to data sets and loaders."""

from collections.abc import Callable
from dataclasses import replace

from slim_distill.common.errors import ConfigError, DataError
from slim_distill.common.names import pick
from slim_distill.config.schema import DatasetConfig, ReaderConfig, TransformConfig
from slim_distill.data.batches import WHOLE, Split
from slim_distill.data.coco import load_coco
from slim_distill.data.dataset import Dataset
from slim_distill.data.images import load_images
from slim_distill.data.loader import Loader
from slim_distill.data.transforms import Gt2YoloTarget, make_batch_transforms, make_transforms
from slim_distill.data.voc import load_voc

__all__ = ["build_dataset", "build_loader"]


def build_dataset(cfg: DatasetConfig, *, path: str = "dataset") -> Dataset:
    """Read the data set that `cfg` describes; `path` is its place in the configuration, for messages.

    Raises:
        ConfigError: unknown format.
        DataError: it is missing, broken or empty.
    """
    readers: dict[str, Callable[..., Dataset]] = {"voc": load_voc, "coco": load_coco, "images": load_images}
    read = pick(readers, cfg.format, f"{path}.format: data set format", ConfigError)
    where = (cfg.root,) if cfg.format == "images" else (cfg.root, cfg.annotations)
    return read(
        *where,
        images=cfg.images,
        labels=cfg.labels,
        classes=cfg.classes,
        sample_num=cfg.sample_num,
        max_bad_share=cfg.max_bad_share,
    )


def build_loader(
    reader: ReaderConfig,
    *,
    seed: int,
    train: bool,
    workers: int | None = None,
    path: str = "reader",
    split: Split = WHOLE,
) -> Loader:
    """Build the loader that `reader` describes.

    Args:
        reader: data set, steps, batches.
        seed: seeds order and augmentation.
        train: endless batches, or one pass.
        workers: processes instead of `reader.workers`.
        path: place of `reader` in the configuration, for messages.
        split: which part of every batch is wanted.

    Raises:
        ConfigError: unknown transform or argument; targets made for another number of classes than the data set has.
        DataError: the data set is missing, broken or empty.
    """
    transforms = make_transforms(_pairs(reader.transforms), f"{path}.transforms")
    batch_transforms = make_batch_transforms(_pairs(reader.batch_transforms), f"{path}.batch_transforms")
    dataset = build_dataset(reader.dataset, path=f"{path}.dataset")
    if reader.drop_empty:
        dataset = _without_empty(dataset)
    for i, step in enumerate(batch_transforms):
        if isinstance(step, Gt2YoloTarget) and step.num_classes != len(dataset.classes):
            raise ConfigError(
                f"{path}.batch_transforms[{i}].num_classes: is {step.num_classes}, but {dataset.source} has "
                f"{len(dataset.classes)} classes"
            )
    return Loader(
        dataset,
        transforms,
        batch_transforms,
        batch_size=reader.batch_size,
        shuffle=reader.shuffle,
        drop_last=reader.drop_last,
        seed=seed,
        train=train,
        workers=reader.workers if workers is None else workers,
        mixup_epochs=reader.mixup_epochs,
        split=split,
    )


def _without_empty(dataset: Dataset) -> Dataset:
    kept = [record for record in dataset.records if len(record["gt_bbox"])]
    if not kept:
        raise DataError(f"{dataset.source}: none of its {len(dataset.records)} images has a box (drop_empty is on)")
    return replace(dataset, records=kept)


def _pairs(steps: tuple[TransformConfig, ...]) -> list[tuple[str, dict[str, object]]]:
    return [(step.type, dict(step.args)) for step in steps]
