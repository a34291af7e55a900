"""A tiny detection data set and run configurations, written to a test's folder."""

import json
from pathlib import Path

import cv2
import numpy as np
import yaml

CLASSES = ("square", "disc")
SIZE_PX = 64


def write_voc(root: Path, train: int = 8, test: int = 4) -> Path:
    """Images of red squares and green discs, in VOC layout with list files, and the same as COCO JSON."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(7)
    for split, first, count in (("train", 0, train), ("test", train, test)):
        ids = [f"im{first + i:03d}" for i in range(count)]
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
        coco = {"images": [], "annotations": [], "categories": categories}
        for number, name in enumerate(ids):
            image, boxes = _draw(rng)
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
            (root / "Annotations" / f"{name}.xml").write_text(_xml(name, image.shape, boxes))
            coco["images"].append({"id": number + 1, "file_name": f"{name}.jpg", "height": 80, "width": 96})
            for kind, x1, y1, x2, y2 in boxes:
                box = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]
                coco["annotations"].append(
                    {
                        "id": len(coco["annotations"]) + 1, "image_id": number + 1, "category_id": kind + 1,
                        "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                    }
                )  # fmt: skip
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")
        (root / "annotations" / f"{split}.json").write_text(json.dumps(coco))
    return root


def _draw(rng):
    image = np.full((80, 96, 3), 210, np.uint8) - rng.randint(0, 30, (80, 96, 3)).astype(np.uint8)
    boxes = []
    for kind in (0, 1):
        side = int(rng.randint(16, 34))
        x, y = int(rng.randint(0, 96 - side)), int(rng.randint(0, 80 - side))
        if kind == 0:
            cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), (30, 30, 220), -1)
        else:
            cv2.circle(image, (x + side // 2, y + side // 2), side // 2 - 1, (40, 200, 40), -1)
        boxes.append((kind, x, y, x + side - 1, y + side - 1))
    return image, boxes


def _xml(name, shape, boxes):
    objects = "".join(
        f"<object><name>{CLASSES[k]}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for k, x1, y1, x2, y2 in boxes
    )
    size = f"<size><width>{shape[1]}</width><height>{shape[0]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"


def run_config(data: Path, output: Path, *, name="tiny", fine=False, **top) -> dict:
    """A run of a one-eighth-width network for a few steps, as YAML data; `top` replaces top-level keys."""
    dataset = {"format": "voc", "root": str(data), "classes": list(CLASSES)}
    normalise = [
        {"type": "NormalizeImage", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "is_scale": True,
         "is_channel_first": False},
        {"type": "Permute", "to_bgr": False, "channel_first": True},
    ]  # fmt: skip
    targets = {
        "type": "Gt2YoloTarget",
        "anchor_masks": [[6, 7, 8], [3, 4, 5], [0, 1, 2]],
        "anchors": [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]],
        "downsample_ratios": [32, 16, 8],
        "num_classes": len(CLASSES),
    }
    roles = ("x", "y", "w", "h", "obj", "cls")
    terms = [
        {"loss": "yolo_objectness", "student": [f"{r}.{i}" for r in roles], "teacher": [f"{r}.{i}" for r in roles],
         "weight": 10}
        if fine
        else {"loss": "l2", "student": f"yolo_head.{i}", "teacher": f"yolo_head.{i}", "weight": 0.5}
        for i in range(3)
    ]  # fmt: skip
    return {
        "name": name,
        "device": "cpu",
        "output_dir": str(output),
        "model": {
            "num_classes": len(CLASSES),
            "backbone": {"type": "mobilenet_v1", "scale": 0.125},
            "head": {"scale": 0.0625},
            "loss": {"fine_grained": fine},
        },
        "data": {
            "train": {
                "dataset": {**dataset, "annotations": "ImageSets/Main/train.txt"},
                "batch_size": 2,
                "shuffle": True,
                "drop_last": True,
                "workers": 0,
                "transforms": [
                    {"type": "DecodeImage", "to_rgb": True},
                    {"type": "ColorDistort"},
                    {"type": "RandomCrop"},
                    {"type": "RandomFlipImage", "is_normalized": False},
                    {"type": "NormalizeBox"},
                    {"type": "PadBox", "num_max_boxes": 50},
                    {"type": "BboxXYXY2XYWH"},
                ],
                "batch_transforms": [
                    {"type": "RandomShape", "sizes": [SIZE_PX], "random_inter": True},
                    *normalise,
                    *([targets] if fine else []),
                ],
            },
            "eval": {
                "dataset": {**dataset, "annotations": "ImageSets/Main/test.txt"},
                "batch_size": 2,
                "workers": 0,
                "transforms": [
                    {"type": "DecodeImage", "to_rgb": True},
                    {"type": "ResizeImage", "target_size": SIZE_PX, "interp": 2},
                    *normalise,
                ],
            },
            "test": {
                "dataset": {"format": "images", "classes": list(CLASSES)},
                "batch_size": 1,
                "workers": 0,
                "transforms": [
                    {"type": "DecodeImage", "to_rgb": True},
                    {"type": "ResizeImage", "target_size": SIZE_PX, "interp": 2},
                    *normalise,
                ],
            },
        },
        "schedule": {"base_lr": 0.001, "warmup_steps": 2, "type": "constant"},
        "train": {"max_iters": 4, "log_iter": 1, "snapshot_iter": 2},
        "eval": {"metric": "voc", "map_type": "integral"},
        "distill": {"teachers": {}, "terms": terms},
        **top,
    }


def write_config(path: Path, data: dict) -> Path:
    """Write a configuration as YAML."""
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path
