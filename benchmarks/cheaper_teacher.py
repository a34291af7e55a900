"""What a cheaper teacher saves of a step: python benchmarks/cheaper_teacher.py [--json].

The published YOLOv3 pair, merged into one program, against the same with the teacher's convolutions in bfloat16, and
against the program that is fed the teacher's outputs when every image of the batch is in the cache (looking up, reading
and checking them included), in turns in one process.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _networks import RECIPES, make_step, published

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
        f"{args.recipe}, {args.batch} of {args.size} px, medians of {args.rounds}: merged {figures['merged_ms']:.0f} ms"
    )
    for name in ("bfloat16", "cached"):
        print(
            f"{name:>9}: {figures[name + '_ms']:.0f} ms, ratio {figures[name + '_ratio']:.2f}, "
            f"first total loss differs by {figures[name + '_difference']:.1e}"
        )
    print(f"   lookup: {figures['lookup_ms']:.1f} ms of it; {figures['mb_an_image']:.2f} MB an image on disk")
    if args.json:
        print(json.dumps(figures))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Medians of interleaved steps."""
    from slim_distill.common.array_store import ArrayStore
    from slim_distill.engine import build
    from slim_distill.engine.teacher_outputs import FedTeacher

    job = published(args.recipe)
    program, names = build.build_frozen("teacher_", job.teachers["teacher_"], job.terms, job.cfg, on_cpu=True)
    teacher = FedTeacher("teacher_", program, [program.canonical(name) for name in names], "cpu")
    store = ArrayStore(folder, [teacher.identity], 10**10)
    teacher.use(store, images=args.batch)
    batch = job.batch(args.batch, args.size)
    teacher.outputs(batch)
    merged, fed = make_step(job), make_step(job, fed=("teacher_",))
    reduced = make_step(job, precision="bfloat16")
    values = [merged(batch), fed({**batch, **teacher.outputs(batch)}), reduced(batch)]
    times: dict[str, list[float]] = {"merged_ms": [], "bfloat16_ms": [], "lookup_ms": [], "cached_ms": []}
    for number in range(args.rounds + 2):
        marks = [time.perf_counter()]
        for run in (lambda: merged(batch), lambda: reduced(batch)):
            run()
            marks.append(time.perf_counter())
        complete = {**batch, **teacher.outputs(batch)}
        marks.append(time.perf_counter())
        fed(complete)
        marks.append(time.perf_counter())
        if number >= 2:
            spans = (marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2], marks[4] - marks[2])
            for name, seconds in zip(times, spans, strict=True):
                times[name].append(seconds * 1e3)
    store.close()
    figures: dict[str, Any] = {name: statistics.median(values) for name, values in times.items()}
    return {
        "size": args.size,
        "batch": args.batch,
        "recipe": args.recipe,
        **figures,
        "cached_ratio": figures["cached_ms"] / figures["merged_ms"],
        "bfloat16_ratio": figures["bfloat16_ms"] / figures["merged_ms"],
        "mb_an_image": store.used_bytes / args.batch / 1e6,
        "cached_difference": abs(values[1] / values[0] - 1),
        "bfloat16_difference": abs(values[2] / values[0] - 1),
    }


if __name__ == "__main__":
    sys.exit(main())
