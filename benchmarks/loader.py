"""Whether the loader keeps up with the step: python benchmarks/loader.py [--json].

The published training reader (mix-up, colour, expansion, crop, flip, resize) on the BCCD photographs of dataset/bccd,
or on drawn digits where these are missing: images a second with nothing else to do, and then the share of its time that
a training loop of the published YOLOv3 pair waits for the loader, with the teacher ahead of time where that is faster.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

from _networks import make_training, published

from slim_distill.common.threads import configure_threads

BCCD = Path(__file__).resolve().parents[1] / "dataset" / "bccd"
SHAPES = ((128, 8), (320, 4))
WORKERS = (1, 2)


def main(argv: list[str] | None = None) -> int:
    """Print a line for each size and number of workers; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="measured batches, and measured steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    args = parser.parse_args(argv)
    configure_threads()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = published("l2")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder))
        for size, batch in SHAPES:
            turn = make_training(job, job.batch(batch, size))
            for workers in WORKERS:
                row = _measure(_loader(job, dataset, size, batch, workers), turn, args.steps)
                rows.append({"size": size, "batch": batch, "workers": workers, "data": dataset.root, **row})
                print(
                    f"{batch} of {size} px, {workers} workers: loader {row['loader_images_s']:.0f} images/s, step "
                    f"{row['step_images_s']:.1f}; together {row['training_images_s']:.1f}, waiting "
                    f"{100 * row['waiting_share']:.2f} %"
                )
    if args.json:
        print(json.dumps({"rows": rows}))
    return 0


def _dataset(folder: Path) -> Any:
    from slim_distill.config.schema import DatasetConfig
    from slim_distill.data.digits import write_digits

    if (BCCD / "ImageSets").is_dir():
        return DatasetConfig(
            root=str(BCCD), annotations="ImageSets/Main/train.txt", images="JPEGImages",
            classes=("RBC", "WBC", "Platelets"),
        )  # fmt: skip
    write_digits(folder, seed=0, train=200, test=1, size=320)
    return DatasetConfig(
        root=str(folder), annotations="ImageSets/Main/train.txt", classes=tuple(str(k) for k in range(10))
    )


def _loader(job: Any, dataset: Any, size: int, batch: int, workers: int) -> Any:
    from slim_distill.data.build import build_loader

    reader = job.cfg.data.train
    steps = tuple(
        replace(t, args={**t.args, "sizes": (size,)}) if t.type == "RandomShape" else t for t in reader.batch_transforms
    )
    reader = replace(reader, dataset=dataset, batch_transforms=steps, batch_size=batch, workers=workers)
    return build_loader(reader, seed=0, train=True, path="data.train")


def _measure(loader: Any, turn: Callable[[Iterable[dict[str, Any]]], list[float]], count: int) -> dict[str, float]:
    batches = loader.batches()
    batch = next(batches)
    images = len(batch["image"])
    for _ in range(4):  # what was built ahead does not count
        next(batches)
    since = time.perf_counter()
    for _ in range(count):
        next(batches)
    loading = time.perf_counter() - since
    since = time.perf_counter()
    turn(repeat(batch, max(3, count // 4)))
    stepping = (time.perf_counter() - since) / max(3, count // 4)
    waits: list[float] = []
    since = time.perf_counter()
    turn(_timed(batches, count, waits))
    training = time.perf_counter() - since
    batches.close()
    return {
        "loader_images_s": images * count / loading,
        "step_images_s": images / stepping,
        "training_images_s": images * count / training,
        "waiting_share": sum(waits) / training,
    }


def _timed(batches: Iterator[dict[str, Any]], count: int, waits: list[float]) -> Iterator[dict[str, Any]]:
    """So many batches; `waits` gets the seconds that each was waited for, by whichever thread asked."""
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
        yield batch


if __name__ == "__main__":
    sys.exit(main())
