"""From plain data to the frozen records of `schema.py` and back, driven by their type hints."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from slim_distill.config._place import Place, show
from slim_distill.config.schema import RampConfig, RunConfig, TermConfig, TransformConfig

__all__ = ["convert", "to_dict"]

T = TypeVar("T")

SWITCHES = {"yes": True, "on": True, "no": False, "off": False}
SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Form:
    """How a record is written in YAML where that differs from its fields.

    Attributes:
        rest: the mapping field that takes the keys that are no fields; "" to refuse them.
        names: field -> key in YAML.
        singles: list fields that may be written as one value without brackets.
    """

    rest: str = ""
    names: Mapping[str, str] | None = None
    singles: tuple[str, ...] = ()

    def key(self, name: str) -> str:
        """Return the key in YAML of a field."""
        return name if self.names is None else self.names.get(name, name)


FORMS: Mapping[type, Form] = {
    RampConfig: Form(names={"start": "from"}),
    TransformConfig: Form(rest="args"),
    TermConfig: Form(rest="args", names={"source": "from"}, singles=("student", "teacher", "source")),
}


def convert(hint: Any, value: Any, place: Place) -> Any:
    """Return `value` as an instance of the type `hint`; records, lists and mappings are new objects.

    Args:
        hint: a dataclass, bool, int, float, str, Any, tuple[...], Mapping[str, ...], or one of these or None.
        value: plain data, as YAML gives it.
        place: where it stands, for messages.

    Raises:
        ConfigError: unknown or missing key, or wrong type; with the dotted path, what was found and what is wanted.
    """
    if hint is Any:
        return _convert_any(value, place)
    if get_origin(hint) in (Union, types.UnionType):
        return (
            None
            if value is None
            else convert(next(arg for arg in get_args(hint) if arg is not type(None)), value, place)
        )
    if isinstance(hint, type) and is_dataclass(hint):
        return _convert_record(hint, value, place)
    if get_origin(hint) is tuple:
        return _convert_list(get_args(hint), value, place)
    if get_origin(hint) is not None:
        inner = get_args(hint)[1]
        return {key: convert(inner, item, place.at(key)) for key, item in _mapping(value, place).items()}
    return _convert_scalar(hint, value, place)


def _convert_scalar(hint: type, value: Any, place: Place) -> Any:
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            place.fail(f"must be a number of usual size, found {show(value)}")
    if hint is bool and isinstance(value, str) and value.lower() in SWITCHES:
        return SWITCHES[value.lower()]
    if type(value) is not hint:  # not isinstance: true is no whole number
        place.fail(f"must be {SCALARS[hint]}, found {show(value)}{_hint(hint, value)}")
    if isinstance(value, float) and not math.isfinite(value):
        place.fail(f"must be a finite number, found {value}")
    if isinstance(value, str) and "\0" in value:
        place.fail(f"must be text without the character NUL, found {show(value)}")
    return value


def _hint(hint: type, value: Any) -> str:
    if hint is str and value is None:
        return "; write '' for empty text"
    return "; put it in quotes" if hint is str and isinstance(value, (bool, int, float)) else ""


def _mapping(value: Any, place: Place) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        place.fail(f"must be a mapping of keys, found {show(value)}")
    return value


def _convert_list(inner: tuple[Any, ...], value: Any, place: Place) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        place.fail(f"must be a list, found {show(value)}")
    if inner[-1] is Ellipsis:
        return tuple(convert(inner[0], item, place.at(i)) for i, item in enumerate(value))
    if len(value) != len(inner):
        place.fail(f"must be a list of {len(inner)} values, found {show(value)}")
    return tuple(convert(hint, item, place.at(i)) for i, (hint, item) in enumerate(zip(inner, value, strict=True)))


def _convert_any(value: Any, place: Place) -> Any:
    if isinstance(value, Mapping):
        return {key: _convert_any(item, place.at(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_convert_any(item, place.at(i)) for i, item in enumerate(value)]
    if value is None:
        return None
    if type(value) not in SCALARS:
        place.fail(f"must be plain data (text, numbers, lists, mappings), found {show(value)}")
    return _convert_scalar(type(value), value, place)


def _convert_record(cls: type[T], value: Any, place: Place) -> T:
    form = FORMS.get(cls, Form())
    hints = get_type_hints(cls)
    known = {form.key(field.name): field for field in fields(cls) if field.name != form.rest}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, item in _mapping(value, place).items():
        if key not in known:
            if not form.rest:
                place.fail_unknown(key, known)
            rest[key] = _convert_any(item, place.at(key))
            continue
        name = known[key].name
        if name in form.singles and isinstance(item, str):
            item = [item]
        found[name] = convert(hints[name], item, place.at(key))
    for key, field in known.items():
        if field.name not in found and _is_required(field):
            place.at(key).fail("is missing; it is required")
    return cls(**found, **({form.rest: rest} if form.rest else {}))


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def to_dict(cfg: RunConfig) -> dict[str, Any]:
    """Return a configuration as plain data in the form of our YAML: every key, defaults included.

    Raises:
        ConfigError: an argument of a transform or term has a name that YAML cannot tell from a key of the record.
    """
    return _plain(cfg, Place())


def _plain(value: Any, place: Place) -> Any:
    if is_dataclass(value):
        return _plain_record(value, place)
    if isinstance(value, Mapping):
        return {key: _plain(item, place.at(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, place.at(i)) for i, item in enumerate(value)]
    return value


def _plain_record(record: Any, place: Place) -> dict[str, Any]:
    form = FORMS.get(type(record), Form())
    tree: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name != form.rest:
            single = field.name in form.singles and len(value) == 1
            tree[form.key(field.name)] = value[0] if single else _plain(value, place.at(field.name))
    if form.rest:
        args = _plain(getattr(record, form.rest), place)
        clash = tree.keys() & args.keys()
        if clash:
            place.at(min(clash)).fail("an argument cannot have this name: in YAML it would be a key of its own")
        tree.update(args)
    return tree
