"""A tiny data set in VOC layout: every image shows one bright rectangle of known place and colour."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

CLASSES = ("red", "green", "blue")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def xml(objects: list[tuple[str, float, float, float, float]], w: int = 64, h: int = 48, extra: str = "") -> str:
    """A VOC annotation of (class, x1, y1, x2, y2) objects."""
    body = "".join(
        f"<object><name>{name}</name><difficult>{i % 2}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for i, (name, x1, y1, x2, y2) in enumerate(objects)
    )
    return f"{extra}<annotation><size><width>{w}</width><height>{h}</height></size>{body}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set of `count` PNG images of 64x48 pixels, one object each, and return its folder."""

    def write(count: int = 6) -> Path:
        rng = np.random.default_rng(5)
        names = []
        for i in range(count):
            image = rng.integers(0, 60, (48, 64, 3)).astype(np.uint8)
            x1, y1 = int(rng.integers(2, 30)), int(rng.integers(2, 20))
            x2, y2 = x1 + int(rng.integers(10, 30)), y1 + int(rng.integers(10, 25))
            image[y1 : y2 + 1, x1 : x2 + 1] = 0
            image[y1 : y2 + 1, x1 : x2 + 1, i % 3] = 250
            write_image(tmp_path / "JPEGImages" / f"im{i}.png", image)
            annotation = tmp_path / "Annotations" / f"im{i}.xml"
            annotation.parent.mkdir(exist_ok=True)
            annotation.write_text(xml([(CLASSES[i % 3], x1, y1, x2, y2)]))
            names.append(f"im{i}")
        (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
        (tmp_path / "label_list.txt").write_text("\n".join(CLASSES) + "\n")
        return tmp_path

    return write
