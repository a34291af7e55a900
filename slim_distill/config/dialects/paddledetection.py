"""YOLOv3 files of PaddleDetection 0.x, as release 0.4 reads them, translated into `RunConfig`.

`!Tag` nodes are data, never objects. Whatever the translation does not know is refused by name and place; what it
accepts without using it stands in the table `HARMLESS` of `_keys.py` with the reason.
Source: https://github.com/PaddlePaddle/PaddleDetection/tree/release/0.4
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from slim_distill.config._place import Layer, Place, show
from slim_distill.config._yaml import read_file
from slim_distill.config.checks import check
from slim_distill.config.convert import convert
from slim_distill.config.dialects._keys import FIXED, HARMLESS, REFUSED, SHARED, USED
from slim_distill.config.dialects._model import translate_model
from slim_distill.config.dialects._readers import translate_readers
from slim_distill.config.dialects._section import Section, open_section
from slim_distill.config.dialects._training import translate_optimizer, translate_schedule
from slim_distill.config.merge import merge, override, parse_override
from slim_distill.config.recipes import default_terms
from slim_distill.config.schema import CompileConfig, DistillConfig, EvalConfig, RunConfig, TrainConfig

__all__ = ["load_paddledetection"]

T = TypeVar("T", DistillConfig, CompileConfig)

LOGGER = logging.getLogger("slim_distill.config")

READER_KEY = "_READER_"
READERS = ("TrainReader", "EvalReader", "TestReader")
OWN = ("distill", "compile")
USED_ALWAYS = frozenset({"YOLOv3", "YOLOv3Head", "YOLOv3Loss", "LearningRate", "OptimizerBuilder", *READERS})
SECTIONS = USED_ALWAYS | {"MobileNet", "MobileNetV3", "ResNet", "DarkNet", "MultiClassNMS", "IouLoss", "DiouLossYolo"}


def load_paddledetection(path: Path, tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Translate a file.

    Args:
        path: the file; its name without ending becomes the name of the run, as in release 0.4.
        tree: what it holds, with `Tagged` nodes. `distill` and `compile` of our own dialect are understood beside its
            own keys.
        overrides: as for `load_config`; they apply to the keys of the file, its reader file included.

    Raises:
        ConfigError: a key or value that is unknown or not supported, with its dotted path and file.
    """
    layers = [Layer(str(path), tree)]
    merged = dict(tree)
    if READER_KEY in tree:
        del merged[READER_KEY]
        reader_path, reader = _read_reader(path, Place((READER_KEY,), layers), tree[READER_KEY])
        merged = merge(reader, merged)
        layers.append(Layer(str(reader_path), reader))
    for text in overrides:
        layer, value = parse_override(text, tags=True)
        merged = override(merged, layer.path, value)
        layers.insert(0, layer)
    root = Place((), layers)
    cfg = _translate(path.name.split(".")[0], merged, root)
    _warn_of_no_effect(merged, cfg)
    return check(cfg, Place((), [Layer(f"the translation of {path}", {})]))


def _read_reader(path: Path, place: Place, value: Any) -> tuple[Path, dict[str, Any]]:
    if not isinstance(value, str) or not value:
        place.fail(f"must be the name of a reader file, found {show(value)}")
    reader_path = path.parent / os.path.expanduser(value)
    if not reader_path.is_file():
        place.fail(f"there is no reader file {reader_path}; the name is relative to the file that says it")
    return reader_path, read_file(reader_path, tags=True)


def _translate(name: str, top: dict[str, Any], root: Place) -> RunConfig:
    run = _open_top({key: value for key, value in top.items() if key not in OWN}, root)
    fine_grained = _fine_grained(run)
    voc = run.choose("metric", {"VOC": True, "COCO": False})
    num_classes = run.get("num_classes", int)
    return RunConfig(
        name=name,
        model=translate_model(run, num_classes, fine_grained),
        data=translate_readers(top, root, num_classes, fine_grained, voc),
        optimizer=translate_optimizer(run),
        schedule=translate_schedule(run),
        train=TrainConfig(
            max_iters=run.get("max_iters", int),
            log_iter=run.get("log_iter", int),
            snapshot_iter=run.get("snapshot_iter", int),
            pretrain_weights=run.get("pretrain_weights", str | None) or "",
            pretrain_exclude=run.get("finetune_exclude_pretrained_params", tuple[str, ...] | None) or (),
        ),
        eval=EvalConfig(
            metric="voc" if voc else "coco",
            map_type=run.choose("map_type", ("11point", "integral")),
        ),
        distill=_own(DistillConfig, "distill", top, root, terms=default_terms(fine_grained)),
        compile=_own(CompileConfig, "compile", top, root),
        weights=run.get("weights", str | None) or "",
        output_dir=run.get("save_dir", str),
        # Published files say use_gpu: true; on a machine without one they run on the CPU here instead of stopping.
        device="auto" if run.get("use_gpu", bool) else "cpu",
    )


def _own(cls: type[T], key: str, top: Mapping[str, Any], root: Place, **defaults: Any) -> T:
    """A section of our own dialect, for what PaddleDetection has no key for; `defaults` where it says nothing."""
    given = top.get(key, {})
    record = convert(cls, given, root.at(key))
    return replace(record, **{name: value for name, value in defaults.items() if name not in given})


def _open_top(top: dict[str, Any], root: Place) -> Section:
    """Check the names at the top level; warn about sections that the model does not use."""
    shared = frozenset().union(*SHARED.values())
    keys = {*USED[""], *FIXED[""], *HARMLESS[""], *shared}
    for key in top:
        if key in REFUSED:
            root.at(key).fail(f"is not supported: {REFUSED[key]}")
        if key not in keys | SECTIONS:
            root.fail_unknown(key, keys | SECTIONS)
    values = {key: value for key, value in top.items() if key not in SECTIONS and key not in shared}
    run = open_section("", values, root, top, root)
    run.choose("architecture", ("YOLOv3",))
    return run


def _fine_grained(run: Section) -> bool:
    """Return the top-level `use_fine_grained_loss`, which drives loss and reader; a section must not contradict it."""
    wanted = run.get("use_fine_grained_loss", bool)
    for name in ("YOLOv3", "YOLOv3Loss"):
        section = open_section(name, run.top.get(name), run.root.at(name), run.top, run.root)
        if section.get("use_fine_grained_loss", bool | None) not in (None, wanted):
            section.place.at("use_fine_grained_loss").fail(
                f"contradicts the top-level use_fine_grained_loss, {show(wanted)}, which the reader follows; "
                "state it only there"
            )
    return wanted


def _warn_of_no_effect(top: Mapping[str, Any], cfg: RunConfig) -> None:
    """Name what is in the file without any effect, as in PaddleDetection, where a user may expect one."""
    named = [
        section[key]
        for section in (top["YOLOv3"], top.get("YOLOv3Head"), top.get("YOLOv3Loss"))
        for key in ("backbone", "nms", "iou_loss")
        if section is not None and isinstance(section.get(key), str)
    ]
    for name in sorted(top.keys() & SECTIONS - USED_ALWAYS - set(named)):
        LOGGER.warning("%s: no part of this model is of this class; the section has no effect", name)
    batch_size = (top.get("YOLOv3Loss") or {}).get("batch_size", -1)
    if batch_size not in (-1, cfg.data.train.batch_size):
        LOGGER.warning(
            "YOLOv3Loss.batch_size=%s has no effect, as in PaddleDetection 0.4: batches have TrainReader.batch_size=%d",
            batch_size,
            cfg.data.train.batch_size,
        )
