"""Where in a configuration something stands, for messages: the dotted path, and the file or override that wrote it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from slim_distill.common.errors import ConfigError
from slim_distill.common.names import nearest
from slim_distill.config._yaml import Tagged

__all__ = ["KeyPath", "Layer", "Place", "dotted", "parse_path", "shorten", "show"]

KeyPath = tuple[str | int, ...]
SHOWN = 60


@dataclass(frozen=True)
class Layer:
    """One source of keys: a file with its tree, or an override with the one path that it sets (`tree` is then None)."""

    label: str
    tree: Mapping[str, Any] | None = None
    path: KeyPath = ()

    def holds(self, path: KeyPath) -> bool:
        """Whether this source wrote the value at `path`, or something below or above it that includes it."""
        if self.tree is None:
            return path[: len(self.path)] == self.path or self.path[: len(path)] == path
        value: Any = self.tree
        for key in path:
            value = value.fields if isinstance(value, Tagged) else value
            if isinstance(value, Mapping) and key in value:
                value = value[key]  # type: ignore[index]
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return False
        return True


@dataclass(frozen=True)
class Place:
    """A dotted path, and the sources of the configuration, the one that wins first."""

    path: KeyPath = ()
    layers: Sequence[Layer] = ()

    def at(self, *keys: str | int) -> "Place":
        """Return the place of a key, or of a key of a key, below this one."""
        return Place((*self.path, *keys), self.layers)

    def fail(self, problem: str) -> NoReturn:
        """Raise `ConfigError`: dotted path, problem, source."""
        source = next((layer.label for layer in self.layers if layer.holds(self.path)), None)
        if source is None and self.layers:  # a missing key stands in no source; the last file is the root of the tree
            source = next(layer.label for layer in self.layers if layer.tree is not None)
        where = f"{dotted(self.path)}: " if self.path else ""
        raise ConfigError(f"{where}{problem}" + (f" (in {source})" if source is not None else ""))

    def fail_unknown(self, key: str, known: Iterable[str]) -> NoReturn:
        """Raise `ConfigError` for a key that is not known here, with the nearest known ones."""
        names = sorted(known)
        near = nearest(key, names)
        hint = f"did you mean {near[0]!r}? " if near else ""
        self.at(key).fail(f"unknown key; {hint}known here: {', '.join(names)}")


def dotted(path: KeyPath) -> str:
    """Write ("terms", 1, "weight") as terms[1].weight."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def parse_path(text: str) -> KeyPath:
    """Read `terms.1.weight` or `terms[1].weight`; empty parts stay, for the caller to refuse."""
    parts = re.sub(r"\[(\d+)\]", r".\1", text).split(".")
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in parts)


def show(value: Any) -> str:
    """Describe a value for a message: its kind in words and itself, shortened."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, Tagged):
        return f"!{value.tag}"
    kinds = {bool: "", int: "", float: "", str: "the text ", list: "the list ", dict: "the mapping "}
    text = str(value).lower() if isinstance(value, bool) else shorten(value)
    return kinds.get(type(value), f"{type(value).__name__} ") + text


def shorten(value: Any) -> str:
    """Write a value as Python does, cut off after some 60 characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
