"""Class names: the built-in lists of PASCAL VOC and COCO, and label files."""

from collections.abc import Sequence
from pathlib import Path

from slim_distill.common.errors import DataError
from slim_distill.common.names import nearest
from slim_distill.data.dataset import read_lines

__all__ = ["COCO_CATEGORY_IDS", "COCO_CLASSES", "VOC_CLASSES", "class_number", "read_labels"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip

# The category ids of instances_*2017.json: 1 to 90 with ten gaps.
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


def read_labels(labels: str, classes: Sequence[str], root: Path) -> tuple[str, ...]:
    """Return the class names in order of their numbers, or () when neither `labels` nor `classes` says any.

    Args:
        labels: "voc" or "coco" for the built-in lists, or a file with one class a line, relative to `root`.
        classes: the names themselves; exclusive with `labels`.
        root: folder of the data set.

    Raises:
        DataError: both are given, the file is missing or empty, or a name occurs twice.
    """
    if labels and classes:
        raise DataError(
            f"dataset.labels {labels!r} and dataset.classes {list(classes)} are both given; give one of them"
        )
    if labels == "voc":
        return VOC_CLASSES
    if labels == "coco":
        return COCO_CLASSES
    names = _read_lines(root / labels) if labels else tuple(str(c) for c in classes)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"{root / labels if labels else 'dataset.classes'}: class {twice[0]!r} occurs more than once")
    return names


def class_number(name: str, numbers: dict[str, int], where: object) -> int:
    """Return the number of class `name`; `where` is the file that asks.

    Raises:
        DataError: the class is unknown; the message shows the nearest known names.
    """
    if name in numbers:
        return numbers[name]
    near = nearest(name, numbers) or list(numbers)[:5]
    raise DataError(
        f"{where}: class {name!r} is not among the {len(numbers)} classes of the data set; nearest: {', '.join(near)}; "
        "correct the annotation, or dataset.labels / dataset.classes of the configuration"
    )


def _read_lines(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise DataError(f"{path}: no such label file; dataset.labels is 'voc', 'coco' or a file with one class a line")
    names = tuple(read_lines(path))
    if not names:
        raise DataError(f"{path}: the label file is empty; one class a line is wanted")
    return names
