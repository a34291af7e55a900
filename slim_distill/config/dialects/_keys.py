"""Every key of PaddleDetection 0.4 that a YOLOv3 file may hold, and what becomes of it here.

Three tables by section, a section being the class or reader that takes the keys, "" the top level of the file:

* `USED`: translated; with the default of PaddleDetection 0.4, which applies when the file is silent.
* `FIXED`: only some values are supported; with the default, the supported values and the reason.
* `HARMLESS`: has no influence on results here; with the reason.

A key in none of them is refused. Defaults and meanings are those of release 0.4, read in its sources
(https://github.com/PaddlePaddle/PaddleDetection/tree/release/0.4/ppdet).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FIXED", "HARMLESS", "REFUSED", "REQUIRED", "SHARED", "TRANSFORMS", "USED", "Fixed"]


class _Required:
    """Marks a key without default."""


REQUIRED = _Required()


class Fixed(NamedTuple):
    """A key of which only some values are supported."""

    default: Any
    allowed: tuple[Any, ...]
    why: str


_ANCHORS = [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
_DOWNSAMPLE = [32, 16, 8]
_EXTRA_BLOCKS = [[256, 512], [128, 256], [128, 256], [64, 128]]

# Keys that a class takes from the top level of the file when its own section does not have them.
SHARED: Mapping[str, frozenset[str]] = {
    "MobileNet": frozenset({"norm_type", "weight_prefix_name"}),
    "MobileNetV3": frozenset({"norm_type"}),
    "ResNet": frozenset({"norm_type", "freeze_norm", "weight_prefix_name"}),
    "DarkNet": frozenset({"norm_type", "weight_prefix_name"}),
    "YOLOv3Head": frozenset({"weight_prefix_name"}),
}

USED: Mapping[str, Mapping[str, Any]] = {
    "": {
        "architecture": REQUIRED,
        "num_classes": REQUIRED,
        "max_iters": REQUIRED,
        "metric": REQUIRED,
        "map_type": "11point",
        "snapshot_iter": 10000,
        "log_iter": 20,
        "save_dir": "output",
        "pretrain_weights": "",
        "finetune_exclude_pretrained_params": [],
        "weights": "",
        "use_gpu": True,
        "use_fine_grained_loss": False,
        "use_ema": False,
        "ema_decay": 0.9998,
    },
    "YOLOv3": {"backbone": REQUIRED, "yolo_head": "YOLOv3Head", "use_fine_grained_loss": None},
    "MobileNet": {
        "norm_type": "bn",
        "norm_decay": 0.0,
        "conv_decay": None,
        "conv_group_scale": 1,
        "weight_prefix_name": "",
    },
    "MobileNetV3": {
        "norm_type": "bn",
        "norm_decay": 0.0,
        "conv_decay": None,
        "scale": 1.0,
        "model_name": "small",
        "freeze_norm": False,
    },
    "ResNet": {
        "depth": 50,
        "variant": "b",
        "freeze_at": 2,
        "freeze_norm": True,
        "norm_type": "affine_channel",
        "norm_decay": 0.0,
        "weight_prefix_name": "",
    },
    "DarkNet": {"depth": 53, "norm_type": "bn", "norm_decay": 0.0, "weight_prefix_name": ""},
    "YOLOv3Head": {
        "anchors": _ANCHORS,
        "anchor_masks": [[6, 7, 8], [3, 4, 5], [0, 1, 2]],
        "norm_decay": 0.0,
        "scale_x_y": 1.0,
        "clip_bbox": True,
        "weight_prefix_name": "",
        "num_classes": None,
        "ignore_thresh": None,  # of the loss until release 0.2
        "label_smooth": None,  # of the loss until release 0.2
        "yolo_loss": "YOLOv3Loss",
        "nms": {
            "score_threshold": 0.01,
            "nms_top_k": 1000,
            "keep_top_k": 100,
            "nms_threshold": 0.45,
            "background_label": -1,
        },
    },
    "YOLOv3Loss": {
        "ignore_thresh": 0.7,
        "label_smooth": True,
        "iou_loss": None,
        "scale_x_y": 1.0,
        "use_fine_grained_loss": None,
    },
    "MultiClassNMS": {
        "score_threshold": 0.05,
        "nms_top_k": -1,
        "keep_top_k": 100,
        "nms_threshold": 0.5,
        "normalized": False,
        "background_label": 0,
    },
    "IouLoss": {"loss_weight": 2.5, "ciou_term": False, "loss_square": True},
    "DiouLossYolo": {"loss_weight": 5},
    "LearningRate": {"base_lr": 0.01, "schedulers": REQUIRED},
    "PiecewiseDecay": {"gamma": [0.1, 0.1], "milestones": [60000, 80000]},
    "CosineDecay": {"max_iters": 180000},
    "LinearWarmup": {"steps": 500, "start_factor": 1 / 3},
    "OptimizerBuilder": {
        "optimizer": {"type": "Momentum", "momentum": 0.9},
        "regularizer": {"type": "L2", "factor": 0.0001},
        "clip_grad_by_norm": None,
    },
    "Momentum": {"momentum": REQUIRED},
    "L2": {"factor": REQUIRED},
    "Reader": {
        "dataset": REQUIRED,
        "inputs_def": {},
        "sample_transforms": [],
        "batch_transforms": [],
        "batch_size": 1,
        "shuffle": False,
        "drop_last": False,
        "drop_empty": True,
        "mixup_epoch": -1,
        "worker_num": -1,
    },
    "inputs_def": {"fields": [], "image_shape": [3, None, None]},
    "VOCDataSet": {
        "dataset_dir": "",
        "image_dir": "",
        "anno_path": REQUIRED,
        "sample_num": -1,
        "use_default_label": None,
        "label_list": "label_list.txt",
    },
    "COCODataSet": {"dataset_dir": "", "image_dir": "", "anno_path": REQUIRED, "sample_num": -1},
    "ImageFolder": {
        "dataset_dir": "",
        "image_dir": "",
        "anno_path": None,
        "sample_num": -1,
        "use_default_label": False,
    },
}

_BACKGROUND = Fixed(True, (False,), "YOLOv3 has no background class, the first class must be number 0")
_SWITCH = "where it is on, each cell has other outputs than x, y, w, h, objectness and classes"

FIXED: Mapping[str, Mapping[str, Fixed]] = {
    "": {
        "use_xpu": Fixed(False, (False,), "only CPUs and GPUs are supported"),
        "save_prediction_only": Fixed(False, (False,), "files for prediction only cannot be trained"),
    },
    "MobileNet": {
        "with_extra_blocks": Fixed(False, (False,), "the extra blocks belong to SSD"),
        "conv_learning_rate": Fixed(1.0, (1,), "the backbone has no learning rate of its own"),
    },
    "MobileNetV3": {
        "feature_maps": Fixed([5, 6, 7, 8, 9, 10], ([1, 2, 3, 4, 6],), "these are the stages of the published YOLOv3"),
        "extra_block_filters": Fixed(_EXTRA_BLOCKS, ([],), "the extra blocks belong to SSD"),
        "lr_mult_list": Fixed([1.0] * 5, ([1] * 5,), "the stages have no learning rates of their own"),
        "multiplier": Fixed(1.0, (1,), "the last stages are as wide as published"),
    },
    "ResNet": {
        "feature_maps": Fixed([2, 3, 4, 5], ([3, 4, 5], [2, 3, 4, 5]), "the head takes the stages 3, 4 and 5"),
        "dcn_v2_stages": Fixed([], ([],), "deformable convolutions are not supported"),
        "nonlocal_stages": Fixed([], ([],), "non-local blocks are not supported"),
        "gcb_stages": Fixed([], ([],), "global context blocks are not supported"),
        "gcb_params": Fixed({}, ({},), "global context blocks are not supported"),
        "lr_mult_list": Fixed([1.0] * 4, ([1] * 4,), "the stages have no learning rates of their own"),
    },
    "YOLOv3Head": {
        "conv_block_num": Fixed(2, (2,), "the head has the published number of convolutions"),
        "drop_block": Fixed(False, (False,), "DropBlock is not supported"),
        "coord_conv": Fixed(False, (False,), "CoordConv is not supported"),
        "spp": Fixed(False, (False,), "spatial pyramid pooling is not supported"),
        "iou_aware": Fixed(False, (False,), _SWITCH),
        "downsample": Fixed(_DOWNSAMPLE, (_DOWNSAMPLE,), "the head has the strides 32, 16 and 8"),
    },
    "YOLOv3Loss": {
        "iou_aware_loss": Fixed(None, (None,), _SWITCH),
        "match_score": Fixed(False, (False,), "objectness is ignored by overlap only"),
        "downsample": Fixed(_DOWNSAMPLE, (_DOWNSAMPLE,), "the head has the strides 32, 16 and 8"),
    },
    "MultiClassNMS": {"nms_eta": Fixed(1.0, (1,), "the threshold does not adapt")},
    "PiecewiseDecay": {"values": Fixed(None, (None,), "write base_lr and gamma instead")},
    "OptimizerBuilder": {},
    "Momentum": {"use_nesterov": Fixed(False, (False,), "the published optimizer does not look ahead")},
    "Reader": {
        "cutmix_epoch": Fixed(-1, (-1,), "CutMix is not supported"),
        "class_aware_sampling": Fixed(False, (False,), "every image comes once an epoch"),
    },
    "inputs_def": {"num_max_boxes": Fixed(50, (50,), "the boxes of an image are padded to 50")},
    "VOCDataSet": {"with_background": _BACKGROUND},
    "COCODataSet": {
        "with_background": _BACKGROUND,
        "load_semantic": Fixed(False, (False,), "segmentation maps are not read"),
    },
    "ImageFolder": {"with_background": _BACKGROUND},
}

_DROP_BLOCK = "only read where drop_block is on"

HARMLESS: Mapping[str, Mapping[str, str]] = {
    "": {
        "log_smooth_window": "number of steps that a printed loss is averaged over; log_iter says how often it is",
    },
    "MobileNet": {"extra_block_filters": "only read where with_extra_blocks is on"},
    "YOLOv3Head": {
        "block_size": _DROP_BLOCK,
        "keep_prob": _DROP_BLOCK,
        "iou_aware_factor": "only read where iou_aware is on",
    },
    "YOLOv3Loss": {
        "batch_size": "release 0.4 takes TrainReader.batch_size instead; the loss here need not know it",
        "train_batch_size": "release 0.4 overwrites it with TrainReader.batch_size; the loss here need not know it",
    },
    "IouLoss": {
        "max_height": "size of a grid made in advance; here it is made for the size of the batch",
        "max_width": "size of a grid made in advance; here it is made for the size of the batch",
    },
    "DiouLossYolo": {
        "max_height": "size of a grid made in advance; here it is made for the size of the batch",
        "max_width": "size of a grid made in advance; here it is made for the size of the batch",
    },
    "Reader": {
        "bufsize": "number of batches kept ready; it does not change them",
        "memsize": "shared memory for the workers; it does not change the batches",
        "use_process": "threads or processes; the workers here are processes, and the batches do not depend on it",
    },
}

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("train_feed", "eval_feed", "test_feed", "YoloTrainFeed", "YoloEvalFeed", "YoloTestFeed"),
        "feeds belong to PaddleDetection 0.1; write TrainReader, EvalReader and TestReader instead",
    ),
    "_BASE_": "belongs to PaddleDetection 2; in 0.4 a file includes a reader by _READER_",
}

TRANSFORMS = frozenset(
    {
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
    }
)
