"""Write docs/results/bccd: tables and pictures of four models trained by the commands in docs/results/bccd.md.

Run it after the four trainings: python benchmarks/bccd.py [--split test]
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from slim_distill.common.threads import configure_threads

ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "teacher": ("configs/bccd/yolov3_r34.yml", "bccd_yolov3_r34"),
    "control": ("configs/bccd/yolov3_mobilenet_v1.yml", "bccd_control"),
    "l2": ("configs/bccd/yolov3_mobilenet_v1.yml", "bccd_yolov3_mobilenet_v1"),
    "objectness, weight 70": ("configs/bccd/yolov3_mobilenet_v1_fine.yml", "bccd_fine_70"),
    "objectness, weight 1000": ("configs/bccd/yolov3_mobilenet_v1_fine.yml", "bccd_yolov3_mobilenet_v1_fine"),
}


def main(argv: list[str] | None = None) -> int:
    """Evaluate the best model of every run on a split, print the table, write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test", help="list file under ImageSets/Main, without .txt")
    parser.add_argument("--model", default="best_model", help="best_model or model_final")
    args = parser.parse_args(argv)
    configure_threads()
    from slim_distill.config import load_config
    from slim_distill.engine import build
    from slim_distill.engine.comparison import Contender, compare, write_pictures
    from slim_distill.engine.session import start_static_mode
    from slim_distill.report import markdown_table

    start_static_mode()
    models, runs = {}, {}
    for name, (config, run) in RUNS.items():
        runs[name] = ROOT / "output" / run
        if not (runs[name] / args.model).is_dir():
            print(f"{name}: {runs[name] / args.model} is missing; train it first", file=sys.stderr)
            continue
        weights = f"weights={runs[name] / args.model}"
        split = f"data.eval.dataset.annotations=ImageSets/Main/{args.split}.txt"
        cfg = load_config(ROOT / config, [weights, split])
        models[name] = Contender(cfg, build.load_model(cfg))
    judge = next(iter(models.values())).cfg
    result = compare(models, replace(judge, name="bccd"))
    print(markdown_table(*result.rows()))
    folder = ROOT / "docs" / "results" / "bccd"
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: runs[name] for name in models}
    write_pictures(result, trained, folder, title="BCCD", threshold=0.3, images=3, cell_px=280)
    return 0


if __name__ == "__main__":
    sys.exit(main())
