"""Compare PaddleSlim's merge and losses on Paddle's legacy IR with ours on PIR, from the same weights and batch.

    python benchmarks/paddleslim_parity.py [--folder CACHE] [--json FILE]

PaddleSlim is installed into virtual environments of its own, one with Paddle 3.3.1 and one with 2.6.2, the last Paddle
that it was written for: on 3.3.1 some of its losses do not run. Needs pip and about 3 GB of disk; the environments are
kept in the cache folder for the next time.
"""

import argparse
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

PADDLES = ("3.3.1", "2.6.2")
NEEDS = ("paddleslim==2.6.0", "six", "requests", "decorator", "setuptools<81", "numpy<2")
TARGET = 1e-5
BATCH, SIZE, CLASSES, CHANNELS = 4, 16, 10, 6

# Loss -> names of its variables in the order that PaddleSlim takes, teacher first, and its arguments.
CASES: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "l2 of features": (("teacher:second", "second"), {}),
    "l2 of logits": (("teacher:logits", "logits"), {}),
    "soft_label": (("teacher:logits", "logits"), {}),
    "soft_label, T=3 and 2": (("teacher:logits", "logits"), {"teacher_temperature": 3.0, "student_temperature": 2.0}),
    "skd": (("teacher:logits", "logits"), {}),
    "skd, multiplier 2": (("teacher:logits", "logits"), {"multiplier": 2.0}),
    "fsp": (("teacher:first", "teacher:second", "first", "second"), {}),
    "dkd": (("teacher:logits", "logits"), {"temperature": 2.0, "alpha": 1.0, "beta": 2.0}),
    "dkd of equal logits": (("teacher:logits", "teacher:logits"), {"temperature": 2.0}),
}
MUST_AGREE = (
    "merge",
    "l2 of features",
    "l2 of logits",
    "soft_label",
    "soft_label, T=3 and 2",
    "skd",
    "skd, multiplier 2",
)


# Worker: runs under both IRs, so it uses only what both have.


def build(width: int, seed: int) -> tuple[Any, Any, dict[str, Any], list[Any]]:
    """A small classifier: (main program, startup program, {role: variable}, its layers)."""
    import paddle
    from paddle import ParamAttr, nn, static
    from paddle.utils import unique_name

    main, startup = static.Program(), static.Program()
    with static.program_guard(main, startup), unique_name.guard():
        image = static.data("image", [None, 3, SIZE, SIZE], "float32")
        roles, layers, x, inputs = {}, [], image, 3
        for role, channels in (("hidden", width), ("first", CHANNELS), ("second", CHANNELS)):
            conv = nn.Conv2D(
                inputs, channels, 3, padding=1, weight_attr=ParamAttr(f"{role}.w"), bias_attr=ParamAttr(f"{role}.b")
            )
            norm = nn.BatchNorm2D(
                channels, weight_attr=ParamAttr(f"{role}.scale"), bias_attr=ParamAttr(f"{role}.offset")
            )
            layers += [conv, norm]
            roles[role] = x = nn.functional.relu(norm(conv(x)))
            inputs = channels
        linear = nn.Linear(CHANNELS, CLASSES, weight_attr=ParamAttr("head.w"), bias_attr=ParamAttr("head.b"))
        roles["logits"] = linear(paddle.mean(x, axis=[2, 3]))
        layers.append(linear)
    return main, startup, roles, layers


def fill(scope: Any, layers: list[Any], salt: str) -> None:
    """Give every parameter and running statistic a value that depends on its name alone."""
    import paddle

    for layer in layers:
        for variable in layer.state_dict().values():
            r = np.random.RandomState(zlib.crc32(f"{salt}{variable.name}".encode()))
            fan_in = np.prod(variable.shape[1:]) if len(variable.shape) == 4 else variable.shape[0]
            value = r.randn(*variable.shape) * (np.sqrt(2 / fan_in) if len(variable.shape) > 1 else 0.1)
            statistic = "batch_norm" in variable.name and variable.name.endswith(("w_2", "variance"))
            if statistic or variable.name.endswith("scale"):
                value = 1 + np.abs(value)
            scope.var(variable.name).get_tensor().set(value.astype("float32"), paddle.CPUPlace())


def names_of(api: ModuleType, program: Any, roles: dict[str, Any]) -> dict[str, str]:
    """What a user would write: the program's own names under the legacy IR, ours under PIR."""
    if not hasattr(api, "name_program"):
        return {role: value.name for role, value in roles.items()}
    named = api.name_program(program)
    return {role: next(n for n, v in named.variables.items() if v.is_same(value)) for role, value in roles.items()}


def run_case(api: ModuleType, function: str, variables: tuple[str, ...], arguments: dict[str, float]) -> dict[str, Any]:
    """Merge, attach one loss, and run: its value and the gradients of all parameters of the student."""
    import paddle
    from paddle import static

    place = paddle.CPUPlace()
    executor = static.Executor(place)
    teacher, _, its, teacher_layers = build(12, 1)
    student, startup, own, layers = build(8, 2)
    teacher_scope, scope = static.Scope(), static.Scope()
    fill(teacher_scope, teacher_layers, "teacher ")
    fill(scope, layers, "student ")
    names = names_of(api, student, own)
    names |= {f"teacher:{role}": f"teacher_{name}" for role, name in names_of(api, teacher, its).items()}
    batch = {"image": np.random.RandomState(0).randn(BATCH, 3, SIZE, SIZE).astype("float32")}
    alone = executor.run(test_form(api, teacher), batch, [its["logits"]], scope=teacher_scope)[0]
    api.merge(teacher, student, {"image": "image"}, place, scope=scope, teacher_scope=teacher_scope)
    if function == "merge":
        merged = executor.run(student, batch, [variable(api, student, names["teacher:logits"])], scope=scope)[0]
        return {"merged": merged, "alone": alone}
    with static.program_guard(student, startup), static.scope_guard(scope):
        loss = getattr(api, function)(*(names[v] for v in variables), program=student, **arguments)
        pairs = [] if loss.stop_gradient else static.append_backward(loss)
        pairs = [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]
        out = executor.run(student, batch, [loss, *(gradient for _, gradient in pairs)])
    return {"loss": out[0], **{f"grad {p.name}": g for (p, _), g in zip(pairs, out[1:], strict=True)}}


def test_form(api: ModuleType, program: Any) -> Any:
    """The program with batch norms on their running statistics."""
    if not hasattr(api, "name_program"):
        return program.clone(for_test=True)
    for op in program.global_block().ops:
        if op.has_attr("is_test"):
            op.set_bool_attr("is_test", True)
    return program


def variable(api: ModuleType, program: Any, name: str) -> Any:
    """A variable of a merged program by name."""
    return api.name_program(program)[name] if hasattr(api, "name_program") else name


def work(which: str, target: Path) -> None:
    """Run every case with one of the two packages; write arrays and, for what failed, the error."""
    import paddle

    if which == "paddleslim":
        from paddleslim import dist as api
    else:
        from slim_distill import paddleslim as api
    paddle.enable_static()
    arrays: dict[str, np.ndarray] = {}
    failures: dict[str, str] = {}
    for case, (variables, arguments) in {"merge": ((), {}), **CASES}.items():
        try:
            found = run_case(api, case.split(",")[0].split(" ")[0], variables, arguments)
        except Exception as error:  # noqa: BLE001 a failure is a result here, and is shown
            text = str(error).strip().splitlines()[-1].split(" (at /")[0]
            failures[case] = f"{type(error).__name__}: {text[:120]}"
            continue
        arrays |= {f"{case}|{key}": np.asarray(value) for key, value in found.items()}
    np.savez(target, **arrays)
    target.with_suffix(".json").write_text(json.dumps(failures))


# Driver.


def environment(folder: Path, paddle: str) -> Path:
    """Python of a virtual environment with this Paddle and PaddleSlim; made if it is not there."""
    home = folder / f"paddle-{paddle}"
    python = home / "bin" / "python"
    if not (home / ".complete").is_file():
        print(f"making {home}: this downloads some 500 MB", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"paddlepaddle=={paddle}", *NEEDS], check=True)
        (home / ".complete").touch()
    return python


def results(python: Path | str, which: str, folder: Path, label: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Run the worker in another process: (arrays, errors)."""
    target = folder / f"{label}.npz"
    legacy = {"FLAGS_enable_pir_api": "0"} if which == "paddleslim" else {}
    settings = {**os.environ, "GLOG_minloglevel": "2", "PYTHONWARNINGS": "ignore", **legacy}
    if which != "paddleslim":
        settings["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    command = [str(python), __file__, "--worker", which, "--target", str(target)]
    subprocess.run(command, env=settings, check=True, stdout=subprocess.DEVNULL)
    with np.load(target) as file:
        return dict(file), json.loads(target.with_suffix(".json").read_text())


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference over the largest wanted magnitude."""
    difference, size = np.abs(got.astype("f8") - want).max(), np.abs(want.astype("f8")).max()
    return float(difference / size) if size else float(difference)


def gradient_error(case: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float | None:
    """Worst error of any parameter's gradient against the largest gradient of all; None where there is none."""
    keys = [key for key in theirs if key.startswith(f"{case}|grad ")]
    assert set(keys) == {key for key in ours if key.startswith(f"{case}|grad ")}, f"{case}: other parameters train"
    if not keys:
        return None
    size = max(np.abs(theirs[key]).max() for key in keys)
    return max(float(np.abs(ours[key].astype("f8") - theirs[key]).max() / size) for key in keys)


def compare(case: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], failed: str) -> dict[str, Any]:
    """One row of the table."""
    key = f"{case}|loss"
    if case == "merge":
        row = {"ours": error(ours["merge|merged"], ours["merge|alone"])}
        if not failed:
            row |= {"theirs": error(theirs["merge|merged"], theirs["merge|alone"])}
            row |= {"loss": error(ours["merge|merged"], theirs["merge|merged"]), "gradient": None}
        return row | ({"failed": failed} if failed else {})
    if failed:
        return {"ours": float(ours[key]), "failed": failed}
    return {
        "ours": float(ours[key]),
        "theirs": float(theirs[key]),
        "loss": error(ours[key], theirs[key]),
        "gradient": gradient_error(case, ours, theirs),
    }


def unsteady(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> set[str]:
    """Cases whose numbers differ between two runs of the same program on the same arrays."""
    return {key.split("|")[0] for key in first if not np.array_equal(first[key], second[key], equal_nan=True)}


def show(row: dict[str, Any]) -> tuple[str, str, str]:
    """PaddleSlim's value, error of the loss, error of the gradient: as text."""
    if "failed" in row:
        return f"fails: `{row['failed']}`", "-", "-"
    gradient = "-" if row["gradient"] is None else f"{row['gradient']:.1e}"
    if row["unsteady"]:
        gradient += ", not the same in a second run"
    return f"{row['theirs']:.6g}", f"{row['loss']:.1e}", gradient


def main() -> int:
    """Compare, print the table, and return 1 when something that must agree does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slim_distill" / "paddleslim_parity"
    parser.add_argument("--folder", type=Path, default=cache, help="where the environments are kept")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    parser.add_argument("--worker", choices=("paddleslim", "slim_distill"), help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.target)
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    ours, broken = results(sys.executable, "slim_distill", args.folder, "slim_distill")
    if broken:
        print(f"slim_distill failed: {broken}", file=sys.stderr)
        return 1
    table: dict[str, dict[str, Any]] = {}
    print("| case | ours on PIR | PaddleSlim 2.6.0 on Paddle | its value | error of loss | error of gradient |")
    print("|---|---|---|---|---|---|")
    for paddle in PADDLES:
        python, label = environment(args.folder, paddle), f"paddle-{paddle}"
        theirs, failures = results(python, "paddleslim", args.folder, label)
        again, _ = results(python, "paddleslim", args.folder, label)
        differing = unsteady(theirs, again)
        for case in ("merge", *CASES):
            row = table[f"{case}|{paddle}"] = compare(case, ours, theirs, failures.get(case, ""))
            row["unsteady"] = case in differing
            print(f"| {case} | {row['ours']:.6g} | {paddle} | {' | '.join(show(row))} |")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))
    agreed = {
        case
        for case in MUST_AGREE
        for paddle in PADDLES
        if "failed" not in (row := table[f"{case}|{paddle}"]) and max(row["loss"], row["gradient"] or 0.0) <= TARGET
    }
    missing = [case for case in MUST_AGREE if case not in agreed]
    print(
        f"agreement to {TARGET:g}: {'all of ' + ', '.join(MUST_AGREE) if not missing else 'NOT ' + ', '.join(missing)}"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
