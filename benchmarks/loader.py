"""Whether the loader keeps up with the step: python benchmarks/loader.py [--json].

The published training reader (mix-up, colour, expansion, crop, flip, resize) on the BCCD photographs of dataset/bccd,
or on drawn digits where these are missing: images a second with nothing else to do, and then the share of its time that
a training loop of the published YOLOv3 pair waits for the next batch.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _networks import make_step, published

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
    job = published("l2")
    step = make_step(job)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder))
        for size, batch in SHAPES:
            for workers in WORKERS:
                row = _measure(_loader(job, dataset, size, batch, workers), step, args.steps)
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


def _measure(loader: Any, step: Any, count: int) -> dict[str, float]:
    batches = loader.batches()
    batch = next(batches)
    images = len(batch["image"])
    for _ in range(4):  # what was built ahead does not count
        next(batches)
    since = time.perf_counter()
    for _ in range(count):
        next(batches)
    loading = time.perf_counter() - since
    step(batch)
    since = time.perf_counter()
    for _ in range(max(3, count // 4)):
        step(batch)
    stepping = (time.perf_counter() - since) / max(3, count // 4)
    waiting, since = 0.0, time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - asked
        step(batch)
    training = time.perf_counter() - since
    batches.close()
    return {
        "loader_images_s": images * count / loading,
        "step_images_s": images / stepping,
        "training_images_s": images * count / training,
        "waiting_share": waiting / training,
    }


if __name__ == "__main__":
    sys.exit(main())
