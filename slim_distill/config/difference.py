"""What differs between two configurations, and what of it changes the numbers of a training."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from slim_distill.config.convert import to_dict
from slim_distill.config.schema import RunConfig

__all__ = ["changes_numbers", "differences", "show_differences"]

_NO_EFFECT = (
    "name", "output_dir", "weights", "eval.*", "data.eval.*", "data.test.*", "data.train.workers",
    "train.log_iter", "train.snapshot_iter", "train.eval_iter", "train.keep", "train.pretrain_*",
    "distill.min_teacher_metric", "distill.force", "compile.overlap", "compile.cache.*",
)  # fmt: skip


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (old value, new value) of all that differs; "not set" where one has no such key."""
    one, two = dict(_leaves(to_dict(old))), dict(_leaves(to_dict(new)))
    missing = "not set"
    return {
        key: (one.get(key, missing), two.get(key, missing))
        for key in dict.fromkeys([*one, *two])
        if one.get(key, missing) != two.get(key, missing)
    }


def show_differences(found: Iterable[tuple[str, tuple[Any, Any]]], most: int = 3) -> str:
    """The first few of them in words."""
    lines = [f"{key} was {old}, now {new}" for key, (old, new) in found]
    more = f"; and {len(lines) - most} more" if len(lines) > most else ""
    return "; ".join(lines[:most]) + more


def changes_numbers(key: str, new: RunConfig) -> bool:
    """Whether another value under a key, met when a run goes on, gives other parameters than the uninterrupted run.

    The number of steps does so only where a schedule stretches with it.
    """
    if key == "train.max_iters":
        ramps = [ramp for t in new.distill.terms if t.schedule for ramp in (t.schedule.linear, t.schedule.cosine)]
        stretched = any(ramp is not None and ramp.last_step == 0 for ramp in ramps)
        return stretched or (new.schedule.type == "cosine" and new.schedule.cosine_steps == 0)
    return not any(fnmatchcase(key, pattern) for pattern in _NO_EFFECT)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of plain data with its dotted path."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if items is None:
        yield path, tree
        return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
