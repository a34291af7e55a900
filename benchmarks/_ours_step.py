"""The merged YOLOv3 training step by this project: as training runs it, in one program, and the halves of the floor."""

import logging
from collections.abc import Callable
from itertools import repeat

from _worker import NUM_CLASSES, arguments, make_batch, serve, serve_turns

from slim_distill.common.threads import configure_threads

VARIANTS = ("overlapped", "compiled", "stock", "student", "teacher")
HEADS = tuple(f"yolo_head.{i}" for i in range(3))
PARTS = ("x", "y", "w", "h", "obj", "cls")


def build(variant: str, size: int, batch: int, recipe: str) -> Callable[[], float]:
    """The step of a variant; it returns the loss (for the teacher alone, the mean of a head)."""
    # Paddle may only be loaded after the threads are set, or, for `stock`, as it comes.
    if variant != "stock":
        configure_threads()
    from slim_distill.config.schema import BackboneConfig, LossConfig, ModelConfig, OptimizerConfig
    from slim_distill.engine.build import cut_to_losses
    from slim_distill.engine.compiling import place
    from slim_distill.engine.session import Session, start_static_mode
    from slim_distill.engine.training import LEARNING_RATE, build_training
    from slim_distill.graph import (
        FoldBatchNorm,
        Freeze,
        FuseInference,
        Slice,
        Winograd,
        merge,
        run_passes,
        trace,
    )
    from slim_distill.losses.terms import Term
    from slim_distill.models.build import build_model

    start_static_mode()
    fine = recipe == "objectness"

    def network(backbone: str):  # noqa: ANN202
        cfg = ModelConfig(NUM_CLASSES, BackboneConfig(backbone), loss=LossConfig(fine_grained=fine))
        return trace(build_model(cfg, "train", size))

    def terms() -> list[Term]:
        if fine:
            parts = [tuple(f"{part}.{i}" for part in PARTS) for i in range(3)]
            return [Term("yolo_objectness", p, tuple(f"teacher_{n}" for n in p), 1000.0) for p in parts]
        return [Term("l2", (head,), (f"teacher_{head}",), 100.0) for head in HEADS]

    def frozen_teacher():  # noqa: ANN202
        teacher = network("resnet")
        session = Session("cpu")
        session.start(teacher, 1)
        teacher = teacher.with_values(session.read(teacher.parameters()))
        keep = tuple(f"{part}.{i}" for i in range(3) for part in PARTS) if fine else HEADS
        passes = [Freeze(), Slice(keep)]
        if variant != "stock":
            passes += [FoldBatchNorm(keep), FuseInference(keep), Winograd()]
        return run_passes(teacher, passes).program

    if variant == "teacher":
        program, fetch = frozen_teacher(), list(HEADS[:1] if not fine else ["x.0"])
    else:
        program = network("mobilenet_v1")
        if variant != "student":
            program = merge(program, frozen_teacher())
        recipe_terms = terms() if variant != "student" else []
        if variant != "stock":
            program = cut_to_losses(program, recipe_terms)
        training = build_training(program, recipe_terms, OptimizerConfig(), for_cpu=variant != "stock")
        program, fetch = training.program, [training.losses[list(training.losses)[-1]]]
        if variant != "stock":
            program = place(program, "auto", on_cpu=True, fixed=lambda: None).program
    session = Session("cpu")
    session.start(program, 1)
    if variant != "teacher":
        rate = session.read([LEARNING_RATE])[LEARNING_RATE]
        session.write({LEARNING_RATE: rate * 0 + 1e-6})
    arrays = make_batch(batch, size, fine_grained=fine)
    return lambda: float(session.run(program, arrays, fetch)[fetch[0]].mean())


def overlapped(size: int, batch: int, recipe: str) -> Callable[[int], float]:
    """So many steps as training does them: with the teacher in the gaps of the step before, if that is faster."""
    configure_threads()
    from _networks import make_training, published

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    job = published(recipe)
    arrays = job.batch(batch, size)
    training = make_training(job, arrays)
    return lambda steps: training(repeat(arrays, steps))[-1]


if __name__ == "__main__":
    chosen = arguments(VARIANTS)
    if chosen.variant == "overlapped":
        serve_turns(overlapped(chosen.size, chosen.batch, chosen.recipe), chosen.steps)
    else:
        serve(build(chosen.variant, chosen.size, chosen.batch, chosen.recipe), chosen.steps)
