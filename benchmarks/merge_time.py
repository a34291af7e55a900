"""CPU seconds to cut, compile and merge a teacher against its operators: python benchmarks/merge_time.py [--json].

All of it is work of one thread, so on an idle machine these are seconds by the clock, and on a busy one they stay so.
"""

import argparse
import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

from slim_distill.common.threads import configure_threads

SIZES = (100, 1000, 3000, 10_000)


def main(argv: list[str] | None = None) -> int:
    """Print a table of medians; with --json one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each size; the median counts")
    args = parser.parse_args(argv)
    configure_threads()
    import numpy as np
    import paddle
    from paddle import static

    from slim_distill.common.specs import FeedSpec, ModelSpec
    from slim_distill.engine.session import start_static_mode
    from slim_distill.graph import (
        FoldBatchNorm,
        Freeze,
        FuseInference,
        NamedProgram,
        Slice,
        Winograd,
        merge,
        run_passes,
        trace,
    )

    start_static_mode()

    def chain(operators: int) -> NamedProgram:
        """Layers of convolution, batch norm and ReLU with five parameters: eight operators a layer."""

        def parameter(name: str, *shape: int) -> Any:
            return static.create_parameter(list(shape), "float32", attr=paddle.ParamAttr(name=name))

        def build(feeds: dict) -> dict:
            x = feeds["x"]
            for i in range(operators // 8):
                x = paddle.nn.functional.conv2d(x, parameter(f"conv{i}_weights", 16, 16, 3, 3), padding=1)
                names = ("mean", "var", "scale", "offset")
                x = paddle.nn.functional.batch_norm(x, *(parameter(f"bn{i}_{name}", 16) for name in names))
                x = paddle.nn.functional.relu(x)
            return {"out": x}

        program = trace(ModelSpec({"x": FeedSpec((None, 16, 8, 8))}, build))
        return program.with_values({name: np.ones(s, "float32") for name, s in program.parameter_shapes().items()})

    results = {}
    keep = ("out",)
    for size in SIZES:
        host, guest = chain(100), chain(size)
        times: dict[str, list[float]] = {"freeze and slice": [], "fold, fuse and transform": [], "merge": []}
        for _ in range(args.repeat):
            marks = [time.process_time()]
            frozen = run_passes(guest, [Freeze(), Slice(keep)]).program
            marks.append(time.process_time())
            frozen = run_passes(frozen, [FoldBatchNorm(keep), FuseInference(keep), Winograd()]).program
            marks.append(time.process_time())
            merge(host, frozen)
            marks.append(time.process_time())
            for values, (start, end) in zip(times.values(), pairwise(marks), strict=True):
                values.append(end - start)
        results[size] = {name: statistics.median(values) for name, values in times.items()}
        total = sum(results[size].values())
        print(f"{size:>6} operators: {total:.2f} s: " + ", ".join(f"{n} {s:.3f} s" for n, s in results[size].items()))
    if args.json:
        seconds = {n: {k.replace(" ", "_") + "_s": v for k, v in row.items()} for n, row in results.items()}
        print(json.dumps(seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
