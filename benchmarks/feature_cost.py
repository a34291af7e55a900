"""What each feature loss adds to a training step: python benchmarks/feature_cost.py [--losses cwd mgd ...] [--json].

Each loss gets three terms, one for each level of a YOLOv3 neck, without adapters. They are run alone, forward, backward
and update of what they own, and compared with the merged training step of YOLOv3-ResNet34 into YOLOv3-MobileNetV1 with
its l2 terms, in turns.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from slim_distill.common.threads import configure_threads

configure_threads()

from _ours_step import build as build_step  # noqa: E402

from slim_distill.common.errors import SlimDistillError  # noqa: E402
from slim_distill.common.specs import FeedSpec, ModelSpec  # noqa: E402
from slim_distill.config.schema import OptimizerConfig  # noqa: E402
from slim_distill.engine.compiling import place  # noqa: E402
from slim_distill.engine.session import Session, start_static_mode  # noqa: E402
from slim_distill.engine.training import build_training  # noqa: E402
from slim_distill.graph import trace  # noqa: E402
from slim_distill.losses import LOSSES, Term  # noqa: E402
from slim_distill.losses.table import GROUPS  # noqa: E402

CHANNELS = (1024, 512, 256)
SAMPLES = 10_000
WHOLE = ("reviewkd",)  # one term reads all levels
PAIRS = ("fsp",)  # a term compares two maps of one model with two of the other


def terms_of(loss: str) -> list[Term]:
    """A term for each level."""
    levels = range(len(CHANNELS))
    args = {"fgd": {"boxes": "boxes"}, "crd": {"index": "index", "samples": SAMPLES}}.get(loss, {})
    if loss in WHOLE:
        return [Term(loss, tuple(f"s{i}" for i in levels), tuple(f"t{i}" for i in levels), 1.0, args)]
    times = 2 if loss in PAIRS else 1
    return [Term(loss, (f"s{i}",) * times, (f"t{i}",) * times, 1.0, args, f"{loss}{i}") for i in levels]


def feature_step(terms: list[Term], size: int, batch: int) -> Callable[[], None]:
    """One step of the terms on maps of noise; the student's maps are trained, by one number each."""
    import paddle
    from paddle import static

    shapes = {
        f"{side}{i}": (batch, channels, size // (32 >> i), size // (32 >> i))
        for side in "st"
        for i, channels in enumerate(CHANNELS)
    }
    random = np.random.RandomState(0)
    arrays = {name: random.randn(*shape).astype("float32") for name, shape in shapes.items()}
    arrays["boxes"] = np.tile(np.array([[0.5, 0.5, 0.4, 0.4]], "float32"), (batch, 3, 1))
    arrays["index"] = np.arange(batch, dtype="int64")
    feeds = {f"in_{name}": FeedSpec(array.shape, str(array.dtype)) for name, array in arrays.items()}

    def model(given: dict) -> dict:
        scale = static.create_parameter([1], "float32", attr=paddle.ParamAttr(name="scale"))
        maps = {name: given[f"in_{name}"] * (scale if name[0] == "s" else 1) for name in shapes}
        return {**maps, **{n: given[f"in_{n}"] * 1 for n in ("boxes", "index")}, "loss": (scale**2).mean()}

    training = build_training(trace(ModelSpec(feeds, model)), terms, OptimizerConfig(), for_cpu=True)
    program = place(training.program, "auto", on_cpu=True, fixed=lambda: None).program
    session = Session("cpu")
    session.start(program, 1)
    feed = {f"in_{name}": array for name, array in arrays.items()}
    fetch = [list(training.losses.values())[-1]]
    return lambda: session.run(program, feed, fetch)


def milliseconds(step: Callable[[], object]) -> float:
    since = time.perf_counter()
    step()
    return (time.perf_counter() - since) * 1e3


def main(argv: list[str] | None = None) -> int:
    """Print a table of medians; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=320, help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--rounds", type=int, default=7, help="measured runs of each; the median counts")
    parser.add_argument("--losses", nargs="+", default=list(GROUPS["features"]), choices=GROUPS["features"])
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    args = parser.parse_args(argv)
    start_static_mode()
    whole = build_step("compiled", args.size, args.batch, "l2")
    bare = feature_step([], args.size, args.batch)
    added: dict[str, float] = {}
    steps = []
    for loss in args.losses:
        assert loss in LOSSES
        try:
            step = feature_step(terms_of(loss), args.size, args.batch)
            step(), bare(), whole()
        except SlimDistillError as error:
            raise SystemExit(f"{loss}: {error}") from error
        times = [[milliseconds(run) for run in (step, bare, whole)] for _ in range(args.rounds)]
        mine, nothing, all_of_it = (statistics.median(column) for column in zip(*times, strict=True))
        added[loss] = mine - nothing
        steps.append(all_of_it)
        print(f"{loss:>12} {added[loss]:9.1f} ms {100 * added[loss] / all_of_it:7.1f} % of a step", flush=True)
    step_ms = statistics.median(steps)
    print(f"        step {step_ms:9.1f} ms")
    if args.json:
        print(json.dumps({"step_ms": step_ms, "added_ms": added}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
