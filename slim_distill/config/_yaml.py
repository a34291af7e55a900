"""Reading and writing YAML as plain data: nothing in a document is ever executed, and its size is bounded.

Differences from `yaml.safe_load`, each on purpose: a key given twice is an error, dates stay text, `1e-4` is a number
and `off` and `yes` are text (as in YAML 1.2; a key that wants true or false takes them all the same), sets, binary
blobs and ordered maps are refused, and so are documents that hold more than `MAX_VALUES` values once their aliases are
spelt out. `!Name` nodes are read only where a dialect has them, as `Tagged` records, which are data as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from slim_distill.common.errors import ConfigError

__all__ = ["FOREIGN_KEY", "Tagged", "parse_text", "read_file", "to_text"]

FOREIGN_KEY = "architecture"  # at the top level of a file it tells the dialect of PaddleDetection 0.x
MAX_BYTES = 200_000
MAX_VALUES = 20_000
MAX_DEPTH = 50

YAML_ORG = "tag:yaml.org,2002:"
PLAIN_TAGS = frozenset(YAML_ORG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))
TAG_NAME = re.compile(r"![A-Za-z_][A-Za-z0-9_]*")
# YAML 1.1 wants a dot and a sign in an exponent; everybody writes 1e-4.
FLOAT_1_2 = re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$")
# `teacher: off` names a choice.
BOOL_1_2 = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")


@dataclass(frozen=True)
class Tagged:
    """A `!Name {...}` node: the name without its exclamation mark, and its keys."""

    tag: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def _plain_resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """How a scalar without quotes gets its type, by its first character."""
    resolvers = {
        first: [(tag, BOOL_1_2 if tag == YAML_ORG + "bool" else pattern) for tag, pattern in known if tag in PLAIN_TAGS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+0123456789":
        resolvers[first] = [*resolvers[first], (YAML_ORG + "float", FLOAT_1_2)]
    return resolvers


def _refuse(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    """A safe loader that knows plain data, and `Tagged` records where `allow_tags` is set."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = _plain_resolvers()  # type: ignore[misc]

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.allow_tags = False
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"values are nested more than {MAX_DEPTH} levels deep"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=True)
        except (ValueError, KeyError, IndexError, OverflowError) as error:  # such as `!!int abc`, `0b_`, `!!bool maybe`
            raise _refuse(node, f"{str(node.value)[:40]!r} is not a value of the type {node.tag}") from error

    def construct_plain_mapping(self, node: yaml.Node) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _refuse(node, "a mapping is wanted here")
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            text = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            if key.tag not in (YAML_ORG + "str", YAML_ORG + "merge"):
                raise _refuse(key, f"a key must be text, found {text[:40]}; quote it if text is meant")
            if text in first_line:
                raise _refuse(key, f"the key {text!r} is given twice; the first is in line {first_line[text]}")
            first_line[text] = key.start_mark.line + 1
        self.flatten_mapping(node)  # `<<` merges the keys of another mapping
        pairs = {self.construct_object(key): self.construct_object(value) for key, value in node.value}
        if not all(isinstance(key, str) for key in pairs):
            raise _refuse(node, "a key must be text; '<<' brings in one that is not")
        return pairs

    def construct_plain_sequence(self, node: yaml.Node) -> list[Any]:
        return list(self.construct_sequence(node, deep=True))  # type: ignore[arg-type]

    def construct_tagged(self, node: yaml.Node) -> Tagged:
        if not self.allow_tags or not TAG_NAME.fullmatch(node.tag):
            hint = (
                f"; only files with a top-level '{FOREIGN_KEY}:' have such tags" if TAG_NAME.fullmatch(node.tag) else ""
            )
            raise _refuse(node, f"the tag {node.tag!r} is not allowed here: values are plain data, never objects{hint}")
        if isinstance(node, yaml.ScalarNode) and node.value == "":
            return Tagged(node.tag[1:])
        if isinstance(node, yaml.MappingNode):
            return Tagged(node.tag[1:], self.construct_plain_mapping(node))
        raise _refuse(node, f"{node.tag} must be followed by a mapping of its arguments")

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        **{tag: call for tag, call in yaml.SafeLoader.yaml_constructors.items() if tag in PLAIN_TAGS},
        YAML_ORG + "map": construct_plain_mapping,
        YAML_ORG + "seq": construct_plain_sequence,
        None: construct_tagged,
    }


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as the same value; the same resolvers tell it which text needs quotes."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = _Loader.yaml_implicit_resolvers  # type: ignore[misc]

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], active: set[int]) -> tuple[int, int]:
    """Return (values, levels) of a node with its aliases spelt out; `known` and `active` are by id of node."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 1
    if id(node) in active:
        raise _refuse(node, "an alias refers to a value that contains it")
    if id(node) not in known:
        active.add(id(node))
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        sizes = [_measure(part, known, active) for part in parts]
        active.discard(id(node))
        values = 1 + sum(values for values, _ in sizes)
        # Capped, because the true number may have thousands of digits.
        known[id(node)] = min(values, MAX_VALUES + 1), 1 + max((levels for _, levels in sizes), default=0)
    return known[id(node)]


def _load(loader: _Loader, tags: bool | None) -> Any:
    root = loader.get_single_node()
    if root is None:
        return None
    values, levels = _measure(root, {}, set())
    if values > MAX_VALUES or levels > MAX_DEPTH:
        problem = f"holds more than {MAX_VALUES} values or {MAX_DEPTH} levels once its aliases are spelt out"
        raise _refuse(root, problem)
    if tags is None:
        keys = [key.value for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []
        tags = FOREIGN_KEY in keys
    loader.allow_tags = tags
    return loader.construct_document(root)


def parse_text(text: str, where: str, tags: bool | None = False) -> Any:
    """Return the one YAML document in `text` as plain data; None for an empty one.

    Args:
        text: the YAML.
        where: the name of the source in messages: a file or an override.
        tags: whether `!Name` nodes are read as `Tagged`; None for "if there is a top-level `architecture:` key".

    Raises:
        ConfigError: not YAML, more than one document, not plain data, or absurdly large; with source, line and column.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where}: is longer than {MAX_BYTES} characters; this is not a configuration")
    try:
        loader = _Loader(text)
        try:
            return _load(loader, tags)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        context = "" if error.context is None else f" ({error.context})"
        raise ConfigError(f"{where}{place}: {error.problem}{context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{where}:{line}: the character U+{error.character:04X} is not allowed in YAML") from error


def read_file(path: Path, tags: bool | None = None) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        path: the file.
        tags: as for `parse_text`.

    Raises:
        ConfigError: the file cannot be read, is empty, is not YAML, or does not hold a mapping.
    """
    tree = parse_text(_read_text(path), str(path), tags)
    if tree is None:
        raise ConfigError(f"{path}:1: the file is empty; a configuration is a mapping of keys, such as 'name: my_run'")
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else f"the value {str(tree)[:40]!r}"
        raise ConfigError(f"{path}:1: holds {found}; a configuration is a mapping of keys, such as 'name: my_run'")
    return tree


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES} bytes; this is not a configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text ({error.reason})") from error


def to_text(tree: Mapping[str, Any]) -> str:
    """Return plain data as YAML, keys in their order, that `parse_text` reads back as an equal value."""
    return yaml.dump(
        dict(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
    )
