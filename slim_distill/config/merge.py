"""Putting plain trees together: files over their base, overrides over files. Nothing is changed in place."""

from collections.abc import Mapping
from typing import Any

from slim_distill.common.errors import ConfigError
from slim_distill.config._place import KeyPath, Layer, dotted, parse_path, shorten, show
from slim_distill.config._yaml import Tagged, parse_text

__all__ = ["merge", "override", "parse_override"]


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the keys of `over` on top: mappings merge key by key, everything else replaces."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_override(text: str, tags: bool = False) -> tuple[Layer, Any]:
    """Read `a.b=c` (or `a.0.b=c`, `a[0].b=c` for entries of a list); the value is YAML, with `!Name` nodes if `tags`.

    Raises:
        ConfigError: no '=', an empty part in the path, or a value that is not YAML.
    """
    path_text, equals, value_text = text.partition("=")
    path = parse_path(path_text.strip())
    if not equals or "" in path:
        raise ConfigError(f"{shorten(text)}: an override is written KEY.KEY=VALUE, such as train.max_iters=100")
    label = f"override {shorten(text)}"
    return Layer(label, None, path), parse_text(value_text, label, tags)


def override(tree: Any, path: KeyPath, value: Any, done: KeyPath = ()) -> Any:
    """Return `tree` with the value at `path` replaced, or merged where both are mappings; missing mappings are made.

    Args:
        tree: plain data; `Tagged` nodes are entered like mappings.
        path: the keys, and the numbers of list entries, still to go.
        value: the new value.
        done: the keys behind us, for messages.

    Raises:
        ConfigError: the path leads into a value that has no keys, or to an entry that the list does not have.
    """
    if not path:
        return merge(tree, value) if isinstance(tree, Mapping) and isinstance(value, Mapping) else value
    key, here = path[0], (*done, path[0])
    if isinstance(tree, Tagged):
        return Tagged(tree.tag, override(tree.fields, path, value, done))
    if tree is None:
        tree = {}
    if isinstance(tree, Mapping):
        name = str(key)
        return {**tree, name: override(tree.get(name), path[1:], value, here)}
    if not isinstance(tree, list):
        raise ConfigError(f"{dotted(here)}: cannot be set, {dotted(done)} is {show(tree)} and has no keys")
    if not isinstance(key, int) or key >= len(tree):
        raise ConfigError(
            f"{dotted(here)}: cannot be set, {dotted(done)} is a list with the entries 0 to {len(tree) - 1}"
        )
    return [*tree[:key], override(tree[key], path[1:], value, here), *tree[key + 1 :]]
