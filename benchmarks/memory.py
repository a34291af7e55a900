"""Whether a training process grows: python benchmarks/memory.py [--steps N | --minutes M] [--save-every 200] [--json].

Trains the published YOLOv3 pair (real networks, small images, so that it is quick) on drawn digits through the whole
engine, and notes resident memory, open files, threads and child processes of its process after 200 steps and then
every 200. With --minutes it goes on so long, and then is stopped as by a scheduler; with --save-every it evaluates and
writes a checkpoint every so many steps. Slopes are those of straight lines through all notes but the first.
"""

import argparse
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from _networks import published

from slim_distill.common.errors import Preempted
from slim_distill.common.threads import configure_threads

EVERY = 200


def main(argv: list[str] | None = None) -> int:
    """Print a line for every note; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--minutes", type=float, help="go on for so long instead")
    parser.add_argument("--save-every", type=int, help="evaluate and write a checkpoint every so many steps")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images, pixels")
    parser.add_argument("--random-sizes", action="store_true", help="images of that size and of twice and 3 times it")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    args = parser.parse_args(argv)
    configure_threads()
    notes: list[dict[str, float]] = []
    since = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            _train(args, Path(folder), notes)
        except Preempted as end:
            print(end)
    minutes = (time.monotonic() - since) / 60
    slopes = {name: slope(notes, name) for name in notes[0] if name != "step"}
    first, last = notes[0], notes[-1]
    print(f"{minutes:.1f} minutes, from step {first['step']} to {last['step']}:")
    for name, value in slopes.items():
        print(f"{name}: {first[name]:.0f} -> {last[name]:.0f}, {value:+.2f} a thousand steps")
    if args.json:
        print(json.dumps({"minutes": minutes, "notes": notes, "per_1000_steps": slopes}))
    return 0


def slope(notes: list[dict[str, float]], name: str) -> float:
    """Growth per thousand steps, of the straight line that fits best; the first note is left out as a warm-up."""
    rows = notes[1:]
    if len(rows) < 2:
        return 0.0
    line = statistics.linear_regression([row["step"] for row in rows], [row[name] for row in rows])
    return 1000 * line.slope


def note(step: int) -> dict[str, float]:
    """Resident memory in MB (10^6 bytes), open files, threads and child processes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "step": step,
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(_tasks()),
        "children": sum(len(Path(f"/proc/self/task/{t}/children").read_text().split()) for t in _tasks()),
    }


def _tasks() -> list[str]:
    return os.listdir("/proc/self/task")


def _train(args: argparse.Namespace, folder: Path, notes: list[dict[str, float]]) -> None:
    from slim_distill.config.schema import DatasetConfig
    from slim_distill.data.digits import write_digits
    from slim_distill.engine.train import train

    end = time.monotonic() + 60 * (args.minutes or float("inf"))

    class Watch(logging.Handler):
        """Takes a note when training logs its progress, which it does in the middle of the loop; ends a long run."""

        def emit(self, record: logging.LogRecord) -> None:
            if record.msg.startswith("step %d/%d"):
                notes.append(note(record.args[0]))
                print(", ".join(f"{name} {value:.6g}" for name, value in notes[-1].items()), flush=True)
                if time.monotonic() > end:
                    os.kill(os.getpid(), signal.SIGTERM)

    progress = logging.getLogger("slim_distill.engine.hooks")
    progress.setLevel(logging.INFO)
    progress.addHandler(Watch())
    write_digits(folder, seed=0, train=100, test=2, size=96)
    classes = tuple(str(k) for k in range(10)) + tuple(f"unused {k}" for k in range(10))
    dataset = DatasetConfig(root=str(folder), annotations="ImageSets/Main/train.txt", classes=classes)
    held_out = replace(dataset, annotations="ImageSets/Main/test.txt")
    job = published("l2", "distill.force=true")
    cfg, data = job.cfg, job.cfg.data
    args.steps = args.steps if args.minutes is None else 10_000_000
    every, save = min(EVERY, args.steps), args.save_every or args.steps
    sizes = [args.size * k for k in ((1, 2, 3) if args.random_sizes else (1,))]
    steps = tuple(
        replace(t, args={**t.args, "sizes": sizes}) if t.type == "RandomShape" else t
        for t in data.train.batch_transforms
    )
    reader = replace(data.train, dataset=dataset, batch_transforms=steps, batch_size=args.batch, workers=1)
    cfg = replace(
        cfg,
        device="cpu",
        output_dir=str(folder / "out"),
        data=replace(data, train=reader, eval=replace(data.eval, dataset=held_out, batch_size=1, workers=0)),
        train=replace(cfg.train, pretrain_weights="", max_iters=args.steps, snapshot_iter=save, log_iter=every),
        schedule=replace(cfg.schedule, base_lr=1e-5),
    )
    train(cfg, job.teachers)


if __name__ == "__main__":
    sys.exit(main())
