"""The readers of a PaddleDetection 0.4 file: data sets and transforms."""

from collections.abc import Mapping
from typing import Any

from slim_distill.common.names import nearest
from slim_distill.config._place import Place, show
from slim_distill.config._yaml import Tagged
from slim_distill.config.convert import convert
from slim_distill.config.dialects._keys import TRANSFORMS
from slim_distill.config.dialects._section import Section, open_section
from slim_distill.config.schema import DataConfig, DatasetConfig, ReaderConfig, TransformConfig

__all__ = ["translate_readers"]

TARGETS = "Gt2YoloTarget"
FIELDS = (
    "image",
    "im_size",
    "im_id",
    "gt_bbox",
    "gt_class",
    "gt_score",
    "is_difficult",
    "target0",
    "target1",
    "target2",
)
VOC_CLASSES = 20
COCO_CLASSES = 80


def translate_readers(
    top: Mapping[str, Any], root: Place, num_classes: int, fine_grained: bool, voc: bool
) -> DataConfig:
    """Translate TrainReader, EvalReader and TestReader.

    As in release 0.4, the top-level `use_fine_grained_loss` decides about the reader too: with it `Gt2YoloTarget` stays
    among the batch transforms and gets the number of classes, without it the transform is taken out.

    Args:
        top: the top level of the file.
        root: its place.
        num_classes: number of classes.
        fine_grained: the top-level `use_fine_grained_loss`.
        voc: whether the metric is VOC's; it decides which class names are the default.

    Raises:
        ConfigError: a reader, data set, transform or key that is not supported, or a missing `Gt2YoloTarget`.
    """

    def translate(name: str) -> ReaderConfig:
        if name not in top and name != "TrainReader":
            return ReaderConfig()
        if name not in top:
            root.at(name).fail("is missing; write it, or include a file that has it by _READER_")
        section = open_section("Reader", top[name], root.at(name), top, root)
        return _translate_reader(section, num_classes, fine_grained, voc)

    data = DataConfig(train=translate("TrainReader"), eval=translate("EvalReader"), test=translate("TestReader"))
    if fine_grained and not any(transform.type == TARGETS for transform in data.train.batch_transforms):
        root.at("TrainReader", "batch_transforms").fail(
            f"has no !{TARGETS}, which use_fine_grained_loss needs; see configs/yolov3_reader.yml"
        )
    return data


def _translate_reader(section: Section, num_classes: int, fine_grained: bool, voc: bool) -> ReaderConfig:
    _check_inputs(section)
    batch_transforms = _translate_transforms(section, "batch_transforms")
    if fine_grained:
        batch_transforms = [
            TransformConfig(t.type, {**t.args, "num_classes": num_classes}) if t.type == TARGETS else t
            for t in batch_transforms
        ]
    else:
        batch_transforms = [t for t in batch_transforms if t.type != TARGETS]
    dataset = _translate_dataset(section, num_classes, voc)
    return ReaderConfig(
        dataset=dataset,
        transforms=tuple(_translate_transforms(section, "sample_transforms")),
        batch_transforms=tuple(batch_transforms),
        batch_size=section.get("batch_size", int),
        shuffle=section.get("shuffle", bool),
        drop_last=section.get("drop_last", bool),
        # PaddleDetection drops only what could have boxes.
        drop_empty=section.get("drop_empty", bool) and dataset.format != "images",
        workers=max(section.get("worker_num", int), 0),  # -1 is PaddleDetection's "no workers"
        mixup_epochs=section.get("mixup_epoch", int),
    )


def _check_inputs(section: Section) -> None:
    """The inputs of the program are fixed here; refuse a file that counts on others."""
    value, place = section.raw("inputs_def")
    inputs = open_section("inputs_def", value, place, section.top, section.root)
    for i, name in enumerate(inputs.get("fields", tuple[str, ...])):
        if name not in FIELDS:
            place.at("fields", i).fail(f"{name!r} is not an input of YOLOv3; known: {', '.join(FIELDS)}")
    shape = inputs.get("image_shape", tuple[int | None, ...])
    if len(shape) != 3 or shape[0] != 3:
        place.at("image_shape").fail(f"must be [3, height, width], found {show(list(shape))}")


def _translate_transforms(section: Section, key: str) -> list[TransformConfig]:
    value, place = section.raw(key)
    if value is None:
        return []
    if not isinstance(value, list):
        place.fail(f"must be a list of !Transform nodes, found {show(value)}")
    return [_translate_transform(node, place.at(i)) for i, node in enumerate(value)]


def _translate_transform(node: Any, place: Place) -> TransformConfig:
    if not isinstance(node, Tagged):
        place.fail(f"must be a node such as !DecodeImage {{to_rgb: true}}, found {show(node)}")
    if node.tag not in TRANSFORMS:
        near = nearest(node.tag, TRANSFORMS)
        hint = f" (did you mean !{near[0]}?)" if near else ""
        place.fail(f"!{node.tag} is not supported{hint}; supported: {', '.join(sorted(TRANSFORMS))}")
    return convert(TransformConfig, {"type": node.tag, **node.fields}, place)


def _translate_dataset(section: Section, num_classes: int, voc: bool) -> DatasetConfig:
    kinds = {"VOCDataSet": _translate_voc, "COCODataSet": _translate_coco, "ImageFolder": _translate_images}
    dataset = section.component("dataset", list(kinds))
    if dataset is None:
        section.place.at("dataset").fail(f"is null; it must be one of {', '.join('!' + kind for kind in kinds)}")
    return kinds[dataset.kind](dataset, num_classes, voc)


def _path(section: Section, key: str) -> str:
    return section.get(key, str | None) or ""


def _translate_voc(section: Section, num_classes: int, voc: bool) -> DatasetConfig:
    default_label = section.get("use_default_label", bool | None)
    if default_label is None:
        # The default changed between releases; a number of classes other than VOC's leaves only one possibility.
        default_label = num_classes == VOC_CLASSES
    return DatasetConfig(
        format="voc",
        root=_path(section, "dataset_dir"),
        annotations=section.get("anno_path", str),
        images=_path(section, "image_dir"),
        labels="voc" if default_label else section.get("label_list", str),
        sample_num=section.get("sample_num", int),
    )


def _translate_coco(section: Section, num_classes: int, voc: bool) -> DatasetConfig:
    return DatasetConfig(
        format="coco",
        root=_path(section, "dataset_dir"),
        annotations=section.get("anno_path", str),
        images=_path(section, "image_dir"),
        sample_num=section.get("sample_num", int),
    )


def _translate_images(section: Section, num_classes: int, voc: bool) -> DatasetConfig:
    anno = _path(section, "anno_path")
    built_in = section.get("use_default_label", bool) or not anno
    # Without annotations at hand, which is usual for inference, release 0.4 names the classes of COCO itself.
    standard_coco = not voc and num_classes == COCO_CLASSES and anno.rpartition("/")[2].startswith("instances_")
    if voc:
        labels, annotations = ("voc", "") if built_in else (anno, "")
    else:
        labels, annotations = ("coco", "") if built_in or standard_coco else ("", anno)
    return DatasetConfig(
        format="images",
        root=_path(section, "dataset_dir"),
        annotations=annotations,
        images=_path(section, "image_dir"),
        labels=labels,
        sample_num=section.get("sample_num", int),
    )
