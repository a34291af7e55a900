"""Learning rate as a pure function of the step."""

import math

from slim_distill.config.schema import ScheduleConfig

__all__ = ["learning_rate"]


def learning_rate(cfg: ScheduleConfig, step: int, max_iters: int) -> float:
    """Learning rate of the zero-based `step`.

    During warm-up it rises linearly from start_factor * base_lr; the first step has exactly that rate. After it,
    `piecewise` falls at each milestone (at the step equal to the milestone) to base_lr times that milestone's factor,
    or by gamma where there are no factors; `cosine` falls to 0 at `cosine_steps`, or at `max_iters` where that is 0;
    `constant` stays. The same as PaddleDetection's PiecewiseDecay and CosineDecay under LinearWarmup.
    """
    if step < cfg.warmup_steps:
        start = cfg.warmup_start_factor
        return cfg.base_lr * (start + (1.0 - start) * step / cfg.warmup_steps)
    if cfg.type == "piecewise":
        passed = sum(step >= milestone for milestone in cfg.milestones)
        factors = (1.0, *cfg.factors) if cfg.factors else None
        return cfg.base_lr * (cfg.gamma**passed if factors is None else factors[passed])
    if cfg.type == "cosine":
        length = cfg.cosine_steps or max_iters
        return cfg.base_lr * 0.5 * (1.0 + math.cos(math.pi * min(step / length, 1.0)))
    return cfg.base_lr
