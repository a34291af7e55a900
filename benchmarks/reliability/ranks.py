"""Kill one of two ranks at a random moment, again and again: the other must go within the bound, and the run go on.

    python benchmarks/reliability/ranks.py --kills 20 [--json]

A small distillation on drawn images runs under `paddle.distributed.launch`. Each time a random rank gets SIGKILL (or,
every fourth time, SIGSTOP: it hangs) at a random instant after the first checkpoint of that start, and the same command
is given again with `-r auto`. At last the run is left to end, and its parameters are compared with those of a run that
nobody disturbed. With `--json` the last line is a JSON object: kills, resumed, codes, slowest_s, bound_s, bit_exact.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from _processes import alive  # noqa: E402

from slim_distill.engine.checkpoint import load_checkpoint, numbered  # noqa: E402
from tests.tiny import run_config, write_config, write_voc  # noqa: E402

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def prepare(root: Path, steps: int, timeout_s: float) -> None:
    """Write the data, and a student's and a teacher's configuration; train the teacher for two steps."""
    data = write_voc(root / "data")
    teacher = run_config(data, root / "out", name="teacher", train={"max_iters": 2, "snapshot_iter": 2})
    write_config(root / "teacher.yml", teacher)
    student = run_config(data, root / "out", name="student", parallel={"timeout_s": timeout_s, "drift_every": 10})
    student["distill"]["force"] = True
    student["train"] = {"max_iters": steps, "log_iter": 50, "snapshot_iter": 5, "eval_iter": 40, "keep": 2}
    write_config(root / "student.yml", student)
    command = [sys.executable, "-m", "slim_distill", "train", "-c", "teacher.yml"]
    subprocess.run(command, cwd=root, env=ENVIRONMENT, check=True, capture_output=True)


def launch(root: Path, name: str, ranks: int = 2) -> subprocess.Popen:
    """Start the student under `name`, going on where it was."""
    distil = [str(ROOT / "tools" / "distill.py"), "-c", "student.yml", "-t", "teacher.yml", "-r", "auto"]
    distil += ["--teacher_pretrained", "out/teacher/model_final", "-o", f"name={name}"]
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", "log"]
    with (root / "launch.log").open("w") as log:
        return subprocess.Popen([*command, *distil], cwd=root, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)


def ranks_of(launcher: subprocess.Popen) -> list[int]:
    """Process numbers of the launcher's workers."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # no process, or one that has just ended
        if entry.name.isdigit() and int(stat[1]) == launcher.pid and b"distill.py" in command and stat[0] != "Z":
            found.append(int(entry.name))
    return sorted(found)


def newest(root: Path, name: str) -> int:
    """Number of the newest checkpoint, 0 for none."""
    folders = numbered(root / "out" / name)
    return int(folders[0].name) if folders else 0


def disturb(root: Path, rng: random.Random, how: signal.Signals, bound_s: float) -> dict[str, object]:
    """Start, wait for a new checkpoint and a random while, hit one rank: what became of the other and the launcher."""
    before = newest(root, "student")
    launcher = launch(root, "student")
    until = time.monotonic() + 900
    while newest(root, "student") == before and launcher.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if launcher.poll() is not None or newest(root, "student") == before:
        launcher.kill()
        raise SystemExit(f"the run did not go on:\n{(root / 'launch.log').read_text()[-3000:]}")
    time.sleep(rng.uniform(0, 2))
    workers = ranks_of(launcher)
    victim = rng.choice(workers)
    since = time.monotonic()
    os.kill(victim, how)
    others = [pid for pid in workers if pid != victim]
    while any(alive(pid) for pid in others) and time.monotonic() < since + bound_s + 60:
        time.sleep(0.02)
    gone_s = time.monotonic() - since
    try:
        code = launcher.wait(bound_s + 60)
    finally:
        for pid in workers:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
    return {"how": how.name, "gone_s": round(gone_s, 2), "launcher": code, "resumed": newest(root, "student") > before}


def main() -> int:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how often a rank is hit (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (0)")
    parser.add_argument("--timeout", type=float, default=60.0, help="parallel.timeout_s of the run, seconds (60)")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root, steps=100_000, timeout_s=args.timeout)
        rows = []
        for number in range(args.kills):
            how = signal.SIGSTOP if number % 4 == 3 else signal.SIGKILL
            rows.append(disturb(root, rng, how, args.timeout))
            print(f"{number + 1}/{args.kills}: {rows[-1]}, at checkpoint {newest(root, 'student')}", flush=True)
        stop = newest(root, "student") + 5
        text = (root / "student.yml").read_text().replace("max_iters: 100000", f"max_iters: {stop}")
        (root / "student.yml").write_text(text)
        finished = [launch(root, name).wait(1200) for name in ("student", "undisturbed")]
        ends = [load_checkpoint(root / "out" / name / str(stop)) for name in ("student", "undisturbed")]
        arrays = [{**end.model, **end.state} for end in ends]
        same = all(np.array_equal(arrays[0][name], arrays[1][name], equal_nan=True) for name in arrays[1])
    result = {
        "kills": args.kills,
        "resumed": sum(bool(row["resumed"]) for row in rows[1:]) + (finished == [0, 0]),
        "codes": sorted({int(str(row["launcher"])) for row in rows}),
        "slowest_s": {how: max([float(str(r["gone_s"])) for r in rows if r["how"] == how], default=None)
                      for how in ("SIGKILL", "SIGSTOP")},
        "bound_s": args.timeout,
        "bit_exact": same,
    }  # fmt: skip
    print(json.dumps(result) if args.json else result)
    good = same and 0 not in result["codes"] and result["resumed"] == args.kills
    return 0 if good and all(float(str(row["gone_s"])) < args.timeout + 10 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
