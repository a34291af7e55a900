"""One section of a foreign file: its keys checked against the tables, its values typed, its place at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slim_distill.common.names import nearest
from slim_distill.config._place import Place, show
from slim_distill.config._yaml import Tagged
from slim_distill.config.convert import convert
from slim_distill.config.dialects._keys import FIXED, HARMLESS, REQUIRED, SHARED, USED

__all__ = ["Section", "open_section"]


@dataclass(frozen=True)
class Section:
    """The keys of one class in a file.

    Attributes:
        kind: the class, a key of the tables.
        values: its keys as written.
        place: where they stand.
        top: the top level of the file, where shared keys and other sections are.
        root: the place of the top level.
    """

    kind: str
    values: Mapping[str, Any]
    place: Place
    top: Mapping[str, Any]
    root: Place

    def get(self, key: str, hint: Any) -> Any:
        """Return the value of a used key, or its default, as the type `hint`."""
        value, place = self.raw(key)
        return convert(hint, value, place)

    def raw(self, key: str) -> tuple[Any, Place]:
        """Return the value of a used key as written, or its default, and the place of it."""
        place = self.place.at(key)
        if key in self.values:
            return self.values[key], place
        if key in SHARED.get(self.kind, ()) and key in self.top:
            return self.top[key], self.root.at(key)
        default = USED[self.kind][key]
        if default is REQUIRED:
            place.fail("is missing; it is required")
        return default, place

    def choose(self, key: str, table: Mapping[Any, Any] | Sequence[Any]) -> Any:
        """Return what `table` holds for the value of a used key (for a list: the value); refuse other values."""
        value, place = self.raw(key)
        if not isinstance(value, (str, int)) or isinstance(value, bool) or value not in table:
            near = nearest(str(value), [str(entry) for entry in table])
            hint = f" (did you mean {near[0]!r}?)" if near and isinstance(value, str) else ""
            default = "" if key in self.values else ", the default of PaddleDetection"
            place.fail(f"{show(value)}{default} is not supported{hint}; supported: {', '.join(str(v) for v in table)}")
        return table[value] if isinstance(table, Mapping) else value

    def component(self, key: str, kinds: Sequence[str], inline: str = "") -> "Section | None":
        """Return the section of the class that a used key names, or None for null.

        Args:
            key: the key; its value is the name of a class (whose section, if any, stands at the top level), a tagged
                node, or, where `inline` says of which class, a mapping.
            kinds: the supported classes.
            inline: the class of a plain mapping.
        """
        value, place = self.raw(key)
        if value is None:
            return None
        if isinstance(value, Tagged) and value.tag in kinds:
            return open_section(value.tag, value.fields, place, self.top, self.root)
        if isinstance(value, Mapping) and inline:
            return open_section(inline, value, place, self.top, self.root)
        if isinstance(value, str) and value in kinds:
            return open_section(value, self.top.get(value), self.root.at(value), self.top, self.root)
        near = nearest(str(value), kinds) if isinstance(value, str) else []
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return place.fail(f"{show(value)} is not supported{hint}; supported: {', '.join(kinds)}")


def open_section(kind: str, values: Any, place: Place, top: Mapping[str, Any], root: Place) -> Section:
    """Check the keys of a section against the tables and return it.

    Args:
        kind: its class.
        values: its keys as written; None for a section that is not there or empty.
        place, top, root: as in `Section`.

    Raises:
        ConfigError: not a mapping, unknown key, or a value that is not supported.
    """
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        place.fail(f"must be a mapping of keys, found {show(values)}")
    fixed = FIXED.get(kind, {})
    known = {*USED[kind], *fixed, *HARMLESS.get(kind, {}), *SHARED.get(kind, ())}
    for key in values:
        if key not in known:
            place.fail_unknown(key, known)
    for key, (default, allowed, why) in fixed.items():
        value = values.get(key, default)
        if value not in allowed:
            silent = "" if key in values else ", the default of PaddleDetection,"
            wanted = " or ".join(show(entry) for entry in allowed)
            place.at(key).fail(f"{show(value)}{silent} is not supported, only {wanted}: {why}")
    return Section(kind, values, place, top, root)
