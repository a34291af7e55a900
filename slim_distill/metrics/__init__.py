"""Numpy in, numbers out: detection (VOC, COCO), text recognition, classification, repeated runs. No Paddle here."""

from slim_distill.metrics._records import index_records
from slim_distill.metrics.classification import topk_accuracy
from slim_distill.metrics.coco import COCO_METRICS, coco_ap, coco_detections, coco_from_records
from slim_distill.metrics.paired import Difference, mean_and_deviation, paired_difference, t_quantile
from slim_distill.metrics.text import ctc_greedy_decode, edit_distance, edit_similarity, sequence_accuracy
from slim_distill.metrics.voc import MAP_TYPES, ClassAp, VocResult, average_precision, iou_matrix, voc_ap

__all__ = [
    "COCO_METRICS",
    "MAP_TYPES",
    "ClassAp",
    "Difference",
    "VocResult",
    "average_precision",
    "coco_ap",
    "coco_detections",
    "coco_from_records",
    "ctc_greedy_decode",
    "edit_distance",
    "edit_similarity",
    "index_records",
    "iou_matrix",
    "mean_and_deviation",
    "paired_difference",
    "sequence_accuracy",
    "t_quantile",
    "topk_accuracy",
    "voc_ap",
]
