"""What the processes of a benchmark have in common: each builds one step, then runs it whenever it is asked to.

No dependency but NumPy, because some of them run in an environment of another framework.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

__all__ = ["ANCHORS", "MASKS", "NUM_CLASSES", "arguments", "make_batch", "serve", "serve_turns"]

NUM_CLASSES = 20
ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
MASKS = ((6, 7, 8), (3, 4, 5), (0, 1, 2))
BOXES = 50


def arguments(variants: tuple[str, ...]) -> argparse.Namespace:
    """The command line of a worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--variant", choices=variants, default=variants[0])
    parser.add_argument("--size", type=int, default=128, help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--recipe", choices=("l2", "objectness"), default="l2")
    parser.add_argument("--steps", type=int, default=1, help="steps a turn")
    return parser.parse_args()


def make_batch(batch: int, size: int, *, fine_grained: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """One batch of noise with 3 boxes an image, the same in every framework; targets only when asked for."""
    random = np.random.RandomState(seed)
    bbox = np.zeros((batch, BOXES, 4), "float32")
    bbox[:, :3, :2] = random.uniform(0.2, 0.8, (batch, 3, 2))
    bbox[:, :3, 2:] = random.uniform(0.1, 0.4, (batch, 3, 2))
    arrays = {
        "image": random.randn(batch, 3, size, size).astype("float32"),
        "gt_bbox": bbox,
        "gt_class": random.randint(0, NUM_CLASSES, (batch, BOXES)).astype("int32"),
        "gt_score": (bbox[:, :, 2] > 0).astype("float32"),
    }
    if fine_grained:
        for i, mask in enumerate(MASKS):
            arrays[f"target{i}"] = _target(arrays, mask, size, size // (32 >> i))
    return arrays


def _target(arrays: dict[str, np.ndarray], mask: tuple[int, ...], size: int, cells: int) -> np.ndarray:
    """Targets [N, A, 6 + C, g, g] of one scale: tx, ty, tw, th, scale, score, classes in the cell of each box."""
    bbox, label = arrays["gt_bbox"], arrays["gt_class"]
    target = np.zeros((len(bbox), len(mask), 6 + NUM_CLASSES, cells, cells), "float32")
    sizes = np.array(ANCHORS, "float32") / size
    for n, image in enumerate(bbox):
        for b, (x, y, w, h) in enumerate(image):
            if w <= 0:
                continue
            inter = np.minimum(sizes[:, 0], w) * np.minimum(sizes[:, 1], h)
            best = int(np.argmax(inter / (sizes.prod(1) + w * h - inter)))
            if best not in mask:
                continue
            i, j, a = int(x * cells), int(y * cells), mask.index(best)
            target[n, a, :6, j, i] = x * cells - i, y * cells - j, *np.log((w, h) / sizes[best]), 2 - w * h, 1
            target[n, a, 6 + label[n, b], j, i] = 1
    return target


def serve(step: Callable[[], float], steps: int = 1) -> None:
    """Run so many steps for every line on standard input, and answer each with one line of JSON.

    The answer holds `ms` (wall time of a step), `value` (the loss, so that frameworks can be compared) and `peak_mb`.
    """

    def turn(count: int) -> float:
        return [step() for _ in range(count)][-1]

    serve_turns(turn, steps)


def serve_turns(turn: Callable[[int], float], steps: int) -> None:
    """The same where steps depend on each other: `turn` does so many and returns the last one's value."""
    answers, sys.stdout = sys.stdout, sys.stderr
    turn(1)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        value = turn(steps)
        ms = (time.perf_counter() - started) * 1e3 / steps
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"ms": ms, "value": value, "peak_mb": peak_mb}), file=answers, flush=True)
