"""Reading YAML: plain data only, bounded, with file and line in every refusal."""

import time
from pathlib import Path

import pytest
import yaml

from slim_distill.common.errors import ConfigError
from slim_distill.config import load_config
from slim_distill.config._yaml import MAX_BYTES, Tagged, parse_text, read_file, to_text


def test_reads_plain_data():
    tree = parse_text("a: 1e-4\nb: 2020-01-01\nc: [1, 2.5, true, null, 'x']\nd: {e: -1E+3, f: 0x10, g: =}\n", "f.yml")
    assert tree == {
        "a": 1e-4,
        "b": "2020-01-01",
        "c": [1, 2.5, True, None, "x"],
        "d": {"e": -1000.0, "f": 16, "g": "="},
    }


def test_merge_keys_bring_in_what_is_not_given():
    tree = parse_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n", "f.yml")
    assert tree == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


def test_an_empty_document_is_none():
    assert parse_text("# nothing\n", "f.yml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"f\.yml:3:1: the key 'a' is given twice; the first is in line 1"),
        ("a: {b: 1, c: 2, b: 3}\n", r"f\.yml:1:17: the key 'b' is given twice"),
        ("a: [1, 2\nb: 3\n", r"f\.yml:2:2: expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", r"f\.yml:2:1: found character '\\t'"),
        ("a: 1\n---\nb: 2\n", r"f\.yml:2:1: but found another document"),
        ("1: a\n", r"f\.yml:1:1: a key must be text, found 1; quote it"),
        ("true: a\n", r"f\.yml:1:1: a key must be text, found true"),
        ("? [a]\n: b\n", r"f\.yml:1:3: a key must be text, found a list or a mapping"),
        ("a: {<<: {1: 2}}\n", r"f\.yml:1:4: a key must be text"),
        ("a: *b\n", r"f\.yml:1:4: found undefined alias 'b'"),
        ("a: &a [*a]\n", r"f\.yml:1:4: an alias refers to a value that contains it"),
        ("a: !!int abc\n", r"f\.yml:1:4: 'abc' is not a value of the type tag:yaml\.org,2002:int"),
        ("a: !!bool maybe\n", r"f\.yml:1:4: 'maybe' is not a value of the type"),
        ("a: 0b_\n", r"f\.yml:1:4: '0b_' is not a value of the type"),
        ("a: !!set {b}\n", r"f\.yml:1:4: the tag 'tag:yaml\.org,2002:set' is not allowed here"),
        ("a: !!binary aGk=\n", r"the tag 'tag:yaml\.org,2002:binary' is not allowed here"),
        ("a: !Name {b: 1}\n", r"f\.yml:1:4: the tag '!Name' is not allowed here.*'architecture:'"),
        ("a: \x07\n", r"f\.yml:1: the character U\+0007 is not allowed in YAML"),
        ("a: " + "[" * 60 + "]" * 60, r"f\.yml:1:\d+: values are nested more than 50 levels deep"),
    ],
)
def test_refuses_with_file_and_line(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_text(text, "f.yml")


@pytest.mark.parametrize("tags", [False, True])
@pytest.mark.parametrize(
    "node",
    [
        "!!python/object/apply:pathlib.Path.touch [{path}]",
        "!!python/object/apply:os.mkdir ['{path}']",
        "!!python/object/new:os.mkdir ['{path}']",
        "!!python/name:os.system ''",
        "!!python/module:os ''",
        "!!python/tuple [1]",
        "!<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{path}']",
        "!python/object/apply:os.mkdir ['{path}']",
        "!os.mkdir {{name: '{path}'}}",
    ],
)
def test_python_tags_never_execute(tmp_path: Path, node: str, tags: bool):
    made = tmp_path / "made"
    text = "architecture: YOLOv3\na: " + node.format(path=made) + "\n"
    with pytest.raises(ConfigError, match=r"f\.yml:2:4: the tag '.*' is not allowed here"):
        parse_text(text, "f.yml", tags=tags)
    assert not made.exists()


def test_the_attack_of_the_test_above_works_on_an_unsafe_loader(tmp_path: Path):
    made = tmp_path / "made"
    yaml.load(f"!!python/object/apply:os.mkdir ['{made}']", Loader=yaml.UnsafeLoader)
    assert made.exists()


def test_tags_become_records_where_the_dialect_has_them():
    tree = parse_text("a: !Name {b: [1]}\nc: !Other\n", "f.yml", tags=True)
    assert tree == {"a": Tagged("Name", {"b": [1]}), "c": Tagged("Other", {})}
    with pytest.raises(ConfigError, match=r"f\.yml:1:4: !Name must be followed by a mapping of its arguments"):
        parse_text("a: !Name [1]\n", "f.yml", tags=True)


@pytest.mark.parametrize("merge", [False, True])
def test_refuses_alias_bombs_at_once(merge: bool):
    lines = ["a0: &a0 {x: 1}" if merge else "a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(40):
        parts = ", ".join([f"*a{i}"] * 9)
        lines.append(f"a{i + 1}: &a{i + 1} " + (f"{{<<: [{parts}]}}" if merge else f"[{parts}]"))
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"bomb\.yml:1:1: holds more than 20000 values or 50 levels"):
        parse_text("\n".join(lines), "bomb.yml")
    assert time.perf_counter() - start < 2.0


def test_refuses_long_chains_of_aliases():
    lines = ["a0: &a0 [x]", *(f"a{i + 1}: &a{i + 1} [*a{i}]" for i in range(150))]
    with pytest.raises(ConfigError, match="50 levels once its aliases are spelt out"):
        parse_text("\n".join(lines), "chain.yml")


def test_refuses_files_that_are_no_configuration(tmp_path: Path):
    path = tmp_path / "f.yml"
    cases = {
        b"": r"f\.yml:1: the file is empty",
        b"# a comment\n": r"f\.yml:1: the file is empty",
        b"- 1\n": r"f\.yml:1: holds a list; a configuration is a mapping",
        b"hello\n": r"f\.yml:1: holds the value 'hello'; a configuration is a mapping",
        b"a: 1\nb: \xff\n": r"f\.yml:2: is not UTF-8 text",
        b"#" * (MAX_BYTES + 1): rf"f\.yml: is larger than {MAX_BYTES} bytes",
    }
    for data, message in cases.items():
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=message):
            read_file(path)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_file(tmp_path)


def test_written_text_reads_back_equal():
    tree = {
        "text": [
            "",
            "1e5",
            "1e-4",
            "yes",
            "null",
            "2020-01-01",
            "~",
            "a: b",
            "#x",
            "<<",
            "=",
            "ü\n\t\x07",
            "0x1",
            "!A",
            "1:30",
        ],
        "numbers": [1e-4, 1.0, -0.0, 1e22, 5e-324, 0.1, 10**20, 0],
        "others": [True, None, [], {}, {"a": [{"b": []}]}],
    }
    assert parse_text(to_text(tree), "f.yml") == tree


def test_shared_values_are_written_out_in_full():
    shared = [1, 2]
    assert "&" not in to_text({"a": shared, "b": shared})


def test_off_is_text_and_a_switch_takes_it_all_the_same(tmp_path):
    path = tmp_path / "f.yml"
    path.write_text(
        "name: n\nmodel: {num_classes: 2, backbone: {type: resnet, freeze_norm: off}}\ncompile: {teacher: off}\n"
        "distill: {force: yes}\n"
    )
    cfg = load_config(path)
    assert cfg.compile.teacher == "off"
    assert cfg.model.backbone.freeze_norm is False
    assert cfg.distill.force is True
