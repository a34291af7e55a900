"""What data-parallel training costs: the merged step on one and two processes, and the exchange over shaped links.

    python benchmarks/scaling.py steps [--turns 9] [--batch 8] [--json FILE]
    python benchmarks/scaling.py links [--json FILE]          # root: network namespaces with links of a shaped rate
    python benchmarks/scaling.py latency [--json FILE]        # root: the same with links that deliver later

`steps`: the YOLOv3 pair of the published recipe (MobileNetV1 student, ResNet34 teacher, l2) at 128 px, batch 8 a
process, as 1 process x 1 thread, 1 x 2, 2 x 1 with gradients exchanged, and 2 x 1 that know nothing of each other. All
stay loaded and run in turns; ratios are medians over the turns.

`links` and `latency`: sums of flat float32 buckets by gloo between 2, 4 and 8 processes, each in its own namespace.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from _switch import delayed_links, ip

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BRIDGE, PREFIX = "sdbr", "sd"
LINKS = ((2, 0, 0), (2, 1000, 0), (4, 1000, 0), (8, 1000, 0), (4, 200, 0))
"""(processes, rate of each one's link in Mbit/s each way, latency in ms one way); no rate and latency: loopback."""
BUCKETS = ((1, 1 << 10), (8, 1 << 18), (1, 1 << 21))
"""(number of buckets, float32 numbers in each)."""
LATE_LINKS = ((2, 0, 1), (2, 0, 10), (2, 0, 30), (4, 0, 1), (4, 0, 10), (4, 0, 30), (8, 0, 30))
SMALL_BUCKETS = ((1, 1 << 10), (4, 1 << 10))


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def rank_environment(rank: int, hosts: Sequence[str], port: int, threads: int) -> dict[str, str]:
    """What Paddle's launcher would set for one rank."""
    endpoints = [f"{host}:{port + 1 + i}" for i, host in enumerate(hosts)]
    return {
        "PADDLE_MASTER": f"{hosts[0]}:{port}",
        "PADDLE_TRAINER_ID": str(rank), "PADDLE_GLOBAL_RANK": str(rank), "PADDLE_LOCAL_RANK": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(hosts)), "PADDLE_GLOBAL_SIZE": str(len(hosts)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints), "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_DISTRI_BACKEND": "gloo", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads),
    }  # fmt: skip


class Group:
    """Processes that run one step each, together, whenever they are asked to."""

    def __init__(self, commands: Sequence[tuple[Sequence[str], dict[str, str]]]) -> None:
        base = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_minloglevel": "2"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.workers = [subprocess.Popen(command, env={**base, **env}, **pipes) for command, env in commands]

    def ready(self) -> None:
        """Wait until every process has built its step."""
        for worker in self.workers:
            if "ready" not in worker.stdout.readline():
                raise SystemExit(f"a worker did not start: {worker.args}")

    def run(self) -> float:
        """One step of all: milliseconds until the last is done."""
        since = time.perf_counter()
        for worker in self.workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in self.workers:
            json.loads(worker.stdout.readline())
        return (time.perf_counter() - since) * 1e3

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers:
            worker.kill()
            worker.communicate()


def worker(kind: str, *options: str) -> list[str]:
    """The command of a worker process."""
    return [sys.executable, str(HERE / "scaling.py"), "worker", "--kind", kind, *options]


def measure_steps(turns: int, batch: int, size: int, bucket_mb: float) -> dict[str, object]:
    """Run the four set-ups in turns."""
    options = ("--batch", str(batch), "--size", str(size), "--bucket_mb", str(bucket_mb))
    port, hosts = free_port(), ("127.0.0.1",) * 2
    threads = lambda n: {"OMP_NUM_THREADS": str(n), "MKL_NUM_THREADS": str(n)}  # noqa: E731
    setups = {
        "1x1": [(worker("alone", *options), threads(1))],
        "1x2": [(worker("alone", *options), threads(2))],
        "2x1": [(worker("rank", *options), rank_environment(rank, hosts, port, 1)) for rank in range(2)],
        "2x1 apart": [(worker("alone", *options), threads(1))] * 2,
    }
    with ExitStack() as stack:
        groups = {}
        for name, commands in setups.items():
            groups[name] = Group(commands)
            stack.callback(groups[name].close)
            groups[name].ready()
        times: dict[str, list[float]] = {name: [] for name in groups}
        for turn in range(turns):
            for name, group in groups.items():
                ms = group.run()
                if turn:  # the first is warm-up
                    times[name].append(ms)
    images = {name: batch * len(setups[name]) for name in setups}
    speed = {name: [images[name] / ms for ms in row] for name, row in times.items()}

    def ratio(a: str, b: str) -> float:
        return round(statistics.median(x / y for x, y in zip(speed[a], speed[b], strict=True)), 3)

    return {
        "batch": batch, "size_px": size, "bucket_mb": bucket_mb, "turns": turns - 1,
        "median_ms": {name: round(statistics.median(row), 1) for name, row in times.items()},
        "best_ms": {name: round(min(row), 1) for name, row in times.items()},
        "2x1 / 1x2": ratio("2x1", "1x2"), "2x1 / 1x1": ratio("2x1", "1x1"),
        "2x1 / 2x1 apart": ratio("2x1", "2x1 apart"), "2x1 apart / 1x1": ratio("2x1 apart", "1x1"),
        "1x2 / 1x1": ratio("1x2", "1x1"),
    }  # fmt: skip


def make_links(stack: ExitStack, count: int, rate_mbit: int) -> list[str]:
    """Namespaces on one bridge, every link shaped: their addresses. All is removed when the stack closes."""
    ip("link", "add", BRIDGE, "type", "bridge")
    stack.callback(ip, "link", "del", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    hosts = []
    for i in range(count):
        name, host = f"{PREFIX}{i}", f"10.213.7.{i + 1}"
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
        ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "net0", "netns", name)
        stack.callback(ip, "link", "del", f"{name}v")  # a namespace takes its end away some time after it is deleted
        ip("link", "set", f"{name}v", "master", BRIDGE, "up")
        ip("-n", name, "addr", "add", f"{host}/24", "dev", "net0")
        for device in ("net0", "lo"):
            ip("-n", name, "link", "set", device, "up")
        shape = ["tbf", "rate", f"{rate_mbit}mbit", "burst", "256kb", "latency", "100ms"]
        # What the process sends, at its own end, and what it gets, at the bridge's.
        for inside, device in ((("ip", "netns", "exec", name), "net0"), ((), f"{name}v")):
            command = [*inside, "tc", "qdisc", "add", "dev", device, "root", *shape]
            subprocess.run(command, check=True, capture_output=True)
        hosts.append(host)
    return hosts


def measure_links(
    turns: int, links: Sequence[tuple[int, int, float]], sizes: Sequence[tuple[int, int]]
) -> list[dict[str, object]]:
    """Time sums over links with a rate or a latency, and over the loopback device."""
    rows = []
    for count, rate, late_ms in links:
        with ExitStack() as stack:
            hosts = ["127.0.0.1"] * count
            if rate:
                hosts = make_links(stack, count, rate)
            elif late_ms:
                hosts = delayed_links(stack, PREFIX, count, late_ms)
            for buckets, numbers in sizes:
                port = free_port()
                commands = []
                for rank in range(count):
                    command = worker("reduce", "--buckets", str(buckets), "--numbers", str(numbers))
                    env = rank_environment(rank, hosts, port, 1)
                    if rate or late_ms:
                        command = ["ip", "netns", "exec", f"{PREFIX}{rank}", *command]
                        env["GLOO_SOCKET_IFNAME"] = "net0"
                    commands.append((command, env))
                group = Group(commands)
                try:
                    group.ready()
                    times = [group.run() for _ in range(turns)]
                finally:
                    group.close()
                row = {"processes": count, "mbit": rate, "late_ms": late_ms, "buckets": buckets, "numbers": numbers}
                rows.append({**row, "median_ms": round(statistics.median(times), 2), "best_ms": round(min(times), 2)})
                print(rows[-1], flush=True)
    return rows


def merged_step(size: int, batch: int, bucket_mb: float, ranks: bool) -> Callable[[], float]:
    """The step of this process, alone or as one rank."""
    from slim_distill.common.threads import configure_threads

    configure_threads()
    from _worker import NUM_CLASSES, make_batch

    from slim_distill.config.schema import BackboneConfig, ModelConfig, OptimizerConfig, ParallelConfig
    from slim_distill.engine.build import cut_to_losses
    from slim_distill.engine.compiling import initial_values, place
    from slim_distill.engine.distributed import connect
    from slim_distill.engine.parts import in_parts, start_together
    from slim_distill.engine.session import Session, start_static_mode
    from slim_distill.engine.training import LEARNING_RATE, build_training
    from slim_distill.graph import (
        SHARE,
        FoldBatchNorm,
        Freeze,
        FuseInference,
        Slice,
        merge,
        run_passes,
        trace,
    )
    from slim_distill.losses.terms import Term
    from slim_distill.models.build import build_model

    together = connect(60.0) if ranks else None
    start_static_mode()
    heads = tuple(f"yolo_head.{i}" for i in range(3))
    terms = [Term("l2", (head,), (f"teacher_{head}",), 100.0) for head in heads]
    student, teacher = (
        trace(build_model(ModelConfig(NUM_CLASSES, BackboneConfig(kind)), "train", size))
        for kind in ("mobilenet_v1", "resnet")
    )
    passes = [Freeze(), Slice(heads), FoldBatchNorm(heads), FuseInference(heads)]
    guest = run_passes(initial_values(teacher), passes).program
    training = build_training(cut_to_losses(merge(student, guest), terms), terms, OptimizerConfig())
    if together is not None:
        training = in_parts(training, terms, ParallelConfig(bucket_mb=bucket_mb), together.count)
    program = place(training.program, "auto", on_cpu=True, fixed=lambda: None).program
    session = Session("cpu")
    session.start(program, 1)
    session.write({LEARNING_RATE: session.read([LEARNING_RATE])[LEARNING_RATE] * 0 + 1e-6})
    if together is not None:
        session.write({SHARE: session.read([SHARE])[SHARE] + 1.0 / together.count})
        start_together(session, training, together, 0)
    arrays = make_batch(batch, size, fine_grained=False)
    fetch = [training.losses["total"]]

    def step() -> float:
        if together is not None:
            together.wait()
        return float(session.run(program, arrays, fetch)[fetch[0]].mean())

    return step


def sums(buckets: int, numbers: int) -> Callable[[], float]:
    """The exchange alone: `buckets` sums of `numbers` float32 numbers each, one after the other."""
    import paddle
    from paddle import distributed, static

    distributed.init_parallel_env()
    paddle.enable_static()
    paddle.set_flags({"FLAGS_new_executor_serial_run": True})
    main = static.Program()
    with static.program_guard(main, static.Program()):
        for _ in range(buckets):
            flat = paddle.full([numbers], 1.0, "float32")
            distributed.all_reduce(flat)
        last = flat[:1]
    executor = static.Executor(paddle.CPUPlace())
    return lambda: float(executor.run(main, fetch_list=[last])[0][0])


def main() -> None:
    """Run a part of the benchmark, or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("steps", "links", "latency", "worker"))
    parser.add_argument("--turns", type=int, default=9, help="runs of each, the first of `steps` not counted (9)")
    parser.add_argument("--batch", type=int, default=8, help="images a process and step (8)")
    parser.add_argument("--size", type=int, default=128, help="height and width, pixels (128)")
    parser.add_argument("--bucket_mb", type=float, default=16.0, help="size of a bucket, MiB (16)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--kind", choices=("alone", "rank", "reduce"), help="worker only")
    parser.add_argument("--buckets", type=int, default=1, help="worker only")
    parser.add_argument("--numbers", type=int, default=1024, help="worker only")
    args = parser.parse_args()
    if args.part == "worker":
        sys.path.insert(0, str(HERE))
        from _worker import serve

        if args.kind == "reduce":
            serve(sums(args.buckets, args.numbers))
        else:
            serve(merged_step(args.size, args.batch, args.bucket_mb, args.kind == "rank"))
        return
    if args.part == "steps":
        found = measure_steps(args.turns, args.batch, args.size, args.bucket_mb)
    elif args.part == "links":
        found = measure_links(args.turns, LINKS, BUCKETS)
    else:
        found = measure_links(args.turns, LATE_LINKS, SMALL_BUCKETS)
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
