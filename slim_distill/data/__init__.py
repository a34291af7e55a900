"""Data sets, transforms and the loader: from files on disk to dicts of numpy arrays. NumPy and OpenCV only."""

from slim_distill.data.build import build_dataset, build_loader
from slim_distill.data.coco import load_coco
from slim_distill.data.dataset import Dataset
from slim_distill.data.image import ImageError, read_image
from slim_distill.data.images import load_images
from slim_distill.data.labels import COCO_CATEGORY_IDS, COCO_CLASSES, VOC_CLASSES
from slim_distill.data.loader import Loader
from slim_distill.data.transforms import TRANSFORMS
from slim_distill.data.voc import load_voc

__all__ = [
    "COCO_CATEGORY_IDS",
    "COCO_CLASSES",
    "TRANSFORMS",
    "VOC_CLASSES",
    "Dataset",
    "ImageError",
    "Loader",
    "build_dataset",
    "build_loader",
    "load_coco",
    "load_images",
    "load_voc",
    "read_image",
]
