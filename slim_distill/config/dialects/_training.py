"""Optimizer and learning rate of a PaddleDetection 0.4 file."""

import math
from typing import Any

from slim_distill.config._place import show
from slim_distill.config._yaml import Tagged
from slim_distill.config.dialects._section import Section, open_section
from slim_distill.config.schema import OptimizerConfig, ScheduleConfig

__all__ = ["translate_optimizer", "translate_schedule"]

DECAYS = ("PiecewiseDecay", "CosineDecay")
WARMUP = "LinearWarmup"


def translate_optimizer(run: Section) -> OptimizerConfig:
    """Translate OptimizerBuilder, and the moving average of the top level.

    Raises:
        ConfigError: an optimizer other than Momentum, a regularizer other than L2, or a key that is not known.
    """
    builder = open_section(
        "OptimizerBuilder", run.top.get("OptimizerBuilder"), run.root.at("OptimizerBuilder"), run.top, run.root
    )
    optimizer = _typed(builder, "optimizer", "Momentum")
    regularizer = _typed(builder, "regularizer", "L2")
    if optimizer is None:
        builder.place.at("optimizer").fail("is null; write {type: Momentum, momentum: 0.9}")
    return OptimizerConfig(
        type="momentum",
        momentum=optimizer.get("momentum", float),
        weight_decay=0.0 if regularizer is None else regularizer.get("factor", float),
        ema=run.get("ema_decay", float) if run.get("use_ema", bool) else 0.0,
        clip_norm=builder.get("clip_grad_by_norm", float | None) or 0.0,
    )


def _typed(builder: Section, key: str, kind: str) -> Section | None:
    """Return the section of a `{type: Momentum, ...}` mapping, the type being `kind`; None for null."""
    value, place = builder.raw(key)
    if value is None or value == {}:
        return None
    if not isinstance(value, dict) or value.get("type") != kind:
        found = value.get("type") if isinstance(value, dict) else value
        place.at("type").fail(f"{show(found)} is not supported; supported: {kind}")
    values = {name: entry for name, entry in value.items() if name != "type"}
    return open_section(kind, values, place, builder.top, builder.root)


def translate_schedule(run: Section) -> ScheduleConfig:
    """Translate LearningRate: one decay, then perhaps a linear warm-up.

    Raises:
        ConfigError: schedulers in another number or order, or of a kind that is not supported.
    """
    rate = open_section("LearningRate", run.top.get("LearningRate"), run.root.at("LearningRate"), run.top, run.root)
    schedulers, place = rate.raw("schedulers")
    nodes = schedulers if isinstance(schedulers, list) else []
    kinds = [node.tag if isinstance(node, Tagged) else show(node) for node in nodes]
    for i, kind in enumerate(kinds):
        if kind not in (*DECAYS, WARMUP):
            place.at(i).fail(
                f"{kind} is not supported; supported: {', '.join('!' + name for name in (*DECAYS, WARMUP))}"
            )
    if not kinds or kinds[0] not in DECAYS or kinds[1:] not in ([], [WARMUP]):
        wanted = " or ".join("!" + name for name in DECAYS)
        place.fail(f"must be a list of {wanted}, then perhaps !{WARMUP}, found {show(kinds or schedulers)}")
    sections = [open_section(node.tag, node.fields, place.at(i), run.top, run.root) for i, node in enumerate(nodes)]
    warmup = sections[1] if len(sections) > 1 else None
    return ScheduleConfig(
        base_lr=rate.get("base_lr", float),
        warmup_steps=0 if warmup is None else warmup.get("steps", int),
        warmup_start_factor=0.0 if warmup is None else warmup.get("start_factor", float),
        **_translate_decay(sections[0]),
    )


def _translate_decay(decay: Section) -> dict[str, Any]:
    if decay.kind == "CosineDecay":
        return {"type": "cosine", "cosine_steps": decay.get("max_iters", int)}
    milestones = decay.get("milestones", tuple[int, ...])
    factors = _factors(decay, len(milestones))
    gamma = factors[0] if factors else 0.1
    steady = all(math.isclose(factor, gamma ** (i + 1)) for i, factor in enumerate(factors))
    return {
        "type": "piecewise",
        "milestones": milestones,
        "gamma": gamma if steady else 0.1,
        "factors": () if steady else factors,
    }


def _factors(decay: Section, count: int) -> tuple[float, ...]:
    """Return the rate after each milestone as a share of base_lr: one gamma means gamma, gamma/10, gamma/100 in 0.4."""
    value, place = decay.raw("gamma")
    if not isinstance(value, list):
        gamma = decay.get("gamma", float)
        return tuple(gamma / 10**i for i in range(count))
    factors = decay.get("gamma", tuple[float, ...])
    if len(factors) != count:
        place.fail(f"must be one for each of the {count} milestones, found {len(factors)}")
    return factors
