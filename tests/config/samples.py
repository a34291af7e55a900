"""Small configuration files for the tests, in both dialects."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

OWN = """\
name: sample
model:
  num_classes: 3
  backbone: {type: resnet, depth: 18}
data:
  train:
    dataset: {root: some/where, annotations: list.txt, classes: [a, b, c]}
    transforms:
      - {type: DecodeImage, to_rgb: true}
      - {type: RandomShape, sizes: [96, 128]}
    batch_size: 4
schedule: {base_lr: 0.01, milestones: [10, 20]}
distill:
  teachers:
    big_: {config: big.yml, weights: big.pdparams}
  terms:
    - {loss: l2, student: yolo_head.0, teacher: yolo_head.0, weight: 100, from: big_, reduction: mean}
"""

FOREIGN = """\
architecture: YOLOv3
use_gpu: true
max_iters: 100
metric: VOC
num_classes: 4
use_fine_grained_loss: false
YOLOv3: {backbone: MobileNet, yolo_head: YOLOv3Head}
MobileNet: {norm_type: sync_bn, norm_decay: 0., conv_group_scale: 1, with_extra_blocks: false}
YOLOv3Head: {norm_decay: 0., yolo_loss: YOLOv3Loss}
YOLOv3Loss: {ignore_thresh: 0.7, label_smooth: false}
LearningRate:
  base_lr: 0.001
  schedulers:
  - !PiecewiseDecay
    gamma: 0.1
    milestones: [60, 80]
  - !LinearWarmup
    start_factor: 0.
    steps: 10
OptimizerBuilder:
  optimizer: {momentum: 0.9, type: Momentum}
  regularizer: {factor: 0.0005, type: L2}
_READER_: 'reader.yml'
TrainReader:
  dataset:
    !VOCDataSet
    dataset_dir: dataset/signs
    anno_path: train.txt
    with_background: false
"""

READER = """\
TrainReader:
  inputs_def:
    fields: ['image', 'gt_bbox', 'gt_class', 'gt_score']
    num_max_boxes: 50
  dataset:
    !COCODataSet
      image_dir: train2017
      anno_path: annotations/instances_train2017.json
      dataset_dir: dataset/coco
      with_background: false
  sample_transforms:
    - !DecodeImage
      to_rgb: True
    - !PadBox {num_max_boxes: 50}
  batch_transforms:
  - !RandomShape
    sizes: [320, 352]
  - !Gt2YoloTarget
    anchor_masks: [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
    anchors: [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
    downsample_ratios: [32, 16, 8]
  batch_size: 8
  shuffle: true
  worker_num: 4
  bufsize: 16
  use_process: true
EvalReader:
  dataset:
    !VOCDataSet
    dataset_dir: dataset/signs
    anno_path: valid.txt
    with_background: false
  drop_empty: false
TestReader:
  dataset:
    !ImageFolder
    anno_path: dataset/signs/label_list.txt
    with_background: false
"""


def write_own(folder: Path, text: str = OWN, name: str = "own.yml") -> Path:
    """Write a file of our own dialect and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def write_foreign(folder: Path, text: str = FOREIGN, reader: str = READER) -> Path:
    """Write a file of the PaddleDetection dialect and its reader file; return the path of the first."""
    (folder / "reader.yml").write_text(reader, encoding="utf-8")
    return write_own(folder, text, "foreign.yml")
