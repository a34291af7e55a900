"""Seconds to freeze, slice and merge a teacher against its operators: python benchmarks/merge_time.py [--json]."""

import argparse
import json
import statistics
import sys
import time

from slim_distill.common.threads import configure_threads

SIZES = (100, 1000, 10_000)


def main(argv: list[str] | None = None) -> int:
    """Print a table of medians; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each size; the median counts")
    args = parser.parse_args(argv)
    configure_threads()
    import paddle
    from paddle import static

    from slim_distill.common.specs import FeedSpec, ModelSpec
    from slim_distill.graph import Freeze, NamedProgram, Slice, merge, run_passes, trace

    paddle.enable_static()

    def chain(operators: int) -> NamedProgram:
        """Layers of matmul, add and tanh with two parameters each: five operators a layer."""

        def build(feeds: dict) -> dict:
            x = feeds["x"]
            for i in range(operators // 5):
                w = static.create_parameter([8, 8], "float32", attr=paddle.ParamAttr(name=f"fc{i}_weights"))
                b = static.create_parameter([8], "float32", attr=paddle.ParamAttr(name=f"fc{i}_bias"))
                x = paddle.tanh(paddle.add(paddle.matmul(x, w), b))
            return {"out": x}

        return trace(ModelSpec({"x": FeedSpec((None, 8))}, build))

    results = {}
    for size in SIZES:
        host, guest = chain(100), chain(size)
        times: dict[str, list[float]] = {"freeze and slice": [], "merge": []}
        for _ in range(args.repeat):
            since = time.perf_counter()
            frozen = run_passes(guest, [Freeze(), Slice(("out",))]).program
            middle = time.perf_counter()
            merge(host, frozen)
            times["freeze and slice"].append(middle - since)
            times["merge"].append(time.perf_counter() - middle)
        results[size] = {name: statistics.median(values) for name, values in times.items()}
        print(f"{size:>6} operators: " + ", ".join(f"{n} {s:.3f} s" for n, s in results[size].items()))
    if args.json:
        seconds = {n: {k.replace(" ", "_") + "_s": v for k, v in row.items()} for n, row in results.items()}
        print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
