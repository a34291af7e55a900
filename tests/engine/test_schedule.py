"""Learning rate by step, against closed forms and the published schedules."""

import json
import math

import pytest

from slim_distill.config.schema import ScheduleConfig
from slim_distill.engine.schedule import learning_rate

VOC = ScheduleConfig(base_lr=0.001, milestones=(55000, 62000), warmup_steps=1000)


def test_published_schedules(golden):
    published = json.loads((golden / "lr_schedule.json").read_text())
    coco = ScheduleConfig(base_lr=0.001, milestones=(400000, 450000), warmup_steps=4000)
    for name, cfg in (("voc", VOC), ("coco", coco)):
        points = published[name]["lr_at_step(zero based)"]
        assert len(points) > 10
        for step, rate in points.items():
            # The published system counts steps in float32.
            assert learning_rate(cfg, int(step), 10**6) == pytest.approx(rate, rel=2e-6, abs=1e-12), (name, step)


def test_first_step_of_a_warm_up_from_zero_has_rate_zero():
    assert learning_rate(VOC, 0, 70000) == 0.0


def test_the_rate_drops_at_the_step_equal_to_the_milestone():
    assert learning_rate(VOC, 54999, 70000) == pytest.approx(1e-3)
    assert learning_rate(VOC, 55000, 70000) == pytest.approx(1e-4)


def test_warm_up_starts_at_its_factor():
    cfg = ScheduleConfig(base_lr=0.4, warmup_steps=10, warmup_start_factor=0.25)
    assert learning_rate(cfg, 0, 100) == pytest.approx(0.1)
    assert learning_rate(cfg, 5, 100) == pytest.approx(0.25)


def test_cosine_falls_from_base_to_zero():
    cfg = ScheduleConfig(base_lr=2.0, type="cosine")
    assert [learning_rate(cfg, s, 8) for s in (0, 4, 8)] == pytest.approx([2.0, 1.0, 0.0])
    assert learning_rate(cfg, 2, 8) == pytest.approx(1 + math.cos(math.pi / 4))


def test_constant_stays():
    cfg = ScheduleConfig(base_lr=0.3, type="constant", milestones=(1, 2))
    assert learning_rate(cfg, 50, 100) == 0.3


def test_factors_replace_the_powers_of_gamma():
    cfg = ScheduleConfig(base_lr=2.0, milestones=(10, 20), factors=(0.5, 0.05))
    assert [learning_rate(cfg, s, 100) for s in (9, 10, 19, 20)] == pytest.approx([2.0, 1.0, 1.0, 0.1])


def test_cosine_may_end_before_or_after_the_training():
    cfg = ScheduleConfig(base_lr=2.0, type="cosine", cosine_steps=8)
    assert [learning_rate(cfg, s, 100) for s in (0, 4, 8, 50)] == pytest.approx([2.0, 1.0, 0.0, 0.0])
