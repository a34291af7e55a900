"""From a YAML file and overrides to a checked `RunConfig`, and back to YAML."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import nearest
from slim_distill.config._place import Layer, Place, show
from slim_distill.config._yaml import FOREIGN_KEY, read_file, to_text
from slim_distill.config.checks import check
from slim_distill.config.convert import convert, to_dict
from slim_distill.config.dialects.paddledetection import load_paddledetection
from slim_distill.config.merge import merge, override, parse_override
from slim_distill.config.schema import RunConfig

__all__ = ["dump_config", "load_config", "with_recipe"]

BASE_KEY = "base"
RECIPE_KEY = "distill"


def load_config(path: str | PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration file.

    Two dialects are understood: our own, the keys of `RunConfig`, and that of PaddleDetection 0.x, recognised by its
    top-level key `architecture`. In our own, `base: FILE` (relative to the file that says so) includes one other file;
    keys of the including file win, mappings merge key by key, lists replace.

    Args:
        path: the YAML file.
        overrides: texts like "train.max_iters=100" or "data.train.transforms.0.to_rgb=false", the last one wins; they
            are keys of the file's own dialect.

    Returns:
        The configuration, every value of the right type and in its range.

    Raises:
        ConfigError: file missing or not YAML (with line), unknown key (with the nearest known one), wrong type or value
            out of range (with dotted path, found and wanted), override that leads nowhere.
    """
    main = Path(path)
    tree = _read(main)
    if FOREIGN_KEY in tree:
        return load_paddledetection(main, tree, overrides)
    layers = _read_chain(main, tree)
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = merge(merged, layer.tree or {})
    for text in overrides:
        layer, value = parse_override(text)
        merged = override(merged, layer.path, value)
        layers.insert(0, layer)
    place = Place((), layers)
    return check(convert(RunConfig, merged, place), place)


def dump_config(cfg: RunConfig) -> str:
    """Return a configuration as YAML of our own dialect, every key spelt out, that loads back to an equal one."""
    return to_text(to_dict(cfg))


def with_recipe(cfg: RunConfig, path: str | PathLike[str]) -> RunConfig:
    """Return a run with the recipe of a file in place of its own.

    The file is YAML with the one key `distill`, written as in a configuration; its `terms` replace those of the run,
    other keys are laid over the run's.

    Raises:
        ConfigError: as `load_config`; also another key than `distill`, and a recipe without terms.
    """
    main = Path(path)
    tree = _read(main)
    place = Place((), [Layer(str(main), tree), Layer("the student's configuration", to_dict(cfg))])
    for key in tree:
        if key != RECIPE_KEY:
            place.at(key).fail(
                f"a recipe has the one key {RECIPE_KEY!r}: the rest is the student's, so that nothing else differs"
            )
    recipe = tree.get(RECIPE_KEY)
    if not isinstance(recipe, dict) or not recipe.get("terms"):
        place.at(RECIPE_KEY, "terms").fail("a recipe needs at least one term; see docs/recipes.md")
    merged = merge(to_dict(cfg), tree)
    return check(convert(RunConfig, merged, place), place)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        folder = path.parent
        names = (
            [entry.name for entry in folder.iterdir() if entry.suffix in (".yml", ".yaml")] if folder.is_dir() else []
        )
        near = nearest(path.name, names)
        hint = f"; did you mean {folder / near[0]}?" if near else ""
        raise ConfigError(f"{path}: there is no such configuration file{hint}")
    return read_file(path)


def _read_chain(main: Path, tree: dict[str, Any]) -> list[Layer]:
    """Return the file and the files that it is based on, the nearest first, without their `base` keys."""
    layers: list[Layer] = []
    seen: list[Path] = []
    path: Path | None = main
    while path is not None:
        seen.append(path.resolve())
        place = Place((BASE_KEY,), [Layer(str(path), tree)])
        base = tree.get(BASE_KEY)
        layers.append(Layer(str(path), {key: value for key, value in tree.items() if key != BASE_KEY}))
        if BASE_KEY not in tree:
            return layers
        if not isinstance(base, str) or not base:
            place.fail(f"must be the name of one file, found {show(base)}")
        path = path.parent / base
        if path.resolve() in seen:
            place.fail(f"includes in a circle: {' -> '.join(str(file) for file in [*seen, path.resolve()])}")
        if not path.is_file():
            place.fail(f"there is no file {path}; the name is relative to the file that says it")
        tree = _read(path)
        if FOREIGN_KEY in tree:
            place.fail(
                f"{path} is written in the dialect of PaddleDetection; a base must be in the dialect of its file"
            )
    return layers
