"""A run's folder: one process at a time, cleaned after a crash, gone on with from the newest sound checkpoint."""

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slim_distill.common.errors import ConfigError, TrainingError
from slim_distill.common.files import clean_folder, file_lock
from slim_distill.config import changes_numbers, differences, dump_config, load_config
from slim_distill.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from slim_distill.engine.resume import best_metric, choose_checkpoint, compare_facts, make_way, open_run, run_facts
from slim_distill.engine.status import lock_path
from tests.tiny import run_config, write_config

MODEL = {"w": np.ones(3, np.float32)}


@pytest.fixture
def cfg(tmp_path):
    return load_config(write_config(tmp_path / "run.yml", run_config(tmp_path / "data", tmp_path / "out")))


class Images(list):
    """Stands for a loader of 20 images in batches of two."""

    dataset = range(20)


LOADER = Images(range(10))


def save(run, step, cfg, name=None, **facts):
    facts = {**run_facts(cfg, step, LOADER, "cpu"), **facts}
    save_checkpoint(run / (name or str(step)), Checkpoint(MODEL, {}, step, facts), dump_config(cfg))


def spoil(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 8
    path.write_bytes(bytes(data))


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_manifest_says_all_that_the_result_depends_on(tmp_path, cfg):
    save(tmp_path, 23, cfg)
    manifest = json.loads((tmp_path / "23" / "manifest.json").read_text())
    assert manifest["step"] == 23
    assert (manifest["epoch"], manifest["position"], manifest["samples"]) == (2, {"batch": 3, "sample": 6}, 20)
    assert (manifest["devices"], manifest["device"], manifest["seed"]) == (1, "cpu", cfg.seed)
    assert set(manifest["threads"]) == {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    assert manifest["paddle"].startswith("3.")
    assert manifest["slim_distill"]
    assert "from seed and step number" in manifest["random"]
    assert set(manifest["files"]) == {"model.safetensors", "config.yml"}
    assert manifest["files"]["config.yml"]["size"] == (tmp_path / "23" / "config.yml").stat().st_size


def test_auto_names_damaged_checkpoints_takes_the_newest_sound_one_and_moves_the_others_aside(tmp_path, cfg, caplog):
    run = tmp_path / "run"
    for step in (2, 4, 6):
        save(run, step, cfg)
    spoil(run / "6" / "model.safetensors")
    (run / "4" / "manifest.json").write_text("{")
    chosen = choose_checkpoint("auto", run)
    assert chosen[0] == run / "2"
    assert chosen[1].step == 2
    assert f"{run}/6/model.safetensors is damaged" in caplog.text
    assert f"{run}/4/manifest.json cannot be read" in caplog.text
    make_way(run, chosen)
    assert names(run) == {"2"}
    assert names(tmp_path / "run.old1") == {"4", "6"}


def test_auto_without_any_checkpoint_starts_anew(tmp_path, cfg, caplog):
    caplog.set_level(logging.INFO)
    assert choose_checkpoint("auto", tmp_path / "nowhere") is None
    assert "no checkpoint in" in caplog.text
    assert choose_checkpoint("", tmp_path) is None


def test_going_back_gives_up_the_later_checkpoints_and_keeps_them_aside(tmp_path, cfg):
    run = tmp_path / "run"
    for step in (2, 4, 6):
        save(run, step, cfg)
    save(run, 4, cfg, "best_model", metric=0.5)
    make_way(run, choose_checkpoint(str(run / "4"), run))
    assert names(run) == {"2", "4", "best_model"}
    assert names(tmp_path / "run.old1") == {"6"}
    assert choose_checkpoint("auto", run)[0] == run / "4"


def test_a_checkpoint_of_another_folder_or_none_moves_the_whole_earlier_run_aside(tmp_path, cfg):
    for number, chosen in enumerate((None, "other"), 1):
        save(tmp_path / "run", 2, cfg)
        save(tmp_path / "other", 9, cfg)
        make_way(tmp_path / "run", chosen and choose_checkpoint(str(tmp_path / "other" / "9"), tmp_path / "run"))
        assert names(tmp_path / "run") == set()
        assert names(tmp_path / f"run.old{number}") == {"2"}


def test_what_a_killed_save_left_is_cleared_at_the_start(tmp_path, cfg):
    run = tmp_path / "run"
    save(run, 2, cfg)
    save(run, 2, cfg, "model_final")
    (run / "model_final").rename(run / ".model_final.old")  # killed between the two renames
    save(run, 2, cfg, ".4.0123456789abcdef0123456789abcdef.tmp")
    (run / ".status.json.0123456789abcdef0123456789abcdef.tmp").write_text("{")
    (run / ".hidden").write_text("the user's")
    with open_run(run):
        assert names(run) == {"2", "model_final", ".hidden"}
    assert load_checkpoint(run / "model_final").step == 2
    clean_folder(run)
    assert names(run) == {"2", "model_final", ".hidden"}


def test_two_processes_never_train_in_one_folder(tmp_path, monkeypatch):
    run = tmp_path / "run"
    code = (
        "import sys; from slim_distill.engine.resume import open_run; from pathlib import Path\n"
        "with open_run(Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    )
    monkeypatch.setattr("slim_distill.common.files._PATIENCE_S", 0.1)
    command = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(TrainingError, match=f"another process is training in {run}; .*status"), open_run(run):
            pass
        other.kill()
    with open_run(run):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir: .* cannot be written"), open_run(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        (lambda c: replace(c, train=replace(c.train, max_iters=99, keep=9, log_iter=7)), []),
        (lambda c: replace(c, name="other", output_dir="else", seed=c.seed), []),
        (lambda c: replace(c, seed=7), ["the configuration has changed since: seed was 0, now 7"]),
        (
            lambda c: replace(c, schedule=replace(c.schedule, base_lr=0.5)),
            ["the configuration has changed since: schedule.base_lr was 0.001, now 0.5"],
        ),
    ],
)
def test_a_changed_configuration_is_told_when_it_changes_the_numbers(tmp_path, cfg, change, warned):
    save(tmp_path, 4, cfg)
    chosen, now = choose_checkpoint("auto", tmp_path), change(cfg)
    assert compare_facts(chosen, now, run_facts(now, 4, LOADER, "cpu")) == warned


def test_more_steps_change_the_numbers_only_where_a_schedule_stretches(cfg):
    longer = replace(cfg, train=replace(cfg.train, max_iters=50))
    assert list(differences(cfg, longer)) == ["train.max_iters"]
    assert not changes_numbers("train.max_iters", longer)
    cosine = replace(longer, schedule=replace(cfg.schedule, type="cosine"))
    assert changes_numbers("train.max_iters", cosine)
    fixed = replace(longer, schedule=replace(cfg.schedule, type="cosine", cosine_steps=10))
    assert not changes_numbers("train.max_iters", fixed)


def test_other_data_devices_threads_and_versions_are_told(tmp_path, cfg, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    save(tmp_path, 4, cfg, paddle="2.0", kernels="own")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    less = type("Less", (Images,), {"dataset": range(18)})(range(9))
    found = compare_facts(choose_checkpoint("auto", tmp_path), cfg, run_facts(cfg, 4, less, "gpu", 2))
    assert [line.split(" was ")[0] for line in found] == [
        "samples",
        "device",
        "devices",
        "kernels",
        "threads",
        "paddle",
    ]
    assert found[0] == "samples was 20, now 18"
    assert found[3] == "kernels was own, now Paddle's"


def test_a_damaged_best_model_is_named_and_made_anew(tmp_path, cfg, caplog):
    assert best_metric(tmp_path / "best_model") is None
    save(tmp_path, 2, cfg, "best_model", metric=0.25)
    assert best_metric(tmp_path / "best_model") == 0.25
    spoil(tmp_path / "best_model" / "model.safetensors")
    assert best_metric(tmp_path / "best_model") is None
    assert "is no best model any more" in caplog.text
    assert "the next evaluation replaces it" in caplog.text


def test_the_lock_lies_beside_the_folder_and_does_not_move_with_it(tmp_path):
    with file_lock(lock_path(tmp_path / "run")):
        assert Path(tmp_path / ".run.lock").is_file()
