"""Teachers beside the student's program, ahead of time or from the cache: the numbers of one program, or refused."""

import dataclasses
import logging

import numpy as np
import paddle
import pytest

from slim_distill.common import idle
from slim_distill.common.array_store import ArrayStore
from slim_distill.common.errors import ConfigError, TrainingError
from slim_distill.config import load_config
from slim_distill.engine import build, teacher_outputs
from slim_distill.engine.checkpoint import load_checkpoint
from slim_distill.engine.compiling import initial_values
from slim_distill.engine.teacher_outputs import FedTeacher, open_outputs
from slim_distill.engine.train import train
from slim_distill.graph import Freeze, NamedProgram, Slice, run_passes
from slim_distill.losses.build import terms_from_config
from tests.graph.nets import detector, image, traced, with_random_values
from tests.tiny import run_config, write_config, write_voc

pytestmark = pytest.mark.usefixtures("static_mode")

NOTHING_RANDOM = ("DecodeImage", "NormalizeBox", "PadBox", "BboxXYXY2XYWH")
FEEDS = ("image", "gt_bbox", "gt_class", "gt_score")


def job(root, overlap="auto", **cache):
    """(run, its teacher): two epochs of two batches without random augmentation."""
    data = write_voc(root / "data") if not (root / "data").exists() else root / "data"
    teacher = run_config(data, root, name="teacher")
    its = load_config(write_config(root / "teacher.yml", teacher))
    run = run_config(data, root / "out")
    reader = run["data"]["train"]
    reader["batch_size"] = 4
    reader["transforms"] = [step for step in reader["transforms"] if step["type"] in NOTHING_RANDOM]
    reader["batch_transforms"][0]["random_inter"] = False
    run["distill"]["min_teacher_metric"] = 0.0
    run["train"].update(max_iters=4, snapshot_iter=4)
    run["compile"] = {"cache": cache, "overlap": overlap}
    cfg = load_config(write_config(root / "run.yml", run))
    return cfg, build.Teacher(its, initial_values(build.build_teacher(its, cfg)).values)


def run(root, caplog, name, **options):
    """Train: (final parameters and states, the log's lines)."""
    cfg, teacher = job(root, **options)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        folder = train(dataclasses.replace(cfg, name=name), {"teacher_": teacher}).folder
    done = load_checkpoint(folder / "4")
    return {**done.model, **done.state}, list(caplog.messages)


def identical(a, b):
    return set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_training_is_the_same_bit_for_bit_and_the_second_epoch_needs_no_teacher(tmp_path, caplog):
    plain, lines = run(tmp_path, caplog, "plain", overlap="off")
    assert not [line for line in lines if "cache" in line]
    cached, lines = run(tmp_path, caplog, "cached", overlap="off", max_gb=1, dir=str(tmp_path / "cache"))
    assert identical(cached, plain)
    assert f"outputs of teacher_ are kept in {tmp_path / 'cache'}" in lines
    shown = [line for line in lines if line.startswith("teacher_: outputs of")]
    assert [line.split(" came")[0] for line in shown] == [
        f"teacher_: outputs of {found} of 4 images ({25 * found} %)" for found in (0, 0, 4, 4)
    ]


def frozen(network=detector, names=("head", "dark"), seed=0):
    return run_passes(with_random_values(traced(network), seed), [Freeze(), Slice(names)]).program


@pytest.fixture
def cached(tmp_path):
    """Makes a cached teacher; all of them share a folder, one after the other."""
    stores = []

    def make(program=None, names=("head", "dark"), max_bytes=1_000_000):
        for store in stores:
            store.close()
        teacher = FedTeacher("t_", program or frozen(names=names), names, "cpu")
        stores.append(ArrayStore(tmp_path / "cache", [teacher.identity], max_bytes))
        teacher.use(stores[-1], images=6)
        return teacher

    yield make
    for store in stores:
        store.close()


def found(teacher, batch):
    """How many images of a batch are in the cache."""
    before = teacher.counts[1]
    teacher.outputs({"image": batch, "gt_class": np.zeros(1)})
    return teacher.counts[1] - before


def test_an_image_is_found_whatever_its_place_and_companions(cached):
    teacher = cached()
    batch = image()
    out = teacher.outputs({"image": batch})
    assert set(out) == {"t_head", "t_dark"}
    assert teacher.counts[1] == 0
    again = teacher.outputs({"image": batch[[2, 0]]})
    assert teacher.counts[1] == 2
    np.testing.assert_array_equal(again["t_head"], out["t_head"][[2, 0]])
    np.testing.assert_array_equal(again["t_dark"], out["t_dark"][[2, 0]])
    mixed = np.concatenate([batch[:1], image(seed=1)[:1]])
    expected = teacher.session.run(teacher.program, {"image": mixed}, ["head"])["head"]
    np.testing.assert_array_equal(teacher.outputs({"image": mixed})["t_head"], expected)
    assert teacher.counts[1] == 3
    assert found(teacher, mixed) == 2


def test_another_size_or_pixel_is_another_image(cached):
    teacher = cached()
    assert found(teacher, image()) == 0
    assert found(teacher, image()) == 3
    assert found(teacher, image(size=32)) == 0
    shifted = image()
    shifted[1, 0, 0, 0] += 1e-6
    assert found(teacher, shifted) == 2


def test_other_weights_variables_or_networks_find_nothing(cached):
    def wider(x, *, training):
        return detector(2 * x, training=training)

    assert found(cached(), image()) == 0
    assert found(cached(), image()) == 3
    for other in (
        {"program": frozen(seed=1)},
        {"names": ("head",)},
        {"program": frozen(wider)},
    ):
        assert found(cached(**other), image()) == 0
    assert found(cached(), image()) == 3


def test_a_damaged_entry_is_computed_anew(cached, tmp_path, caplog):
    teacher = cached()
    out = teacher.outputs({"image": image()})
    paths = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "lock"]
    assert len(paths) == 3
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    again = teacher.outputs({"image": image()})
    np.testing.assert_array_equal(again["t_head"], out["t_head"])
    assert teacher.counts[1] == 2
    assert sum("is made anew" in message for message in caplog.messages) == 1
    assert found(teacher, image()) == 3


def test_a_teacher_that_joins_the_images_of_a_batch_is_not_cached(cached, caplog):
    def centred(x, *, training):
        y = detector(x, training=training)["head"]
        return {"head": y - paddle.mean(y, axis=0, keepdim=True)}

    teacher = cached(frozen(centred, ("head",)), ("head",))
    with caplog.at_level(logging.INFO):
        assert [found(teacher, image()) for _ in range(2)] == [0, 0]
    assert caplog.messages == ["t_: not cached: its outputs for an image depend on the other images of the batch"]


def test_a_bound_below_one_batch_caches_nothing(cached, caplog):
    teacher = cached(max_bytes=10_000)
    with caplog.at_level(logging.INFO):
        assert [found(teacher, image()) for _ in range(2)] == [0, 0]
    assert caplog.messages == [
        "t_: not cached: its outputs for one batch take 2.76e-05 GB, the bound is 1e-05 (compile.cache.max_gb)"
    ]


def test_what_cannot_be_cached_is_merged_and_told_why(tmp_path, caplog, monkeypatch):
    cfg, teacher = job(tmp_path, max_gb=1, dir=str(tmp_path / "cache"))
    terms = terms_from_config(cfg.distill)

    def lines(teacher, terms=terms, feeds=FEEDS):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            outputs = open_outputs(cfg, {"teacher_": teacher}, terms, feeds, images=8, on_cpu=True)
        assert outputs.prefixes == ()
        return [line for line in caplog.messages if "not cached" in line]

    assert lines(dataclasses.replace(teacher, frozen=False)) == ["teacher_: not cached: it trains along"]
    assert lines(dataclasses.replace(teacher, ema=0.9)) == ["teacher_: not cached: it follows the student"]
    whole = [dataclasses.replace(terms[0], teacher=("teacher_loss",))]
    assert lines(teacher, whole) == ["teacher_: not cached: 'loss' is not one array for each image"]
    assert lines(teacher, feeds=()) == ["teacher_: not cached: it is fed 'image', which is in no batch"]
    some = dict(list(teacher.values.items())[:-1])
    assert "is not known" in lines(dataclasses.replace(teacher, values=some))[0]

    monkeypatch.setattr(NamedProgram, "has_control_flow", lambda program: True)
    assert lines(teacher) == ["teacher_: not cached: it branches or loops, by what may depend on the whole batch"]
    assert not (tmp_path / "cache").exists()


def test_control_flow_is_seen():
    def branching(x, *, training):
        y = detector(x, training=training)["head"]
        return {"head": paddle.static.nn.cond(paddle.mean(y) > 0, lambda: y, lambda: -y)}

    assert traced(branching).has_control_flow()
    assert not traced(detector).has_control_flow()


def test_a_folder_that_cannot_be_used_is_an_error_that_names_the_key(tmp_path):
    (tmp_path / "file").write_text("")
    cfg, teacher = job(tmp_path, max_gb=1, dir=str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"^compile\.cache\.dir: cannot use the folder .*max_gb to 0$"):
        open_outputs(cfg, {"teacher_": teacher}, terms_from_config(cfg.distill), FEEDS, images=8, on_cpu=True)


@pytest.fixture
def two_threads(monkeypatch):
    """The suite runs with one thread; this says that there are more, which is all that keeps teachers in the step."""
    monkeypatch.setattr(teacher_outputs, "why_not_idle", lambda: "")
    monkeypatch.setattr(idle, "TRIAL", 4)
    monkeypatch.setattr(idle, "_BLOCK", 2)


@pytest.mark.parametrize("stored", [False, True])
def test_training_with_the_teacher_ahead_is_the_same_bit_for_bit(tmp_path, caplog, two_threads, stored):
    merged, lines = run(tmp_path, caplog, "merged", overlap="off")
    assert not [line for line in lines if "ahead" in line]
    store = {"max_gb": 1, "dir": str(tmp_path / "cache")} if stored else {}
    overlapped, lines = run(tmp_path, caplog, "overlapped", **store)
    assert identical(overlapped, merged)
    assert "teacher_: compared: beside the student, on the next batch, or before it" in lines
    assert sum("operators in a step" in line for line in lines) == 1


def test_a_resumed_run_with_the_teacher_ahead_is_the_uninterrupted_one(tmp_path, caplog, two_threads):
    whole, _ = run(tmp_path, caplog, "whole")
    cfg, teacher = job(tmp_path)
    short = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, max_iters=3, snapshot_iter=3), name="parts")
    train(short, {"teacher_": teacher})
    caplog.clear()
    with caplog.at_level(logging.INFO):
        folder = train(dataclasses.replace(cfg, name="parts"), {"teacher_": teacher}, resume="auto").folder
    done = load_checkpoint(folder / "4")
    assert identical({**done.model, **done.state}, whole)


def test_a_loss_that_is_not_finite_saves_the_step_before_with_the_teacher_ahead(tmp_path, caplog, two_threads):
    cfg, teacher = job(tmp_path)
    schedule = dataclasses.replace(cfg.schedule, base_lr=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"is not finite .*the state after [1-3] steps is saved"):
        train(dataclasses.replace(cfg, schedule=schedule, name="broken"), {"teacher_": teacher})


def test_a_teacher_stays_in_the_step_where_it_must(tmp_path, caplog, two_threads, monkeypatch):
    cfg, teacher = job(tmp_path)
    terms = terms_from_config(cfg.distill)

    def opened(teacher, cfg=cfg, on_cpu=True, feeds=FEEDS):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger=teacher_outputs.__name__):
            outputs = open_outputs(cfg, {"teacher_": teacher}, terms, feeds, images=8, on_cpu=on_cpu)
        return outputs.prefixes, [line for line in caplog.messages if "overlapped" in line]

    assert opened(teacher) == (("teacher_",), [])
    assert opened(teacher, on_cpu=False) == ((), [])
    assert opened(dataclasses.replace(teacher, frozen=False)) == ((), [])
    off = dataclasses.replace(cfg, compile=dataclasses.replace(cfg.compile, overlap="off"))
    assert opened(teacher, off) == ((), [])
    assert opened(teacher, feeds=()) == (
        (),
        ["teacher_: not overlapped: it is fed 'image', which is in no batch"],
    )
    with monkeypatch.context() as patch:
        patch.setattr(NamedProgram, "draws_random_numbers", lambda program: True)
        assert opened(teacher) == ((), ["teacher_: not overlapped: it draws random numbers"])
    monkeypatch.setattr(teacher_outputs, "why_not_idle", lambda: "there is one thread")
    assert opened(teacher) == ((), ["teacher_: not overlapped with the student's step: there is one thread"])


def test_random_draws_are_seen_unless_they_are_in_test_mode():
    def noisy(x, *, training):
        return {"head": detector(x, training=training)["head"] + paddle.rand([1])}

    def dropping(x, *, training):
        return {"head": paddle.nn.functional.dropout(detector(x, training=training)["head"], 0.5)}

    assert traced(noisy).draws_random_numbers()
    assert traced(dropping).draws_random_numbers()
    assert not run_passes(traced(dropping), [Freeze()]).program.draws_random_numbers()
    assert not traced(detector).draws_random_numbers()
