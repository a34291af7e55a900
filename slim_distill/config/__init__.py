"""The configuration of a run: its schema, reading and writing it, and the published recipes. No Paddle here."""

from slim_distill.config.convert import to_dict
from slim_distill.config.difference import changes_numbers, differences, show_differences
from slim_distill.config.load import dump_config, load_config, with_recipe
from slim_distill.config.recipes import default_terms
from slim_distill.config.schema import (
    BackboneConfig,
    CompileConfig,
    DataConfig,
    DatasetConfig,
    DistillConfig,
    EvalConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    NmsConfig,
    OptimizerConfig,
    ReaderConfig,
    RunConfig,
    ScheduleConfig,
    TeacherConfig,
    TermConfig,
    TrainConfig,
    TransformConfig,
)

__all__ = [
    "BackboneConfig",
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
    "ReaderConfig",
    "RunConfig",
    "ScheduleConfig",
    "TeacherConfig",
    "TermConfig",
    "TrainConfig",
    "TransformConfig",
    "changes_numbers",
    "default_terms",
    "differences",
    "dump_config",
    "load_config",
    "show_differences",
    "to_dict",
    "with_recipe",
]
