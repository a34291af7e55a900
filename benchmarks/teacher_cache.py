"""What the cache of teacher outputs saves of a step: python benchmarks/teacher_cache.py [--json].

The published YOLOv3 pair, merged into one program, against the program that is fed the teacher's outputs when every
image of the batch is in the cache (looking up, reading and checking them included), in turns in one process.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _networks import RECIPES, published

from slim_distill.common.threads import configure_threads


def main(argv: list[str] | None = None) -> int:
    """Print a line; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--recipe", choices=RECIPES, default="l2", help="distillation losses")
    parser.add_argument("--rounds", type=int, default=9, help="measured steps of each; the median counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    args = parser.parse_args(argv)
    configure_threads()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(args, Path(folder))
    print(
        f"{args.recipe}, {args.batch} of {args.size} px: merged {figures['merged_ms']:.0f} ms, all found "
        f"{figures['cached_ms']:.0f} ms, ratio {figures['ratio']:.2f}; looking up {figures['lookup_ms']:.1f} ms, "
        f"{figures['mb_an_image']:.2f} MB an image; losses differ by {figures['difference']:.1e}"
    )
    if args.json:
        print(json.dumps(figures))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Medians of interleaved steps."""
    from slim_distill.common.array_store import ArrayStore
    from slim_distill.engine import build
    from slim_distill.engine.teacher_outputs import CachedTeacher

    job = published(args.recipe)
    program, names = build.build_frozen("teacher_", job.teachers["teacher_"], job.terms, job.cfg, on_cpu=True)
    teacher = CachedTeacher("teacher_", program, [program.canonical(name) for name in names], "cpu")
    store = ArrayStore(folder, [teacher.identity], 10**10)
    teacher.use(store, images=args.batch)
    batch = job.batch(args.batch, args.size)
    teacher.outputs(batch)
    merged, fed = _step(job, ()), _step(job, ("teacher_",))
    values = (merged(batch), fed({**batch, **teacher.outputs(batch)}))
    times: dict[str, list[float]] = {"merged_ms": [], "lookup_ms": [], "cached_ms": []}
    for number in range(args.rounds + 2):
        since = time.perf_counter()
        merged(batch)
        middle = time.perf_counter()
        complete = {**batch, **teacher.outputs(batch)}
        found = time.perf_counter()
        fed(complete)
        end = time.perf_counter()
        if number >= 2:
            for name, seconds in zip(times, (middle - since, found - middle, end - middle), strict=True):
                times[name].append(seconds * 1e3)
    store.close()
    figures: dict[str, Any] = {name: statistics.median(values) for name, values in times.items()}
    return {
        "size": args.size,
        "batch": args.batch,
        "recipe": args.recipe,
        **figures,
        "ratio": figures["cached_ms"] / figures["merged_ms"],
        "mb_an_image": store.used_bytes / args.batch / 1e6,
        "difference": abs(values[0] - values[1]) / abs(values[0]),
    }


def _step(job: Any, fed: tuple[str, ...]) -> Callable[[dict[str, Any]], float]:
    """One step with the given teachers fed; it returns the total loss."""
    import numpy as np

    from slim_distill.engine import build
    from slim_distill.engine.compiling import place, training_step
    from slim_distill.engine.session import Session
    from slim_distill.engine.training import LEARNING_RATE

    student = build.build_student(job.cfg)
    training = training_step(student, job.teachers, job.terms, job.cfg, on_cpu=True, fed=fed)
    program = place(training.program, "auto", on_cpu=True, fixed=lambda: None).program
    session = Session("cpu")
    session.start(program, seed=1)
    session.write({LEARNING_RATE: np.asarray(1e-6, "float32")})
    total = training.losses["total"]
    return lambda batch: float(session.run(program, batch, [total])[total])


if __name__ == "__main__":
    sys.exit(main())
