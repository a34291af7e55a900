"""Bad configurations, overrides and recipes."""

import os
from pathlib import Path

from tests.reliability.world import Case, Prepare, case

__all__ = ["CASES"]


def text(content: str | bytes, *say: str, command: str = "train") -> Case:
    """A configuration file of this content."""
    return case(f"{command} -c bad.yml", r"bad\.yml", *say, files={"bad.yml": content})


def set_to(override: str, *say: str, command: str = "train") -> Case:
    """A good configuration with one bad override."""
    return Case((*command.split(), "-c", "run.yml", "-o", override), {}, None, say)


def made(prepare: Prepare, *say: str, command: str = "train") -> Case:
    """A configuration `bad.yml` that is no ordinary file."""
    return case(f"{command} -c bad.yml", *say, prepare=prepare)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12)
)

FILES = {
    "file_missing": case("train -c nowhere.yml", "no such configuration file"),
    "file_name_almost_right": case("eval -c rum.yml", r"did you mean run\.yml"),
    "file_name_too_long": case(f"train -c {'x' * 300}.yml", "File name too long|no such configuration"),
    "file_is_a_folder": case("export -c data", "no such configuration file"),
    "file_is_dangling": made(lambda: os.symlink("gone.yml", "bad.yml"), "no such configuration file"),
    "file_is_a_link_to_itself": made(lambda: os.symlink("bad.yml", "bad.yml"), r"bad\.yml"),
    "file_is_a_pipe": made(lambda: os.mkfifo("bad.yml"), "no such configuration file"),
    "file_unreadable": case(
        "infer -c run.yml --infer_img data -o weights=model.safetensors",
        "Permission denied",
        prepare=lambda: Path("run.yml").chmod(0),
    ),
    "file_empty": text("", "the file is empty"),
    "file_of_comments": text("# nothing\n", "the file is empty", command="eval"),
    "file_is_a_list": text("- name: a\n", "holds a list", command="export"),
    "file_is_a_word": text("hello\n", "holds the value 'hello'", command="list-vars"),
    "file_with_tabs": text("name: a\nmodel:\n\tnum_classes: 2\n", r"bad\.yml:3", "cannot start any token"),
    "file_binary": text(bytes(range(256)), "not UTF-8"),
    "file_latin_1": text("name: caf\xe9\n".encode("latin-1"), r"bad\.yml:1: is not UTF-8"),
    "file_utf_16": text("name: a\n".encode("utf-16"), "not UTF-8"),
    "file_with_nul": text("name: 'a\0b'\n", r"U\+0000"),
    "file_cut_off": text("name: a\nmodel: {num_classes: [1, 2\n", r"bad\.yml:3"),
    "file_image": text(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not UTF-8"),
    "file_xml": text("<annotation></annotation>", "holds the value"),
    "file_too_large": text("a: b\n" * 50_000, "larger than 200000 bytes"),
    "key_twice": text("name: a\nseed: 1\nname: b\n", r"bad\.yml:3", "given twice; the first is in line 1"),
    "key_a_number": text("1: 2\n", "a key must be text"),
    "key_a_list": text("? [a]\n: 2\n", "a key must be text"),
    "bomb_of_aliases": text(LAUGHS, "more than 20000 values"),
    "alias_of_itself": text("name: &a [*a]\n", "contains it"),
    "alias_unknown": text("name: *a\n", "undefined alias"),
    "nested_deep": text("a: " + "[" * 30_000, "nested more than 50 levels"),
    "two_documents": text("name: a\n---\nname: b\n", "another document|single document"),
    "tag_of_python": text("name: !!python/object/apply:os.system [touch was_here]\n", "is not allowed here"),
    "tag_of_code": text("name: !!python/name:os.system\n", "never objects"),
    "tag_own": text("name: !Thing {a: 1}\n", "never objects"),
    "tag_binary": text("name: !!binary aGVsbG8=\n", "never objects"),
    "base_missing": text("base: gone.yml\n", "there is no file gone.yml"),
    "base_itself": text("base: bad.yml\n", "includes in a circle"),
    "base_circle": case(
        "train -c bad.yml",
        "includes in a circle",
        files={"bad.yml": "base: other.yml\n", "other.yml": "base: bad.yml\n"},
    ),
    "base_a_list": text("base: [a.yml, b.yml]\n", "must be the name of one file"),
    "base_a_folder": text("base: data\n", "there is no file data"),
    "base_a_device": text("base: /dev/zero\n", "there is no file /dev/zero"),
    "base_foreign": case(
        "train -c bad.yml",
        "a base must be in the dialect of its file",
        files={"bad.yml": "base: other.yml\n", "other.yml": "architecture: YOLOv3\n"},
    ),
    "foreign_reader_missing": text("architecture: YOLOv3\n_READER_: gone.yml\n", "gone.yml"),
    "foreign_architecture": text("architecture: FasterRCNN\n", "FasterRCNN"),
    "foreign_empty": text("architecture: null\n", "architecture"),
    "recipe_missing": case("compare -c run.yml --recipes gone.yml", "gone.yml"),
    "recipe_without_terms": case(
        "compare -c run.yml --recipes r.yml", "at least one term", files={"r.yml": "distill: {}\n"}
    ),
    "recipe_with_more": case(
        "compare -c run.yml --recipes r.yml", "the one key 'distill'", files={"r.yml": "seed: 1\ndistill: {}\n"}
    ),
}

VALUES = {
    "unknown_key": set_to("train.max_iter=3", "train.max_iter: unknown key", "did you mean 'max_iters'"),
    "unknown_section": set_to("optimiser.type=sgd", "did you mean 'optimizer'", command="eval"),
    "text_for_a_number": set_to("data.train.batch_size=many", "whole number, found the text 'many'"),
    "number_for_text": set_to("name=7", "put it in quotes", command="export"),
    "true_for_a_number": set_to("train.max_iters=true", "whole number, found true"),
    "list_for_a_section": set_to("model=[1]", "model: must be a mapping", command="list-vars"),
    "null_for_a_number": set_to("train.max_iters=null", "found nothing"),
    "fraction_for_a_count": set_to("train.max_iters=1.5", "whole number, found 1.5"),
    "fraction_huge": set_to("schedule.base_lr=1" + "0" * 400, "a number of usual size"),
    "digits_too_many": set_to("seed=" + "9" * 5000, "seed"),
    "seed_huge": set_to("seed=99999999999999999999", "seed"),
    "batch_huge": set_to("data.train.batch_size=1000000000", "less than one batch"),
    "not_a_number": set_to("schedule.base_lr=.nan", "a finite number, found nan"),
    "infinite": set_to("schedule.base_lr=.inf", "a finite number, found inf"),
    "rate_negative": set_to("schedule.base_lr=-0.1", "schedule.base_lr: must be more than 0"),
    "batch_negative": set_to("data.train.batch_size=-2", "must be at least 1"),
    "steps_zero": set_to("train.max_iters=0", "must be at least 1"),
    "share_of_three": set_to("data.eval.dataset.max_bad_share=3", "between 0 and 1", command="eval"),
    "choice_unknown": set_to("optimizer.type=adam", "did you mean 'adamw'"),
    "anchors_empty": set_to("model.head.anchors=[]", "pairs of width and height"),
    "anchor_of_three": set_to("model.head.anchors=[[1, 2, 3]]", "list of 2 values"),
    "anchor_infinite": set_to("model.head.anchors=[[1, .inf]]", "head.anchors"),
    "mask_out_of_range": set_to("model.head.anchor_masks=[[6, 7, 9]]", "the number of an anchor, 0 to 8"),
    "milestones_falling": set_to("schedule.milestones=[20, 10]", "numbers above 0 that rise"),
    "milestones_without_factors": set_to(
        "schedule={type: piecewise, milestones: [2], factors: [0.1, 0.2]}", "milestones"
    ),
    "pattern_broken": set_to("train.pretrain_exclude=['(']", "regular expressions"),
    "width_absurd": set_to("model.backbone.scale=1e9", "scale", command="list-vars"),
    "classes_absurd": set_to("model.num_classes=2000000000", "between 1 and 100000", command="list-vars"),
    "depth_unknown": set_to("model.backbone={type: resnet, depth: 19}", "18, 34"),
    "classes_twice": set_to("data.train.dataset.classes=[disc, disc]", "twice, found disc, disc"),
    "classes_too_few": set_to("model.num_classes=3", "found 2: square, disc"),
    "classes_none": set_to("model.num_classes=0", "between 1 and 100000"),
    "label_file_missing": set_to("data.eval.dataset={classes: [], labels: gone.txt}", "no such label file"),
    "transform_unknown": set_to("data.train.transforms.0.type=DecodeImag", "did you mean 'DecodeImage'"),
    "transform_argument_unknown": set_to("data.train.transforms.0.colour=1", "'colour' is not known"),
    "transform_argument_wrong": set_to("data.train.transforms.5.num_max_boxes=many", "num_max_boxes"),
    "transform_argument_negative": set_to("data.train.transforms.5.num_max_boxes=-1", "num_max_boxes"),
    "transform_size_zero": set_to(
        "data.eval.transforms.1.target_size=0", "target_size", command="compare --recipes recipe.yml --report-only"
    ),
    "transform_size_odd": set_to(
        "data.train.batch_transforms.0.sizes=[33]",
        r"cannot run on this batch \(image \[2, 3, 33, 33\]",
        "expected to be equal",
    ),
    "transform_order_wrong": set_to("data.train.transforms=[{type: Permute}]", "Permute"),
    "device_without_card": set_to("device=gpu", "finds no CUDA device; use cpu or auto"),
    "seed_negative": set_to("seed=-1", "seed: must be between"),
    "device_number_absurd": set_to("device=gpu:99", "finds no CUDA device"),
    "device_unknown": set_to("device=tpu", "auto, cpu, gpu or gpu:N"),
    "term_unknown_loss": set_to(
        "distill.terms.0.loss=l3",
        "'l3' is not known",
        command="distill -t run.yml --teacher_pretrained model.safetensors",
    ),
    "term_unknown_argument": set_to(
        "distill.terms.0.temprature=3",
        "temprature",
        command="distill -t run.yml --teacher_pretrained model.safetensors",
    ),
    "term_negative_weight": set_to("distill.terms.0.weight=-1", "at least 0", command="distill -t run.yml"),
    "term_variable_unknown": set_to(
        "distill.terms.0.student=yolo_haed.0",
        r"yolo_head\.0 \[",
        command="distill --dry-run -t run.yml --teacher_pretrained model.safetensors",
    ),
    "prefixes_clash": set_to(
        "distill.teachers={a: {config: run.yml}, ab: {config: run.yml}}", "prefix of another teacher", command="distill"
    ),
    "prefix_empty": set_to("distill.teachers={'': {config: run.yml}}", "cannot be empty", command="distill"),
    "teacher_file_missing": case("distill -c run.yml -t gone.yml", "gone.yml"),
    "teacher_without_weights": case("distill -c run.yml -t run.yml", "has no weights; give --teacher_pretrained"),
    "teacher_none": case("distill -c run.yml", "no teacher: give -t"),
    "terms_none": set_to("distill.terms=[]", "has no loss terms", command="distill -t run.yml"),
}

OVERRIDES = {
    "override_without_value": set_to("train.max_iters", "KEY.KEY=VALUE"),
    "override_without_key": set_to("=3", "KEY.KEY=VALUE"),
    "override_dots": set_to("train..max_iters=3", "KEY.KEY=VALUE"),
    "override_into_a_number": set_to("seed.value=3", "seed: must be a whole number, found the mapping"),
    "override_past_a_list": set_to("distill.terms.9.weight=1", "entries 0 to 2", command="eval"),
    "override_of_a_list_by_name": set_to("distill.terms.first=1", "entries 0 to 2", command="infer --infer_img data"),
    "override_not_yaml": set_to("name=[a", "override 'name=\\[a'"),
    "override_of_code": set_to("name=!!python/name:os.system", "never objects"),
    "override_bomb": set_to("name=" + "[" * 5000, "nested more than 50 levels"),
    "override_huge": set_to("name=" + "x" * 100_000, "name"),
    "override_unicode": set_to("tr\u00e4in.max_iters=1", "did you mean 'train'"),
    "override_escapes": set_to("name=\x1b[31mred", "name"),
    "override_with_nul": set_to('output_dir="a\\0b"', "output_dir"),
    "override_with_newline": set_to("weights=a\n\n\n\nb: c", "override", command="eval"),
}

CASES = {**FILES, **VALUES, **OVERRIDES}
