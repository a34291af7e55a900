"""Our own dialect: from file and overrides to `RunConfig`, and back."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.config import RunConfig, TermConfig, TransformConfig, dump_config, load_config, to_dict, with_recipe
from slim_distill.config.merge import merge, override
from tests.config.samples import OWN, write_foreign, write_own


def test_reads_every_kind_of_value(tmp_path: Path):
    cfg = load_config(write_own(tmp_path))
    assert cfg.name == "sample"
    assert cfg.model.num_classes == 3
    assert cfg.model.backbone.depth == 18
    assert cfg.model.head.anchors[0] == (10, 13)
    assert cfg.data.train.transforms == (
        TransformConfig("DecodeImage", {"to_rgb": True}),
        TransformConfig("RandomShape", {"sizes": [96, 128]}),
    )
    assert cfg.data.train.dataset.classes == ("a", "b", "c")
    assert cfg.schedule.milestones == (10, 20)
    assert cfg.distill.teachers["big_"].weights == "big.pdparams"
    assert cfg.distill.terms == (
        TermConfig("l2", ("yolo_head.0",), ("yolo_head.0",), 100.0, ("big_",), {"reduction": "mean"}),
    )
    assert type(cfg.distill.terms[0].weight) is float


def test_the_configuration_is_frozen(tmp_path: Path):
    with pytest.raises(FrozenInstanceError):
        load_config(write_own(tmp_path)).seed = 1  # type: ignore[misc]


def test_dump_loads_back_equal(tmp_path: Path):
    cfg = load_config(write_own(tmp_path))
    cfg = replace(cfg, weights="1e5", train=replace(cfg.train, pretrain_weights="yes"), seed=7)
    again = load_config(write_own(tmp_path, dump_config(cfg), "dumped.yml"))
    assert again == cfg
    assert to_dict(again) == to_dict(cfg)
    assert dump_config(load_config(write_own(tmp_path, dump_config(again)))) == dump_config(again)


def test_terms_and_transforms_are_dumped_as_they_are_written(tmp_path: Path):
    tree = to_dict(load_config(write_own(tmp_path)))
    assert tree["data"]["train"]["transforms"][0] == {"type": "DecodeImage", "to_rgb": True}
    assert tree["distill"]["terms"][0] == {
        "loss": "l2",
        "student": "yolo_head.0",
        "teacher": "yolo_head.0",
        "weight": 100.0,
        "from": "big_",
        "schedule": None,
        "balance": 0.0,
        "reduction": "mean",
    }


def test_refuses_to_dump_an_argument_that_yaml_would_confuse(tmp_path: Path):
    cfg = load_config(write_own(tmp_path))
    transforms = (TransformConfig("Permute", {"type": 1}),)
    train = replace(cfg.data.train, transforms=transforms)
    with pytest.raises(ConfigError, match=r"data\.train\.transforms\[0\]\.type: an argument cannot have this name"):
        dump_config(replace(cfg, data=replace(cfg.data, train=train)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: sample", "nam: sample", r"^nam: unknown key; did you mean 'name'\? known here: .*\(in .*own\.yml\)$"),
        ("root: some", "rooot: some", r"^data\.train\.dataset\.rooot: unknown key; did you mean 'root'\?"),
        ("batch_size: 4", "batchsize: 4", r"^data\.train\.batchsize: unknown key; did you mean 'batch_size'\?"),
        (
            "config: big.yml",
            "cofnig: big.yml",
            r"^distill\.teachers\.big_\.cofnig: unknown key; did you mean 'config'\?",
        ),
        ("name: sample\n", "", r"^name: is missing; it is required \(in .*own\.yml\)$"),
        ("student: yolo_head.0, ", "", r"^distill\.terms\[0\]\.student: is missing; it is required"),
        ("num_classes: 3", "", r"^model\.num_classes: is missing; it is required"),
        (
            "batch_size: 4",
            "batch_size: four",
            r"^data\.train\.batch_size: must be a whole number, found the text 'four'",
        ),
        ("batch_size: 4", "batch_size: 4.0", r"^data\.train\.batch_size: must be a whole number, found 4\.0"),
        ("batch_size: 4", "batch_size: true", r"^data\.train\.batch_size: must be a whole number, found true"),
        ("batch_size: 4", "batch_size:", r"^data\.train\.batch_size: must be a whole number, found nothing \(null\)"),
        ("base_lr: 0.01", "base_lr: fast", r"^schedule\.base_lr: must be a number, found the text 'fast'"),
        ("base_lr: 0.01", "base_lr: true", r"^schedule\.base_lr: must be a number, found true"),
        ("base_lr: 0.01", "base_lr: .inf", r"^schedule\.base_lr: must be a finite number, found inf"),
        ("base_lr: 0.01", "base_lr: .nan", r"^schedule\.base_lr: must be a finite number, found nan"),
        ("base_lr: 0.01", "base_lr: 1" + "0" * 400, r"^schedule\.base_lr: must be a number of usual size, found 1000"),
        ("name: sample", "name: 12", r"^name: must be text, found 12; put it in quotes"),
        ("name: sample", "name: null", r"^name: must be text, found nothing \(null\); write '' for empty text"),
        ("batch_size: 4", "shuffle: 1", r"^data\.train\.shuffle: must be true or false, found 1"),
        ("milestones: [10, 20]", "milestones: 10", r"^schedule\.milestones: must be a list, found 10"),
        ("[10, 20]", "[10, x]", r"^schedule\.milestones\[1\]: must be a whole number, found the text 'x'"),
        (
            "depth: 18}",
            "depth: 18}\n  head: {anchors: [[1, 2, 3]]}",
            r"^model\.head\.anchors\[0\]: must be a list of 2 values",
        ),
        (
            "{type: DecodeImage, to_rgb: true}",
            "DecodeImage",
            r"transforms\[0\]: must be a mapping of keys, found the text",
        ),
        ("to_rgb: true", "to_rgb: .nan", r"^data\.train\.transforms\[0\]\.to_rgb: must be a finite number"),
        ("classes: [a, b, c]", "classes: abc", r"^data\.train\.dataset\.classes: must be a list, found the text 'abc'"),
    ],
)
def test_refuses_wrong_keys_and_types(tmp_path: Path, old: str, new: str, message: str):
    assert old in OWN
    with pytest.raises(ConfigError, match=message):
        load_config(write_own(tmp_path, OWN.replace(old, new)))


def test_whole_numbers_stand_for_numbers(tmp_path: Path):
    base_lr = load_config(write_own(tmp_path, OWN.replace("base_lr: 0.01", "base_lr: 1"))).schedule.base_lr
    assert base_lr == 1.0
    assert type(base_lr) is float


def test_a_missing_file_shows_the_nearest(tmp_path: Path):
    write_own(tmp_path)
    with pytest.raises(
        ConfigError, match=r"own\.yaml: there is no such configuration file; did you mean .*/own\.yml\?"
    ):
        load_config(tmp_path / "own.yaml")
    with pytest.raises(ConfigError, match=r"nowhere/own\.yml: there is no such configuration file$"):
        load_config(tmp_path / "nowhere" / "own.yml")


# base


def test_base_is_under_the_file_that_includes_it(tmp_path: Path):
    write_own(tmp_path)
    (tmp_path / "sub").mkdir()
    top = write_own(tmp_path / "sub", "base: ../own.yml\nname: top\nschedule: {milestones: [5]}\n", "top.yml")
    cfg = load_config(top)
    assert cfg.name == "top"
    assert cfg.schedule.milestones == (5,)  # a list replaces
    assert cfg.schedule.base_lr == 0.01  # a mapping merges
    assert cfg.model.backbone.depth == 18


def test_bases_form_a_chain(tmp_path: Path):
    write_own(tmp_path)
    write_own(tmp_path, "base: own.yml\nseed: 1\nweights: mid\n", "mid.yml")
    cfg = load_config(write_own(tmp_path, "base: mid.yml\nseed: 2\n", "top.yml"))
    assert (cfg.seed, cfg.weights, cfg.name) == (2, "mid", "sample")


def test_an_error_names_the_file_that_holds_the_key(tmp_path: Path):
    write_own(tmp_path, OWN + "weihgts: x\n")
    with pytest.raises(ConfigError, match=r"^weihgts: unknown key; did you mean 'weights'\?.*\(in .*own\.yml\)$"):
        load_config(write_own(tmp_path, "base: own.yml\nname: top\n", "top.yml"))
    write_own(tmp_path)
    with pytest.raises(ConfigError, match=r"^seed: .*\(in .*top\.yml\)$"):
        load_config(write_own(tmp_path, "base: own.yml\nseed: x\n", "top.yml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: missing.yml\n", r"^base: there is no file .*missing\.yml; the name is relative .*\(in .*top\.yml\)"),
        ("base: [a.yml]\n", r"^base: must be the name of one file, found the list \['a\.yml'\]"),
        ("base: ''\n", r"^base: must be the name of one file, found the text ''"),
        ("base: top.yml\n", r"^base: includes in a circle: .*top\.yml -> .*top\.yml"),
        (
            "base: other.yml\n",
            r"^base: includes in a circle: .*top\.yml -> .*other\.yml -> .*top\.yml \(in .*other\.yml\)",
        ),
        ("base: foreign.yml\n", r"^base: .*foreign\.yml is written in the dialect of PaddleDetection"),
    ],
)
def test_refuses_a_wrong_base(tmp_path: Path, text: str, message: str):
    write_foreign(tmp_path)
    write_own(tmp_path, "base: top.yml\n", "other.yml")
    with pytest.raises(ConfigError, match=message):
        load_config(write_own(tmp_path, text, "top.yml"))


# overrides


@pytest.mark.parametrize(
    ("text", "get", "value"),
    [
        ("seed=5", lambda c: c.seed, 5),
        ("train.max_iters=7", lambda c: c.train.max_iters, 7),
        ("schedule.base_lr=1e-4", lambda c: c.schedule.base_lr, 1e-4),
        ("schedule.milestones=[1,2,3]", lambda c: c.schedule.milestones, (1, 2, 3)),
        ("schedule={gamma: 0.5}", lambda c: (c.schedule.gamma, c.schedule.base_lr), (0.5, 0.01)),
        ("data.train.transforms.0.to_rgb=false", lambda c: c.data.train.transforms[0].args, {"to_rgb": False}),
        ("data.train.transforms[1].sizes.0=32", lambda c: c.data.train.transforms[1].args, {"sizes": [32, 128]}),
        ("distill.terms.0.weight=0", lambda c: c.distill.terms[0].weight, 0.0),
        ("weights=https://host/a=b.tar#sha256=12", lambda c: c.weights, "https://host/a=b.tar#sha256=12"),
        ("weights=''", lambda c: c.weights, ""),
        ("distill.teachers.new_.config=x.yml", lambda c: c.distill.teachers["new_"].config, "x.yml"),
        ("model.backbone.conv_decay=null", lambda c: c.model.backbone.conv_decay, None),
        (" seed = 5", lambda c: c.seed, 5),
    ],
)
def test_overrides(tmp_path: Path, text: str, get, value):
    assert get(load_config(write_own(tmp_path), [text])) == value


def test_the_last_override_wins(tmp_path: Path):
    assert load_config(write_own(tmp_path), ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", r"^'seed': an override is written KEY\.KEY=VALUE"),
        ("=5", r"^'=5': an override is written"),
        ("train..max_iters=5", r"^'train\.\.max_iters=5': an override is written"),
        ("sead=5", r"^sead: unknown key; did you mean 'seed'\?.*\(in override 'sead=5'\)$"),
        ("train.max_iter=5", r"^train\.max_iter: unknown key; did you mean 'max_iters'\?"),
        ("nowhere.to.be=5", r"^nowhere: unknown key"),
        ("seed=x", r"^seed: must be a whole number, found the text 'x' \(in override 'seed=x'\)$"),
        ("seed=[", r"override 'seed=\[':1:2: expected the node content"),
        ("seed=!!python/name:os.system ''", r"the tag '.*' is not allowed here"),
        ("name.first=5", r"^name\.first: cannot be set, name is the text 'sample' and has no keys"),
        (
            "data.train.transforms.2.x=5",
            r"^data\.train\.transforms\[2\]: cannot be set, .* a list with the entries 0 to 1",
        ),
        ("data.train.transforms.first.x=5", r"^data\.train\.transforms\.first: cannot be set, .* is a list"),
    ],
)
def test_refuses_wrong_overrides(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(write_own(tmp_path), [text])


def test_merging_and_overriding_change_nothing_in_place():
    base = {"a": {"b": [1, 2], "c": 3}, "d": {}}
    over = {"a": {"b": [9]}, "d": {"e": 1}}
    assert merge(base, over) == {"a": {"b": [9], "c": 3}, "d": {"e": 1}}
    assert override(base, ("a", "b", 1), 7) == {"a": {"b": [1, 7], "c": 3}, "d": {}}
    assert base == {"a": {"b": [1, 2], "c": 3}, "d": {}}
    assert over == {"a": {"b": [9]}, "d": {"e": 1}}


def test_an_empty_mapping_in_the_file_stays_empty():
    # PaddleDetection's merge took an empty mapping for "not given" and edited a global one.
    assert merge({}, {"a": 1}) == {"a": 1}
    assert merge({"a": {}}, {}) == {"a": {}}


def test_records_with_defaults_only_load_from_a_minimal_file(tmp_path: Path):
    text = "name: small\nmodel: {num_classes: 1, backbone: {type: mobilenet_v1}}\n"
    cfg = load_config(write_own(tmp_path, text))
    assert cfg == RunConfig(name="small", model=cfg.model)


def test_a_recipe_replaces_the_terms_and_leaves_the_rest(tmp_path: Path):
    cfg = load_config(write_own(tmp_path))
    term = "{loss: kd, student: a, teacher: b, from: big_, temperature: 4}"
    new = with_recipe(cfg, write_own(tmp_path, f"distill: {{force: true, terms: [{term}]}}", "recipe.yml"))
    assert new.distill.terms == (TermConfig("kd", ("a",), ("b",), 1.0, ("big_",), {"temperature": 4}),)
    assert new.distill.force
    assert new.distill.teachers == cfg.distill.teachers
    assert replace(new, distill=cfg.distill) == cfg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill: {terms: []}", r"^distill\.terms: a recipe needs at least one term"),
        ("distill: {}", r"^distill\.terms: a recipe needs at least one term"),
        ("name: x", r"^name: a recipe has the one key 'distill'"),
        ("architecture: YOLOv3", r"^architecture: a recipe has the one key 'distill'"),
        ("distill: {terms: [{loss: l2, studnt: a, teacher: a}]}", r"^distill\.terms\[0\]\.student: is missing"),
        ("distill: {trms: 1, terms: [{loss: l2, student: a, teacher: a}]}", r"^distill\.trms: unknown key"),
        ("distill: {terms: [{loss: l2, student: a, teacher: a, weight: -1}]}", r"weight: must be .*\(in .*r\.yml\)$"),
    ],
)
def test_useless_recipe_files_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        with_recipe(load_config(write_own(tmp_path)), write_own(tmp_path, text, "r.yml"))
