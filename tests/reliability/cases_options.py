"""Bad options, names and paths."""

import os
from pathlib import Path

from tests.reliability.world import Case, case, locked

__all__ = ["CASES"]

LOADED = "-c run.yml -o weights=model.safetensors"
DISTILL = "distill -c run.yml -t run.yml --teacher_pretrained model.safetensors"


OPTIONS = {
    "command_none": Case((), {}, None, ("COMMAND",)),
    "command_unknown": case("distil -c run.yml", "invalid choice: 'distil'"),
    "command_after_dashes": case("-- train", "invalid choice: '--'"),
    "option_unknown": case("train -c run.yml --epochs 3", "unrecognized arguments: --epochs"),
    "option_without_value": case("train -c", "expected one argument"),
    "option_required": case("eval", "-c/--config"),
    "grep_broken": case("list-vars -c run.yml --grep (", "--grep"),
    "shape_broken": case("list-vars -c run.yml --shape a,b", "--shape"),
    "shape_beside_cost": case("list-vars -c run.yml --cost --shape 1", "--shape"),
    "size_text": case("list-vars -c run.yml --size big", "--size"),
    "size_odd": case("list-vars -c run.yml --size 33", "multiple of 32"),
    "size_zero": case("list-vars -c run.yml --size 0", "multiple of 32"),
    "size_negative": case("list-vars -c run.yml --size -32", "multiple of 32"),
    "batch_zero": case("list-vars -c run.yml --cost --size 64 --batch 0", "--batch"),
    "batch_negative": case("list-vars -c run.yml --cost --size 64 --batch -1", "--batch"),
    "format_unknown": case("list-vars -c run.yml --format xml", "invalid choice"),
    "teacher_of_list_missing": case("list-vars -c run.yml -t gone.yml", "gone.yml"),
    "export_size_odd": case(
        f"export {LOADED} --size 100", "size: the input must be a multiple of 32 pixels, found 100"
    ),
    "export_size_zero": case(f"export {LOADED} --size 0", "multiple of 32"),
    "threshold_text": case(f"infer {LOADED} --infer_img data --draw_threshold high", "--draw_threshold"),
    "threshold_nan": case(f"infer {LOADED} --infer_img data --draw_threshold nan", "--draw_threshold"),
    "threshold_two": case(f"infer {LOADED} --infer_img data --draw_threshold 2", "--draw_threshold"),
    "loss_unknown": case("losses l3", "'l3' is not known", "l2"),
    "loss_too_long": case("losses " + "x" * 10_000, "is not known"),
    "seeds_twice": case("compare -c run.yml --recipes recipe.yml --seeds 1 1", "--seeds"),
    "seeds_negative": case("compare -c run.yml --recipes recipe.yml --seeds=-1", "--seeds"),
    "seeds_text": case("compare -c run.yml --recipes recipe.yml --seeds one", "--seeds"),
    "recipes_twice": case("compare -c run.yml --recipes recipe.yml data/recipe.yml", "two files are called 'recipe'"),
    "recipe_called_control": case(
        "compare -c run.yml --recipes control.yml --report-only",
        "'control' is the run without",
        prepare=lambda: Path("recipe.yml").rename("control.yml"),
    ),
    "recipe_teacher_missing": case(
        "compare -c run.yml --recipes recipe.yml",
        "gone",
        prepare=lambda: Path("recipe.yml").write_text(
            Path("recipe.yml").read_text().replace("model.safetensors", "gone")
        ),
    ),
    "report_of_nothing": case("compare -c run.yml --recipes recipe.yml --report-only", "no run of .* is finished"),
    "eval_opt_of_the_model": case("compare -c run.yml --recipes recipe.yml --eval_opt seed=3", "--eval_opt"),
    "demo_seed": case("demo --output_dir out/demo --seed -1", "--seed"),
    "demo_iters": case("demo --output_dir out/demo --iters -3", "--iters"),
    "demo_iters_zero": case("demo --output_dir out/demo --iters 0", "--iters"),
    "plugin_missing": case(f"{DISTILL} --plugin gone.py", "there is no file gone.py"),
    "plugin_no_python": case(f"{DISTILL} --plugin run.yml", "name must end in .py"),
    "plugin_broken": case(f"{DISTILL} --plugin p.py", "p.py fails: SyntaxError", files={"p.py": "def f(:\n"}),
    "plugin_raises": case(f"{DISTILL} --plugin p.py", "p.py fails: ZeroDivisionError", files={"p.py": "1 / 0\n"}),
    "plugin_exits": case(f"{DISTILL} --plugin p.py", "p.py fails: SystemExit", files={"p.py": "raise SystemExit(7)\n"}),
    "plugin_empty": case(f"{DISTILL} --plugin p.py", "must define LOSSES", files={"p.py": ""}),
    "plugin_of_no_functions": case(
        f"{DISTILL} --plugin p.py", "must define LOSSES", files={"p.py": "LOSSES = {'a': 1}\n"}
    ),
    "plugin_takes_a_name": case(
        f"{DISTILL} --plugin p.py", "redefines the loss 'l2'", files={"p.py": "LOSSES = {'l2': print}\n"}
    ),
    "resume_missing": case("train -c run.yml -r gone", "no checkpoint"),
    "resume_a_file": case("train -c run.yml -r run.yml", "run.yml"),
    "resume_broken": case("train -c run.yml -r c", "manifest.json cannot be read", files={"c/manifest.json": "{"}),
    "resume_a_list": case("train -c run.yml -r c", "manifest.json cannot be read", files={"c/manifest.json": "[]"}),
    "resume_step_huge": case(
        "train -c run.yml -r c",
        "manifest.json cannot be read",
        files={"c/manifest.json": '{"files": {}, "step": 1e999, "format": 1}'},
    ),
    "resume_leaves": case(
        "train -c run.yml -r c",
        "c.manifest.json cannot be read|is missing",
        files={"c/manifest.json": '{"files": {"../../run.yml": {}}, "step": 1, "format": 1}'},
    ),
    "resume_without_model": case(
        "train -c run.yml -r c",
        "has no step or no model",
        files={"c/manifest.json": '{"files": {}, "step": 1, "format": 1}'},
    ),
}

STATUS = {
    "status_missing": case("status gone", "gone: no status.json there", "give a run's folder"),
    "status_of_a_file": case("status run.yml", "run.yml: no status.json there"),
    "status_of_a_folder_above": case("status out", "there is one in out/tiny", files={"out/tiny/status.json": "{}"}),
    "status_empty": case("status s", "s/status.json cannot be read", files={"s/status.json": b""}),
    "status_cut": case("status s", "s/status.json cannot be read", files={"s/status.json": '{"state": '}),
    "status_binary": case("status s", "s/status.json cannot be read", files={"s/status.json": bytes(range(256))}),
    "status_a_list": case("status s", "s/status.json cannot be read", files={"s/status.json": "[]"}),
    "status_nested": case("status s", "s/status.json cannot be read", files={"s/status.json": "[" * 200_000}),
    "status_of_text": case(
        "status s", "s/status.json cannot be read", files={"s/status.json": '{"state": "failed", "images_per_s": "x"}'}
    ),
    "status_of_lists": case(
        "status s", "s/status.json cannot be read", files={"s/status.json": '{"state": "failed", "losses": []}'}
    ),
    "status_unreadable": case("status locked", "status.json", prepare=locked(0)),
}

NAMES = {
    "name_leaves": case("train -c run.yml -o name=../../elsewhere", "name: must be letters"),
    "name_dots": case("train -c run.yml -o name=..", "name: must be"),
    "name_dot": case("train -c run.yml -o name=.", "name: must be"),
    "name_absolute": case("distill -c run.yml -o name=/tmp/elsewhere", "name: must be letters"),
    "name_empty": case("train -c run.yml -o name=", "name"),
    "name_blank": Case(("train", "-c", "run.yml", "-o", "name=two words"), {}, None, ("name: must be letters",)),
    "name_newline": Case(("train", "-c", "run.yml", "-o", 'name="a\\nb"'), {}, None, ("name: must be letters",)),
    "name_newline_last": Case(("train", "-c", "run.yml", "-o", 'name="a\\n"'), {}, None, ("name: must be letters",)),
    "name_too_long": case("train -c run.yml -o name=" + "n" * 300, "name: must be letters"),
}

PATHS = {
    "output_below_a_file": case("train -c run.yml -o output_dir=run.yml/out", "output_dir: .* cannot be written"),
    "output_a_file": case("train -c run.yml", "output_dir: .* cannot be written", files={"out/tiny": "in the way"}),
    "output_unwritable": case("train -c run.yml -o output_dir=locked", "Permission denied", prepare=locked()),
    "output_run_unwritable": case(
        f"{DISTILL}", "Permission denied", prepare=lambda: (Path("out/tiny").mkdir(), Path("out/tiny").chmod(0o555))
    ),
    "output_dangling": case(
        "train -c run.yml -o output_dir=link", "output_dir|link", prepare=lambda: os.symlink("gone/there", "link")
    ),
    "output_device": case("train -c run.yml -o output_dir=/dev/full", "output_dir: /dev/full/tiny cannot be written"),
    "output_empty": case("train -c run.yml -o output_dir=", "output_dir"),
    "output_too_long": case("train -c run.yml -o output_dir=" + "o" * 300, "File name too long"),
    "infer_output_a_file": case(f"infer {LOADED} --infer_img data/JPEGImages --output_dir run.yml", "--output_dir"),
    "infer_output_unwritable": case(
        f"infer {LOADED} --infer_img data/JPEGImages/im000.jpg --output_dir locked",
        "Permission denied",
        prepare=locked(),
    ),
    "infer_output_below_a_device": case(f"infer {LOADED} --infer_img data --output_dir /dev/null/x", "--output_dir"),
    "infer_output_dangling": case(
        f"infer {LOADED} --infer_img data/JPEGImages/im000.jpg --output_dir link",
        "--output_dir",
        prepare=lambda: os.symlink("gone/there", "link"),
    ),
    "export_output_a_file": case(f"export {LOADED} --output_dir run.yml", "--output_dir"),
    "export_output_unwritable": case(
        f"export {LOADED} --output_dir locked --size 64", "--output_dir", prepare=locked()
    ),
    "eval_json_unwritable": case(f"eval {LOADED} --json locked/e.json", "Permission denied", prepare=locked()),
    "eval_json_a_folder": case(f"eval {LOADED} --json data", r"Is a directory \(data\)"),
    "eval_json_in_no_folder": case(f"eval {LOADED} --json run.yml/e.json", r"Not a directory \(run.yml/e.json\)"),
    "demo_output_a_file": case("demo --output_dir run.yml --iters 1", "run.yml"),
    "demo_output_unwritable": case("demo --output_dir locked --iters 1", "Permission denied", prepare=locked()),
    "compare_output_a_file": case(
        "compare -c run.yml --recipes recipe.yml --report-only", "out/tiny", files={"out/tiny": "in the way"}
    ),
    "compare_output_unwritable": case(
        "compare -c run.yml --recipes recipe.yml --report-only -o output_dir=locked",
        "Permission denied",
        prepare=locked(),
    ),
    "data_unreadable": case("train -c run.yml", "Permission denied|no such", prepare=lambda: Path("data").chmod(0)),
    "data_a_file": case(
        "eval -c run.yml -o weights=model.safetensors data.eval.dataset.root=run.yml", "no such list file"
    ),
    "data_dangling": case(
        "eval -c run.yml -o weights=model.safetensors data.eval.dataset.root=link",
        "no such list file",
        prepare=lambda: os.symlink("gone", "link"),
    ),
    "data_root_too_long": case(
        "eval -c run.yml -o weights=model.safetensors data.eval.dataset.root=" + "r" * 300, "File name too long|no such"
    ),
}

CASES = {**OPTIONS, **STATUS, **NAMES, **PATHS}
