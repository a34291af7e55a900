"""Schedules of a term's weight: closed forms, and what can never have an effect."""

import pytest

from slim_distill.common.errors import LossError
from slim_distill.config.schema import (
    DistillConfig,
    RampConfig,
    StepsConfig,
    TeacherConfig,
    TermConfig,
    TermScheduleConfig,
)
from slim_distill.losses.build import terms_from_config
from slim_distill.losses.schedule import Schedule


def scheduled(cfg, max_iters=100, epoch_steps=20):
    terms = (TermConfig("l2", ("a",), ("a",)), TermConfig("l2", ("b",), ("b",), weight=8.0, schedule=cfg))
    distill = DistillConfig({"teacher_": TeacherConfig()}, terms)
    return terms_from_config(distill, max_iters=max_iters, epoch_steps=epoch_steps)[1]


def values(cfg, *steps, **length):
    return [scheduled(cfg, **length).weight_at(step) for step in steps]


def test_without_a_schedule_the_weight_is_always_the_weight():
    assert scheduled(None).schedule is None
    assert scheduled(None).weight_at(99) == 8.0


@pytest.mark.parametrize(
    ("cfg", "steps", "expected"),
    [
        (TermScheduleConfig(constant=0.5), (0, 99), (4.0, 4.0)),
        (TermScheduleConfig(linear=RampConfig(1.0, 0.5)), (0, 50, 100), (8.0, 6.0, 4.0)),
        (TermScheduleConfig(linear=RampConfig(0.0, 1.0, 20, 60)), (0, 20, 40, 60, 99), (0.0, 0.0, 4.0, 8.0, 8.0)),
        # A quarter of the way a cosine has fallen by (1 - cos(pi / 4)) / 2 of its height.
        (TermScheduleConfig(cosine=RampConfig(1.0, 0.0)), (0, 25, 50, 75), (8.0, 6.82842712, 4.0, 1.17157288)),
        (TermScheduleConfig(cosine=RampConfig(1.0, 0.1)), (50, 100), (4.4, 0.8)),
        (TermScheduleConfig(step=StepsConfig((10, 20), 0.5)), (9, 10, 19, 20), (8.0, 4.0, 4.0, 2.0)),
        (TermScheduleConfig(warmup_steps=4), (0, 1, 3, 4), (2.0, 4.0, 8.0, 8.0)),
        (TermScheduleConfig(warmup_steps=4, start_step=10), (9, 10, 12, 13), (0.0, 2.0, 6.0, 8.0)),
        (TermScheduleConfig(stop_step=30), (29, 30, 99), (8.0, 0.0, 0.0)),
        (TermScheduleConfig(stop_epoch=1.5), (29, 30), (8.0, 0.0)),
        (TermScheduleConfig(constant=0.5, warmup_steps=2), (0, 1), (2.0, 4.0)),
    ],
)  # fmt: skip
def test_closed_forms(cfg, steps, expected):
    assert values(cfg, *steps) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (TermScheduleConfig(constant=0.0), "never becomes active: its factor is 0 at every step, and the run has 100"),
        (TermScheduleConfig(start_step=100), "never becomes active: its factor is 0 at every step"),
        (TermScheduleConfig(start_step=50, stop_step=50), "never becomes active: its factor is 0"),
        (TermScheduleConfig(step=StepsConfig((100,))), "never becomes active: its first change is at step 100"),
        (
            TermScheduleConfig(linear=RampConfig(1, 0, 100, 200)),
            "never becomes active: its first change is at step 100",
        ),
        (
            TermScheduleConfig(linear=RampConfig(1, 0, 100)),
            r"linear: first_step 100 must be below last_step, which is 100 \(train.max_iters\)",
        ),
        (
            TermScheduleConfig(linear=RampConfig(), cosine=RampConfig()),
            "one of constant, linear, cosine, step at most, found linear and cosine",
        ),
        (TermScheduleConfig(stop_step=5, stop_epoch=1.0), "stop_step 5 and stop_epoch 1: give one of the two"),
    ],
)
def test_a_schedule_without_effect_is_refused_with_its_path(cfg, message):
    with pytest.raises(
        LossError, match=rf"^distill\.terms\[1\]\.schedule(\.linear)?: .*{message.removeprefix('linear: ')}"
    ):
        scheduled(cfg)


def test_counting_passes_needs_data():
    with pytest.raises(LossError, match=r"distill\.terms\[1\]\.schedule\.stop_epoch: needs training data"):
        scheduled(TermScheduleConfig(stop_epoch=2.0), epoch_steps=None)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Schedule(), "constant 1"),
        (Schedule("cosine", 1.0, 0.1, 0, 100, warmup=5), "cosine 1 to 0.1, steps 0 to 100; warm-up 5"),
        (
            Schedule("step", milestones=(3, 5), gamma=0.5, begin=1, stop=9),
            "step x0.5 at 3, 5; from step 1; until step 9",
        ),
    ],
)
def test_says_in_words_what_it_does(schedule, text):
    assert str(schedule) == text
