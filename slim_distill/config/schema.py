"""The run configuration: frozen, typed, plain data. A key is required or has a default, and a unit where it has one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slim_distill.config.execution import CacheConfig, CompileConfig, ParallelConfig

__all__ = [
    "BackboneConfig",
    "CacheConfig",
    "CompileConfig",
    "DataConfig",
    "DatasetConfig",
    "DistillConfig",
    "EvalConfig",
    "HeadConfig",
    "LossConfig",
    "ModelConfig",
    "NmsConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "RampConfig",
    "ReaderConfig",
    "RunConfig",
    "ScheduleConfig",
    "StepsConfig",
    "TeacherConfig",
    "TermConfig",
    "TermScheduleConfig",
    "TrainConfig",
    "TransformConfig",
]

YOLO_ANCHORS = (
    (10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326),
)  # fmt: skip


@dataclass(frozen=True)
class BackboneConfig:
    """The feature extractor.

    Attributes:
        type: mobilenet_v1 | mobilenet_v3 | resnet | darknet.
        depth: layers of a ResNet (18, 34, 50) or DarkNet (53).
        variant: ResNet variant, "b" or "d" (the vd networks).
        scale: width multiplier of the channels, 1.0 for the published networks.
        model_name: MobileNetV3 size, "small" or "large".
        norm_type: bn | sync_bn.
        norm_decay: L2 decay of the batch norm scales and offsets.
        prefix: put before every parameter name of the backbone (`weight_prefix_name` of PaddleDetection).
        freeze_at: number of leading ResNet stages that do not train, 0 for none.
        freeze_norm: batch norms neither train nor move their statistics.
        conv_decay: L2 decay of the backbone's convolutions; None for the published one of that network.
        args: further arguments of this one backbone.
    """

    type: str
    depth: int = 34
    variant: str = "b"
    scale: float = 1.0
    model_name: str = "large"
    norm_type: str = "bn"
    norm_decay: float = 0.0
    prefix: str = ""
    freeze_at: int = 0
    freeze_norm: bool = False
    conv_decay: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NmsConfig:
    """Multi-class non-maximum suppression; background_label -1 means that there is none."""

    background_label: int = -1
    keep_top_k: int = 100
    nms_threshold: float = 0.45
    nms_top_k: int = 1000
    normalized: bool = False
    score_threshold: float = 0.01


@dataclass(frozen=True)
class HeadConfig:
    """The YOLOv3 head. Anchors are (width, height) in pixels; a mask lists the anchors of one scale, stride 32 first.

    `scale` multiplies the inner channels (1.0 published); `prefix` is put before every parameter name of the head;
    `objectness_prior` is the objectness of every cell before training (0.5 published, 0.01 helps from scratch).
    """

    anchors: tuple[tuple[float, float], ...] = YOLO_ANCHORS
    anchor_masks: tuple[tuple[int, ...], ...] = ((6, 7, 8), (3, 4, 5), (0, 1, 2))
    norm_decay: float = 0.0
    scale: float = 1.0
    objectness_prior: float = 0.5
    prefix: str = ""
    clip_bbox: bool = True
    scale_x_y: float = 1.0
    nms: NmsConfig = NmsConfig()


@dataclass(frozen=True)
class LossConfig:
    """The student's own YOLOv3 loss.

    Attributes:
        ignore_thresh: cells whose box overlaps any ground truth more than this get no objectness loss.
        label_smooth: smooth the class targets by min(1/C, 1/40) (operator path only, as published).
        fine_grained: compute the loss in the graph from the reader's targets and expose x, y, w, h, obj, cls.
        iou_loss: None or {"type": iou|giou|diou|ciou, "weight": w, "square": bool}, an extra box loss (fine-grained
            path only): w * (1 - v), or w * (1 - v * v) with "square" (off when not given), v the overlap of that type.
        fix_label_smooth: also smooth in the fine-grained path, which the published system silently does not.
    """

    ignore_thresh: float = 0.7
    label_smooth: bool = False
    fine_grained: bool = False
    iou_loss: Mapping[str, Any] | None = None
    fix_label_smooth: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A detector: backbone, head, loss."""

    num_classes: int
    backbone: BackboneConfig
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    architecture: str = "yolov3"


@dataclass(frozen=True)
class TransformConfig:
    """One step of a reader: `type` is the transform's name, `args` its arguments (in YAML: keys beside `type`)."""

    type: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetConfig:
    """Where annotated images are.

    Attributes:
        format: voc | coco | images.
        root: folder of the data set.
        annotations: VOC: list file, one image id (or "image.jpg annotation.xml" pair) a line; COCO: the JSON file.
            Relative to root. Images: a COCO JSON file that names the classes, if neither labels nor classes do.
        images: folder of the images, relative to root.
        labels: "voc" | "coco" for the built-in lists, or a file with one class a line (relative to root). Exclusive
            with `classes`.
        classes: the class names in order of their numbers.
        sample_num: use only the first so many images, -1 for all.
        max_bad_share: stop when more than this share of the images or annotations cannot be used.
    """

    format: str = "voc"
    root: str = ""
    annotations: str = ""
    images: str = ""
    labels: str = ""
    classes: tuple[str, ...] = ()
    sample_num: int = -1
    max_bad_share: float = 0.1


@dataclass(frozen=True)
class ReaderConfig:
    """How a data set becomes batches."""

    dataset: DatasetConfig = DatasetConfig()
    transforms: tuple[TransformConfig, ...] = ()
    batch_transforms: tuple[TransformConfig, ...] = ()
    batch_size: int = 8
    shuffle: bool = False
    drop_last: bool = False
    workers: int = 2
    mixup_epochs: int = -1  # mix images up during the first so many epochs; -1 for never
    drop_empty: bool = False  # leave out images without any box in their annotation


@dataclass(frozen=True)
class DataConfig:
    """The readers of training, evaluation, and inference (whose data set is the user's images)."""

    train: ReaderConfig = ReaderConfig()
    eval: ReaderConfig = ReaderConfig()
    test: ReaderConfig = ReaderConfig()


@dataclass(frozen=True)
class OptimizerConfig:
    """`weight_decay` is the L2 factor of parameters without their own; `ema` is 0 (off) or its decay per step."""

    type: str = "momentum"
    momentum: float = 0.9
    weight_decay: float = 0.0005
    ema: float = 0.0
    clip_norm: float = 0.0  # largest global gradient norm, 0 for no clipping


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate by step: linear warm-up from start_factor * base_lr, then constant, piecewise or cosine.

    `milestones` are steps counted from the start of training; at each the rate is multiplied by `gamma`, or, where
    `factors` are given (one for each milestone), becomes that share of base_lr. The cosine falls from base_lr at step 0
    to 0 at `cosine_steps`, 0 for train.max_iters; while the warm-up lasts it has no effect.
    """

    base_lr: float = 0.001
    type: str = "piecewise"  # constant | piecewise | cosine
    gamma: float = 0.1
    milestones: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    cosine_steps: int = 0
    warmup_steps: int = 0
    warmup_start_factor: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """Length of training and what happens on the way, in steps. `keep` is the number of checkpoints beside the best.

    Parameters whose name matches one of the regular expressions `pretrain_exclude` at its start are not taken from
    `pretrain_weights` (the output convolutions, when the classes are other ones).
    """

    max_iters: int = 1000
    log_iter: int = 20
    snapshot_iter: int = 1000
    eval_iter: int = 0  # 0: at each snapshot
    keep: int = 3
    pretrain_weights: str = ""
    pretrain_exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvalConfig:
    """metric: voc | coco; map_type: 11point | integral (VOC only).

    `skip_empty_batches` (VOC only) is 0, or the batch size of the published evaluation loop, which forgets a batch
    without any detection together with its ground truth: that raises the mAP, and makes it depend on the batch size.
    """

    metric: str = "voc"
    map_type: str = "11point"
    iou_threshold: float = 0.5
    evaluate_difficult: bool = False
    skip_empty_batches: int = 0


@dataclass(frozen=True)
class TeacherConfig:
    """One teacher: its own configuration file, its weights (path or URL), and whether it stays frozen.

    `classes` is same (its classes are the student's, in order) or by_name (its class outputs are brought into the order
    of the student's classes, all of which it must have; only for a frozen teacher). With `ema` the teacher is no other
    network but the student itself: its parameters start as the student's and follow them by t <- ema t + (1 - ema) s
    after every step; 0 is the student of the step before, 1 the student of the start. It has no config and no weights.
    """

    config: str = ""
    weights: str = ""
    frozen: bool = True
    classes: str = "same"
    ema: float | None = None


@dataclass(frozen=True)
class RampConfig:
    """A factor that goes from `from` (`start` here) at `first_step` to `to` at `last_step`, 0 for train.max_iters."""

    start: float = 1.0
    to: float = 0.0
    first_step: int = 0
    last_step: int = 0


@dataclass(frozen=True)
class StepsConfig:
    """A factor that starts at 1 and is multiplied by `gamma` at each of the `milestones`, in steps."""

    milestones: tuple[int, ...]
    gamma: float = 0.1


@dataclass(frozen=True)
class TermScheduleConfig:
    """Factor of a term's weight by step: at most one of constant, linear, cosine and step (else 1), times the warm-up.

    The factor is 0 before `start_step` and from `stop_step` on (0: never), or from `stop_epoch` on (0: never; counted
    in passes over the training data). During `warmup_steps` from the start it rises linearly to its full size.
    """

    constant: float | None = None
    linear: RampConfig | None = None
    cosine: RampConfig | None = None
    step: StepsConfig | None = None
    warmup_steps: int = 0
    start_step: int = 0
    stop_step: int = 0
    stop_epoch: float = 0.0


@dataclass(frozen=True)
class TermConfig:
    """One loss between named variables. `student` and `teacher` hold one name, or several where the loss takes several.

    Teacher names are written without prefix; `from` in YAML (`source` here) is the prefix of the teacher meant, or the
    prefixes of several, each of which gives the named variables.
    `schedule` multiplies the weight by a factor that depends on the step. `balance` r, 0 for off, sets the weight at
    every step anew: the term's gradient on the shared parameters gets r times the norm of the task loss's.
    """

    loss: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]
    weight: float = 1.0
    source: tuple[str, ...] = ("teacher_",)
    args: Mapping[str, Any] = field(default_factory=dict)
    schedule: TermScheduleConfig | None = None
    balance: float = 0.0


@dataclass(frozen=True)
class DistillConfig:
    """Teachers by prefix, and the terms of the recipe."""

    teachers: Mapping[str, TeacherConfig] = field(default_factory=dict)
    terms: tuple[TermConfig, ...] = ()
    min_teacher_metric: float = 0.01  # a teacher below this share (of 1.0) on the eval data stops the run
    force: bool = False  # go on all the same


@dataclass(frozen=True)
class RunConfig:
    """Everything one run needs to know.

    Attributes:
        name: the run's name; files go to output_dir/name.
        weights: weights that evaluation and inference load: path or URL.
        device: auto | cpu | gpu | gpu:N.
    """

    name: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    distill: DistillConfig = DistillConfig()
    compile: CompileConfig = field(default_factory=CompileConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    weights: str = ""
    output_dir: str = "output"
    device: str = "auto"
    seed: int = 0
