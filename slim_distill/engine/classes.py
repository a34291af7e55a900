"""Classes of models and data sets: whether they agree, and what they are called."""

from pathlib import Path
from typing import TYPE_CHECKING

from slim_distill.common.errors import ConfigError
from slim_distill.config.schema import RunConfig
from slim_distill.data.labels import read_labels
from slim_distill.data.loader import Loader

if TYPE_CHECKING:
    from slim_distill.engine.build import Teacher

__all__ = ["check_classes", "class_index", "class_names"]


def class_index(cfg: RunConfig, prefix: str, teacher: "Teacher") -> tuple[int, ...] | None:
    """The number of each of the student's classes among the teacher's; None where the teacher has the same classes.

    Raises:
        ConfigError: other classes without `classes: by_name`, a class that the teacher does not have, or a teacher
            that is not frozen.
    """
    path = f"distill.teachers.{prefix}.classes"
    if teacher.classes == "same":
        if cfg.model.num_classes != teacher.cfg.model.num_classes:
            raise ConfigError(
                f"{path}: the teacher {prefix!r} has {teacher.cfg.model.num_classes} classes, the student "
                f"{cfg.model.num_classes}; both must have the same, or set by_name here if the teacher knows them all"
            )
        return None
    if not teacher.frozen:
        raise ConfigError(f"{path}: by_name is for a frozen teacher; leave out frozen: false, or this")
    mine, its = class_names(cfg), class_names(teacher.cfg)
    missing = [name for name in mine if name not in its]
    if missing:
        raise ConfigError(
            f"{path}: the teacher {prefix!r} does not know {', '.join(missing)}; its classes: {', '.join(its)}"
        )
    return tuple(its.index(name) for name in mine)


def check_classes(cfg: RunConfig, loader: Loader, where: str) -> None:
    """Raise ConfigError when the data set has another number of classes than the model."""
    classes = loader.dataset.classes
    if len(classes) != cfg.model.num_classes:
        raise ConfigError(
            f"model.num_classes is {cfg.model.num_classes}, but the data set of {where} has {len(classes)} classes "
            f"({', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}); make them agree"
        )


def class_names(cfg: RunConfig) -> tuple[str, ...]:
    """Names of the model's classes as the run's data sets have them, or their numbers where none names them."""
    for reader in (cfg.data.eval, cfg.data.train):
        dataset = reader.dataset
        if dataset.labels or dataset.classes:
            return read_labels(dataset.labels, dataset.classes, Path(dataset.root))
    return tuple(str(k) for k in range(cfg.model.num_classes))
