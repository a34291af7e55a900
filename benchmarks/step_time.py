"""Time and memory of one merged YOLOv3 training step, ours against others: python benchmarks/step_time.py [--json].

ResNet34 teacher, MobileNetV1 student, 20 classes, noise for images. Every participant is a process of its own and
keeps what it built; they run a few steps each in turns, so that whatever else the machine does hits all alike. A
machine that others share changes its speed for half a minute at a time, by more than what is to be seen here: hence
many short turns, and ratios that are medians over the rounds of what is near in time, beside the medians themselves.
Ours is what training does. Where the teacher works on the next batch in the gaps of a step, the first step of a turn
waits for its teacher and the last one has none beside it. The floor is the student's training step alone plus the
teacher's inference alone, both compiled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAUSE_S = 0.3  # a thread pool keeps spinning for some 0.2 s after its work


@dataclass
class Participant:
    """One process, and what it answered."""

    name: str
    process: subprocess.Popen[str]
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def times(self) -> list[float]:
        return [answer["ms"] for answer in self.answers]

    @property
    def ms(self) -> float:
        return statistics.median(self.times)

    @property
    def peak_mb(self) -> float:
        return self.answers[-1]["peak_mb"]

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}; its messages are above")
        return json.loads(line)

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()


def start(name: str, python: str, script: str, variant: str, args: argparse.Namespace) -> Participant:
    """Start a worker and wait until it has built and run its first step."""
    command = [python, str(HERE / script), "--variant", variant, "--recipe", args.recipe]
    steps = 1 if variant == "stock" else args.steps  # they take many times as long as the others
    command += ["--size", str(args.size), "--batch", str(args.batch), "--steps", str(steps)]
    env = {**os.environ, "GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore"}
    if script != "_ours_step.py":
        # Ours chooses its threads itself; the others get as many as there are cores, which is best for them.
        env.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    stderr = None if args.verbose else subprocess.DEVNULL
    process = subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
    )
    participant = Participant(name, process)
    participant.read()
    print(f"built {name}", file=sys.stderr)
    return participant


def participants(args: argparse.Namespace) -> list[Participant]:
    wanted = [
        ("ours", sys.executable, "_ours_step.py", "overlapped"),
        ("ours, in one program", sys.executable, "_ours_step.py", "compiled"),
        ("student alone", sys.executable, "_ours_step.py", "student"),
        ("teacher alone", sys.executable, "_ours_step.py", "teacher"),
        ("ours, not compiled", sys.executable, "_ours_step.py", "stock"),
    ]
    if args.torch_python:
        wanted.append(("PyTorch", args.torch_python, "_torch_step.py", "plain"))
        wanted.append(("PyTorch, channels last", args.torch_python, "_torch_step.py", "channels_last"))
    if args.paddleslim_python:
        wanted.append(("PaddleSlim", args.paddleslim_python, "_paddleslim_step.py", "stock"))
    return [start(*row, args) for row in wanted]


def report(args: argparse.Namespace, found: dict[str, Participant]) -> dict[str, Any]:
    """The table on standard output, and the figures for --json."""
    ours = found["ours"]
    halves = found["student alone"], found["teacher alone"]
    floor = sum(half.ms for half in halves)
    turns = f"{args.rounds} turns of {args.steps} steps, medians; ours / it: the median over rounds"
    print(f"\n{args.recipe} recipe, batch {args.batch}, {args.size}x{args.size}, {turns}")
    print(f"{'':24}{'ms':>9}{'ours / it':>11}{'peak MB':>9}{'  loss':<12}")
    for name, row in found.items():
        value = row.answers[-1]["value"]
        print(f"{name:24}{row.ms:9.1f}{_ratio(ours, row):11.3f}{row.peak_mb:9.0f}  {value:<12.6g}")
    print(f"{'floor':24}{floor:9.1f}{_ratio(ours, *halves):11.3f}")
    layouts = [row for name, row in found.items() if name.startswith("PyTorch")]
    torch = min(layouts, key=lambda row: row.ms, default=None)
    slim = found.get("PaddleSlim")
    return {
        "size": args.size,
        "batch": args.batch,
        "recipe": args.recipe,
        "ours_ms": ours.ms,
        "one_program_ms": found["ours, in one program"].ms,
        "stock_ms": found["ours, not compiled"].ms,
        "floor_ms": floor,
        "torch_ms": torch.ms if torch is not None else None,
        "paddleslim_ms": slim.ms if slim is not None else None,
        "ours_to_floor": _ratio(ours, *halves),
        "ours_to_torch": _ratio(ours, torch) if torch is not None else None,
        "ours_to_paddleslim": _ratio(ours, slim) if slim is not None else None,
        "ours_peak_mb": ours.peak_mb,
        "stock_peak_mb": found["ours, not compiled"].peak_mb,
        "paddleslim_peak_mb": slim.peak_mb if slim is not None else None,
    }


def _ratio(one: Participant, *others: Participant) -> float:
    """Median over the rounds of the time of the one to that of the others together."""
    rounds = zip(one.times, *(other.times for other in others), strict=True)
    return statistics.median(mine / sum(theirs) for mine, *theirs in rounds)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--recipe", choices=("l2", "objectness"), default="l2", help="distillation losses")
    parser.add_argument("--rounds", type=int, default=15, help="measured turns of each participant")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn; one on stock Paddle")
    parser.add_argument(
        "--torch-python", default="", help="interpreter with torch 2.13; without it PyTorch is left out"
    )
    parser.add_argument(
        "--paddleslim-python", default="", help="interpreter with paddlepaddle 3.3 and paddleslim 2.6; or left out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--verbose", action="store_true", help="show the messages of the processes")
    args = parser.parse_args(argv)
    running = participants(args)
    try:
        for number in range(args.rounds + 1):
            # Each round begins with another participant, so that none always follows the same one.
            first = number % len(running)
            for participant in running[first:] + running[:first]:
                answer = participant.step()
                if number:  # the first turn warms up
                    participant.answers.append(answer)
                time.sleep(PAUSE_S)
            print(f"turn {number} of {args.rounds}" if number else "warmed up", file=sys.stderr)
    finally:
        for participant in running:
            participant.process.kill()
            participant.process.wait()
    figures = report(args, {participant.name: participant for participant in running})
    if args.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
