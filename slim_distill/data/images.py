"""Images without annotations, for inference: a folder of them, or one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slim_distill.data.dataset import Dataset, make_dataset, missing
from slim_distill.data.image import IMAGE_SUFFIXES
from slim_distill.data.labels import read_labels

__all__ = ["load_images"]


def load_images(
    root: str | Path,
    images: str = "",
    *,
    labels: str = "",
    classes: Sequence[str] = (),
    sample_num: int = -1,
    max_bad_share: float = 0.1,
) -> Dataset:
    """List `root`/`images`: one image file, or a folder's .jpg, .jpeg, .png and .bmp files in order of their names.

    The records hold im_id (counted from 0) and im_file only; sizes are known once the images are decoded.

    Raises:
        DataError: no such file or folder, or no image in it.
    """
    root = Path(root)
    path = root / images
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    elif path.is_file():
        files = [path]
    else:
        raise missing(path, "image or folder", "an image file or a folder of images is expected there")
    names = read_labels(labels, classes, root)
    records = [
        {"im_id": np.array([i], np.int64), "im_file": str(file)}
        for i, file in enumerate(files[: sample_num if sample_num >= 0 else None])
    ]
    category_ids = tuple(range(1, len(names) + 1))
    return make_dataset(Dataset(names, records, category_ids, path, max_bad_share=max_bad_share))
