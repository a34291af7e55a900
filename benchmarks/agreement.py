"""How near the compiled program stays to the plain one: python benchmarks/agreement.py -c STUDENT.yml -t TEACHER.yml.

Runs `slim-distill distill` for the first steps, each time from the same weights and on the same batches: compiled as it
comes; not compiled; and not compiled, with another code path of Paddle's own GEMM library. The last one shows how far
rounding alone takes training, whoever rounds. Options after -o go to all three; a trained student
(`-o train.pretrain_weights=...`) is less sensitive than fresh weights.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from slim_distill.common.threads import cpu_flags
from slim_distill.config import load_config

PLAIN = ("compile.teacher=off", "compile.placement=stock")


def main(argv: list[str] | None = None) -> int:
    """Print the relative difference of the total loss at every step; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="the student's YAML file, with a recipe")
    parser.add_argument("-t", "--teacher_config", required=True, metavar="FILE", help="the teacher's YAML file")
    parser.add_argument("--teacher_pretrained", required=True, metavar="PATH", help="weights of the teacher")
    parser.add_argument("-o", "--opt", nargs="*", default=[], metavar="KEY=VALUE", help="override the configuration")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    args = parser.parse_args(argv)
    cfg = load_config(args.config, args.opt)
    # A schedule that ends with training would otherwise end with the few steps made here.
    args.opt += [f"schedule.cosine_steps={cfg.schedule.cosine_steps or cfg.train.max_iters}"]
    # Paddle's wheel has MKL 2019: 7 is its AVX-512 code, which the project asks for, 5 its AVX2 and 4 its AVX code.
    other = {"MKL_DEBUG_CPU_TYPE": "5" if "avx512f" in cpu_flags() else "4"}
    with tempfile.TemporaryDirectory() as folder:
        compiled = losses(args, Path(folder), "compiled")
        plain = losses(args, Path(folder), "plain", *PLAIN)
        itself = losses(args, Path(folder), "other-gemm", *PLAIN, environ=other)
    figures = {"compiled": differences(plain, compiled), "plain, other GEMM code": differences(plain, itself)}
    print("relative difference of the total loss from the plain program")
    print(f"{'step':>6}" + "".join(f"{name:>26}" for name in figures))
    for step, row in enumerate(zip(*figures.values(), strict=True), 1):
        print(f"{step:6}" + "".join(f"{value:26.1e}" for value in row))
    print(f"{'most':>6}" + "".join(f"{max(values):26.1e}" for values in figures.values()))
    if args.json:
        print(json.dumps(figures))
    return 0


def losses(
    args: argparse.Namespace, folder: Path, name: str, *options: str, environ: dict[str, str] | None = None
) -> list[float]:
    """The total loss of each step of a run."""
    own = [f"output_dir={folder}", f"name={name}", f"train.max_iters={args.steps}", "train.log_iter=1"]
    command = [sys.executable, "-m", "slim_distill", "distill", "-c", args.config, "-t", args.teacher_config]
    command += ["--teacher_pretrained", args.teacher_pretrained, "-o", *args.opt, *own, "distill.force=true", *options]
    print(f"training, {name}", file=sys.stderr)
    done = subprocess.run(command, env={**os.environ, **(environ or {})}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    rows = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    return [row["total"] for row in rows if "total" in row]


def differences(plain: list[float], other: list[float]) -> list[float]:
    """Relative difference at every step."""
    return [abs(b - a) / abs(a) for a, b in zip(plain, other, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
