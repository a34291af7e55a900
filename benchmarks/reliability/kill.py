"""Kill -9 a small distillation at random instants, resume it each time, and compare with the uninterrupted run.

    python benchmarks/reliability/kill.py --kills 100 --json

The run is the demo's student on drawn handwriting with the teacher that ships with the package, made small. Each kill
hits, by lot, any instant (start-up too), a save, an evaluation, or a loader worker. When a run gets to its end, its
parameters, its optimizer's state, its best model and its records of every step are compared bit for bit with those of
a run that nobody touched, and the next one begins. After every kill the checkpoint that was announced last must be
there and sound, and no worker process may be left. Needs scikit-learn for the handwriting.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from _processes import alive  # noqa: E402

from slim_distill.common.errors import WeightsError  # noqa: E402
from slim_distill.common.files import clean_folder  # noqa: E402
from slim_distill.engine.checkpoint import load_checkpoint, numbered  # noqa: E402

ASSETS = ROOT / "slim_distill" / "assets" / "digits"
STEPS, SNAPSHOT, EVALUATE = 40, 3, 5
PLACES = ("anywhere", "saving", "evaluation", "worker")


def term(scale: int) -> str:
    """The objectness-scaled loss of one scale: the neck is too narrow here for the demo's own terms."""
    parts = ", ".join(f"{part}.{scale}" for part in ("x", "y", "w", "h", "obj", "cls"))
    return f"{{loss: yolo_objectness, student: [{parts}], teacher: [{parts}], weight: 50}}"


def command(world: Path, name: str) -> list[str]:
    """The command of a run, the same for its start and every resumption."""
    data = [f"data.{part}.dataset.root={world / 'digits'}" for part in ("train", "eval")]
    options = [
        *data, f"output_dir={world / 'out'}", f"name={name}", "device=cpu", "seed=0",
        "data.train.workers=2", "data.train.batch_size=2", "data.eval.workers=1", "data.eval.batch_size=2",
        "model.backbone.scale=0.25", "model.head.scale=0.0625", f"train.max_iters={STEPS}", "train.log_iter=1",
        f"train.snapshot_iter={SNAPSHOT}", f"train.eval_iter={EVALUATE}", "train.keep=2", "schedule.warmup_steps=3",
        "distill.force=true",
        f"distill.terms=[{', '.join(map(term, range(3)))}]",
    ]  # fmt: skip
    return [
        sys.executable, "-m", "slim_distill", "distill", "-c", str(ASSETS / "student.yml"),
        "-t", str(ASSETS / "teacher.yml"), "--teacher_pretrained", str(ASSETS / "teacher.safetensors"),
        "-r", "auto", "-o", *options,
    ]  # fmt: skip


def start(world: Path, name: str) -> subprocess.Popen:
    """Start, or go on with, a run; what it says goes to NAME.log."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (world / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command(world, name), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)


def workers(pid: int) -> list[int]:
    """Loader workers of a process."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        try:
            if b"data._workers" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
        except OSError:
            continue
    return found


def last_line(path: Path) -> dict:
    """The last whole record of a run's log, or {}."""
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1]) if whole else {}


def at(place: str, folder: Path, pid: int) -> bool:
    """Whether a run is at the place that the lot named."""
    if place == "saving":
        return any(folder.glob(".*.tmp/*"))
    if place == "evaluation":
        line = last_line(folder / "log.jsonl")
        return bool(line) and "metric" not in line and line["step"] % EVALUATE == 0
    return place == "anywhere" or len(workers(pid)) > 0


def announced(folder: Path) -> int:
    """The newest step whose checkpoint was announced by status.json, 0 for none."""
    try:
        path = json.loads((folder / "status.json").read_text())["last_checkpoint"]
    except OSError:
        return 0
    return int(Path(path).name) if path else 0


def lost(folder: Path, step: int) -> list[str]:
    """What is not as it must be after a kill: the announced checkpoint is gone or damaged, or the best model is."""
    clean_folder(folder)  # what every start does first
    problems = []
    if step:
        newest = numbered(folder)
        if not newest or int(newest[0].name) < step:
            problems.append(f"checkpoint {step} was announced and is not there")
    for path in (*numbered(folder), folder / "best_model"):
        if path.exists():
            try:
                load_checkpoint(path)
            except WeightsError as error:
                problems.append(str(error))
    return problems


def same(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same arrays bit for bit."""
    one, two = load_checkpoint(a), load_checkpoint(b)
    return one.step == two.step and all(
        set(x) == set(y) and all(x[n].tobytes() == y[n].tobytes() and x[n].dtype == y[n].dtype for n in x)
        for x, y in ((one.model, two.model), (one.state, two.state))
    )


def records(folder: Path) -> list[dict]:
    """Losses and metrics of every step."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Lot:
    """Where and when the next kill hits, drawn anew for each: a place, a number of further steps, and a pause.

    Counting in steps keeps the same mixture on a fast and on a slow machine.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def draw(self, steps_done: int) -> None:
        """Draw the next one for a process that begins, or was left alive, at so many recorded steps."""
        early = self.random.random() < 0.15
        self.place = "anywhere" if early else self.random.choice(PLACES)
        self.step = 0 if early else steps_done + self.random.randint(1, 6)
        self.pause_s = self.random.uniform(0, 8 if early else 0.3)
        self.reached: float | None = None

    def hits(self, folder: Path, pid: int) -> bool:
        """Whether it is time."""
        if self.reached is None and last_line(folder / "log.jsonl").get("step", 0) >= self.step:
            self.reached = time.monotonic()
        return (
            self.reached is not None and time.monotonic() - self.reached > self.pause_s and at(self.place, folder, pid)
        )


def kill_runs(world: Path, kills: int, seed: int, per_run: int) -> dict:
    """Do it `kills` times, at most `per_run` times on one run; returns the figures."""
    lot, figures, where = Lot(seed), Counter(), Counter()
    bit_exact, number, problems = True, 0, []
    while figures["kills"] < kills:
        number += 1
        name, folder, hits, code = f"killed{number}", world / "out" / f"killed{number}", 0, None
        while code is None:
            began, resumed_from = time.monotonic(), announced(folder)
            process = start(world, name)
            lot.draw(resumed_from)
            killed: list[int] = []
            while process.poll() is None and hits < per_run and figures["kills"] < kills:
                if lot.hits(folder, process.pid):
                    helpers = workers(process.pid)
                    victim = lot.random.choice(helpers) if lot.place == "worker" and helpers else process.pid
                    os.kill(victim, signal.SIGKILL)
                    figures["kills"] += 1
                    hits += 1
                    where[lot.place] += 1
                    if victim == process.pid:
                        killed = helpers
                        process.wait()
                        break
                    lot.draw(last_line(folder / "log.jsonl").get("step", 0))
                time.sleep(0.002)
            if process.poll() is None:
                code = process.wait()
                break
            if process.returncode != -signal.SIGKILL:
                code = process.returncode
                break
            time.sleep(0.5)
            figures["orphans"] += sum(map(alive, killed))
            found = lost(folder, announced(folder)) if folder.is_dir() else []
            figures["lost_checkpoints"] += len(found)
            problems += found
            figures["resumed"] += 1  # taken back below when the next start does not come to an end
            print(f"{figures['kills']}: {name}: {lot.place}, after {time.monotonic() - began:.1f} s, "
                  f"started at step {resumed_from}, announced {announced(folder)}", flush=True)  # fmt: skip
        if code != 0:
            problems.append(f"{name} ended with exit code {code}; see {world / name}.log")
            figures["failed"] += 1
            bit_exact = False
            continue
        equal = all(
            same(folder / part, world / "out" / "straight" / part) for part in (str(STEPS), "model_final", "best_model")
        )
        equal &= records(folder) == records(world / "out" / "straight")
        left = [p.name for p in folder.iterdir() if p.name.startswith(".")]
        if left:
            problems.append(f"{folder}: left behind: {', '.join(left)}")
        bit_exact &= equal
        figures["runs"] += 1
        print(f"{name}: {hits} kills, {'equal' if equal else 'NOT EQUAL'} to the uninterrupted run", flush=True)
    return {
        "kills": figures["kills"], "resumed": figures["resumed"] - figures["failed"], "bit_exact": bit_exact,
        "lost_checkpoints": figures["lost_checkpoints"], "workers_left": figures["orphans"], "runs": figures["runs"],
        "where": dict(where), "problems": problems[:10],
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="how often; default: 100, 10 to 20 s each")
    parser.add_argument("--per-run", type=int, default=12, help="kills of one run before it may end; default: 12")
    parser.add_argument("--seed", type=int, default=0, help="of the lot; default: 0")
    parser.add_argument("--folder", type=Path, help="where files go; default: a new folder, removed at the end")
    parser.add_argument("--json", action="store_true", help="the figures as one line of JSON at the end")
    args = parser.parse_args(argv)
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        world = (args.folder or Path(temporary)).absolute()
        world.mkdir(parents=True, exist_ok=True)
        from slim_distill.data.digits import write_digits

        write_digits(world / "digits", seed=0, train=24, test=8, size=96)
        if not (world / "out" / "straight" / "model_final").is_dir() and start(world, "straight").wait() != 0:
            print((world / "straight.log").read_text()[-3000:], file=sys.stderr)
            return 1
        figures = kill_runs(world, args.kills, args.seed, args.per_run)
        for problem in figures["problems"]:
            print(problem, file=sys.stderr)
    print(json.dumps(figures) if args.json else figures)
    return 0 if figures["bit_exact"] and not figures["lost_checkpoints"] and not figures["workers_left"] else 1


if __name__ == "__main__":
    sys.exit(main())
