"""The published distillation recipes for a pair of YOLOv3 detectors."""

from slim_distill.config.schema import TermConfig

__all__ = ["default_terms"]

SCALES = (0, 1, 2)  # stride 32, 16, 8
PARTS = ("x", "y", "w", "h", "obj", "cls")


def default_terms(fine_grained: bool) -> tuple[TermConfig, ...]:
    """Return the recipe that the distillation script of PaddleDetection 0.4 applies.

    Args:
        fine_grained: whether the student is trained with the fine-grained loss. If so: the objectness-scaled losses of
            x, y, w, h, objectness and classes, weight 1000 (COCO in the tutorial); if not: l2 between the raw head
            maps, weight 100 (VOC).

    Returns:
        One term for each of the three scales.
    """
    if fine_grained:
        names = [tuple(f"{part}.{i}" for part in PARTS) for i in SCALES]
        return tuple(TermConfig("yolo_objectness", student=each, teacher=each, weight=1000.0) for each in names)
    heads = [(f"yolo_head.{i}",) for i in SCALES]
    return tuple(TermConfig("l2", student=each, teacher=each, weight=100.0) for each in heads)
