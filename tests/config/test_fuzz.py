"""Whatever a file or an override says: a `RunConfig` or a `ConfigError`, nothing else."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_distill.common.errors import ConfigError
from slim_distill.config import RunConfig, dump_config, load_config
from tests.config.samples import FOREIGN, OWN, write_foreign, write_own

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
KEYS = """
name model data train eval schedule distill terms teachers backbone type loss weight from args base architecture
num_classes anchors YOLOv3 TrainReader dataset nms milestones metric base_lr _READER_
"""
ANY_KEY = st.sampled_from(KEYS.split())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ANY_KEY
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_KEY, inner, max_size=4), max_leaves=12
)
PIECES = st.sampled_from(
    ["name: x\n", "model:\n", "  num_classes: 3\n", "  backbone: {type: darknet}\n", "- ", "!Tag ", "&a ", "*a", "<<: ",
     "!!python/name:os ", ": ", "? ", "[", "]", "{", "}", "'", '"', "|\n", "#", "\t", "%YAML 9.9\n", "---\n", "...\n",
     "0b_", "1e5", "architecture: YOLOv3\n", "base: own.yml\n", "\x00", "\ufeff", "é", "\n", "  "]
)  # fmt: skip
OWN_PATHS = """
name model model.num_classes model.backbone model.backbone.type model.head.anchors model.head.anchor_masks.0
model.head.nms model.loss.iou_loss data.train data.train.transforms data.train.transforms.0
data.train.transforms.1.sizes data.train.batch_transforms data.train.dataset.classes data.train.batch_size
schedule schedule.milestones schedule.factors schedule.base_lr optimizer train.pretrain_exclude distill
distill.teachers distill.teachers.big_ distill.terms distill.terms.0 distill.terms.0.student
distill.terms.0.args device seed weights base
"""
FOREIGN_PATHS = """
architecture metric map_type num_classes max_iters use_gpu use_fine_grained_loss use_ema pretrain_weights YOLOv3
YOLOv3.backbone MobileNet MobileNet.norm_type ResNet YOLOv3Head YOLOv3Head.nms YOLOv3Head.anchors
YOLOv3Head.yolo_loss YOLOv3Head.scale_x_y YOLOv3Loss YOLOv3Loss.iou_loss YOLOv3Loss.batch_size LearningRate
LearningRate.schedulers LearningRate.schedulers.0 LearningRate.schedulers.0.gamma LearningRate.schedulers.1
OptimizerBuilder OptimizerBuilder.optimizer OptimizerBuilder.regularizer TrainReader TrainReader.dataset
TrainReader.dataset.anno_path TrainReader.inputs_def TrainReader.inputs_def.image_shape
TrainReader.sample_transforms TrainReader.sample_transforms.0 TrainReader.batch_transforms.1
TrainReader.batch_transforms.1.anchors EvalReader TestReader TestReader.dataset norm_type weight_prefix_name
freeze_norm finetune_exclude_pretrained_params _READER_
"""


def load_or_refuse(path: Path, overrides: tuple[str, ...] = ()) -> None:
    """Load; what loads must survive a dump."""
    try:
        cfg = load_config(path, overrides)
    except ConfigError:
        return
    assert isinstance(cfg, RunConfig)
    assert load_config(write_own(path.parent, dump_config(cfg), "dumped.yml")) == cfg


def as_yaml(tree: object) -> str:
    return yaml.safe_dump(tree, default_flow_style=True, allow_unicode=True).removesuffix("...\n")


@FEW
@given(text=st.text(max_size=60) | st.lists(PIECES, max_size=12).map("".join))
def test_any_text(tmp_path: Path, text: str):
    write_own(tmp_path)
    path = tmp_path / "any.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    load_or_refuse(path)


@FEW
@given(data=st.binary(max_size=60))
def test_any_bytes(tmp_path: Path, data: bytes):
    path = tmp_path / "any.yml"
    path.write_bytes(data)
    load_or_refuse(path)


@FEW
@given(tree=st.dictionaries(ANY_KEY, TREES, max_size=5))
def test_any_tree(tmp_path: Path, tree: dict):
    load_or_refuse(write_own(tmp_path, as_yaml(tree), "tree.yml"))


@FEW
@given(path=st.sampled_from(OWN_PATHS.split()), value=TREES)
def test_any_override(tmp_path: Path, path: str, value: object):
    load_or_refuse(write_own(tmp_path), (f"{path}={as_yaml(value)}",))


@FEW
@given(path=st.sampled_from(FOREIGN_PATHS.split()), value=TREES)
def test_any_override_of_a_foreign_file(tmp_path: Path, path: str, value: object):
    load_or_refuse(write_foreign(tmp_path), (f"{path}={as_yaml(value)}",))


@pytest.mark.parametrize("text", [OWN, FOREIGN])
def test_a_file_cut_off_anywhere(tmp_path: Path, text: str):
    write_foreign(tmp_path)
    for end in range(0, len(text), 7):
        load_or_refuse(write_own(tmp_path, text[:end], "cut.yml"))
