"""Building, merging and running detectors from a script: what a check from outside needs. See docs/api.md.

Every function here switches Paddle to static mode, for the whole process. A variable is called by its canonical name
or by an alias of it; those of a teacher have its prefix, `teacher_`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from slim_distill.common.errors import ConfigError, GraphError, WeightsError
from slim_distill.common.names import nearest
from slim_distill.config import load_config
from slim_distill.config.schema import CompileConfig, RunConfig
from slim_distill.data.transforms.batch import yolo_targets
from slim_distill.engine.build import Teacher, build_merged, build_teacher
from slim_distill.engine.compiling import place
from slim_distill.engine.schedule import learning_rate
from slim_distill.engine.session import Session, check_finite, seed_step, start_static_mode
from slim_distill.engine.training import LEARNING_RATE, TrainingProgram, build_training
from slim_distill.graph import Freeze, NamedProgram, dtype_of, merge, run_passes, shape_of, trace
from slim_distill.losses.build import terms_from_config
from slim_distill.models.build import build_model

__all__ = ["Config", "Runner", "Trainer", "add_targets", "attach", "build", "distillation", "merge_teacher", "start"]

Config = RunConfig | str | PathLike[str]
"""A run, or the path of its YAML file: our own dialect or that of PaddleDetection 0.x."""

TEACHER = "teacher_"


def build(config: Config, mode: str = "train", overrides: Sequence[str] = ()) -> NamedProgram:
    """One network as a program of its own.

    Args:
        config: the network's run.
        mode: "train": batch norms use the statistics of the batch, and the detection loss is there; "eval": batch
            norms use their running statistics, and the detections are there.
        overrides: as after `-o`: "use_fine_grained_loss=true".

    Raises:
        ConfigError: the file, a key or a value is wrong.
    """
    start_static_mode()
    return trace(build_model(_load(config, overrides).model, mode))


def merge_teacher(student: NamedProgram, teacher: NamedProgram, prefix: str = TEACHER) -> NamedProgram:
    """A new program of both: the teacher frozen and in test mode, its names under `prefix`, feeds joined by name.

    All of the teacher is kept, its own loss included, so that each of its variables can be fetched.

    Raises:
        GraphError: names clash, or feeds of one name do not fit.
    """
    start_static_mode()
    return merge(student, run_passes(teacher, [Freeze()]).program, prefix)


def start(program: NamedProgram, device: str = "auto", seed: int = 0) -> "Runner":
    """A session of its own for one program; parameters start at the network's initial values for `seed`."""
    start_static_mode()
    session = Session(device)
    session.start(program, seed)
    return Runner(program, session)


def attach(merged: NamedProgram, config: Config, overrides: Sequence[str] = (), *, compile: bool = False) -> "Trainer":
    """Add the distillation losses and the optimizer of the student's file to a program, and start a session.

    Args:
        merged: the student's training program, with or without a teacher merged into it; without one the file's
            terms are left out.
        config: the student's run: terms, optimizer, schedule, device and seed.
        overrides: as after `-o`.
        compile: choose faster kernels than Paddle's own; results then agree up to rounding.

    Raises:
        LossError: a term names a variable that is not there, or a pair that does not fit.
    """
    start_static_mode()
    cfg = _load(config, overrides)
    session = Session(cfg.device)
    terms = terms_from_config(cfg.distill, max_iters=cfg.train.max_iters) if merged.guests else ()
    compiled = compile and session.on_cpu
    training = build_training(merged, terms, cfg.optimizer, for_cpu=compiled)
    program = training.program
    if compiled:
        program = place(program, "auto", on_cpu=True, fixed=lambda: None, kernels=cfg.compile.kernels).program
    session.start(program, cfg.seed)
    return Trainer(replace(training, program=_with_loss_names(program, training)), session, cfg)


def distillation(
    student: Config,
    teacher: Config,
    overrides: Sequence[str] = (),
    teacher_overrides: Sequence[str] = (),
    *,
    teacher_values: Mapping[str, np.ndarray] | None = None,
    compile: bool = False,
    keep: Sequence[str] = ("loss",),
) -> "Trainer":
    """A distillation job from two files: `build` both, `merge_teacher`, `attach`.

    Args:
        student: the student's run; its terms, optimizer and schedule count.
        teacher: the teacher's run. It takes the student's form of the loss (`use_fine_grained_loss`).
        overrides: of the student, as after `-o`.
        teacher_overrides: of the teacher.
        teacher_values: parameters of the teacher, without prefix. Without `compile` they can be set later too.
        compile: run what `slim-distill distill` runs: of the teacher only what the terms and `keep` need, folded and
            fused, and faster kernels for the student; results then agree up to rounding. Otherwise the operators are
            Paddle's own, one by one, and every variable of both networks can be fetched.
        keep: with `compile`, further variables of the teacher, without prefix; "loss" is its own detection loss.

    Raises:
        ConfigError: a file, a key or a value is wrong; `compile` without `teacher_values`.
        GraphError: a value fits no parameter of the teacher.
        LossError: a term does not fit the two networks.
    """
    cfg, its = _load(student, overrides), _load(teacher, teacher_overrides)
    host = build(cfg)
    if not compile:
        guest = build_teacher(its, cfg).with_values(teacher_values or {})
        return attach(merge_teacher(host, guest), cfg)
    if teacher_values is None:
        raise ConfigError("compile=True folds the teacher's parameters together: give their values as teacher_values")
    cfg = replace(cfg, compile=CompileConfig())
    teachers = {TEACHER: Teacher(its, teacher_values)}
    on_cpu = Session(cfg.device).on_cpu
    merged = build_merged(
        host, teachers, terms_from_config(cfg.distill, max_iters=cfg.train.max_iters), cfg, on_cpu=on_cpu, keep=keep
    )
    return attach(merged, cfg, compile=True)


def add_targets(
    config: Config, batch: Mapping[str, np.ndarray], overrides: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """A batch with `target0`, `target1`, `target2`, which the fine-grained loss is fed beside the boxes.

    Args:
        config: the student's run: anchors, masks and number of classes.
        batch: `image` [N, 3, H, W], `gt_bbox` [N, B, 4] (centre x, y, width, height as shares of the image),
            `gt_class` [N, B], `gt_score` [N, B].
        overrides: as after `-o`.
    """
    model = _load(config, overrides).model
    targets = yolo_targets(
        np.asarray(batch["gt_bbox"], np.float32),
        np.asarray(batch["gt_class"], np.int64),
        np.asarray(batch["gt_score"], np.float32),
        batch["image"].shape[2:],
        anchors=model.head.anchors,
        anchor_masks=model.head.anchor_masks,
        downsample_ratios=[32 >> i for i in range(len(model.head.anchor_masks))],
        num_classes=model.num_classes,
    )
    return {**batch, **{f"target{i}": target for i, target in enumerate(targets)}}


class Runner:
    """A program in a session: set its parameters, run it, read what it keeps.

    Attributes:
        program: the program, its variables by name.
        session: where the values live.
    """

    def __init__(self, program: NamedProgram, session: Session) -> None:
        self.program = program
        self.session = session

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of everything that `set_parameters` takes: parameters, running statistics, momentum."""
        return {name: shape_of(value) for name, value in self._kept().items()}

    def set_parameters(self, arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
        """Set parameters, each called `prefix` + its name; those that are not named keep their values.

        Raises:
            WeightsError: there is no such parameter, or it has another shape.
        """
        known, kept, new = self.shapes(), self._kept(), {}
        for name, array in arrays.items():
            full = prefix + name
            if full not in known:
                near = ", ".join(nearest(full, known)) or "none"
                raise WeightsError(f"set_parameters: the program has no parameter {full!r}; nearest: {near}")
            if tuple(np.shape(array)) != known[full]:
                raise WeightsError(f"set_parameters: {full!r} is {list(known[full])}, found {list(np.shape(array))}")
            new[full] = np.asarray(array, dtype_of(kept[full]))
        self.session.write(new)

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """{name: copy} of parameters, running statistics and momentum; all of them when no name is given."""
        return self.session.read(self.shapes() if names is None else names)

    def run(self, batch: Mapping[str, np.ndarray], fetch: Sequence[str]) -> dict[str, np.ndarray]:
        """Run once: {name: array} of the variables in `fetch`, called by canonical name or alias.

        Args:
            batch: an array for every feed of the program; other keys are ignored.
            fetch: names; each new list of names costs a compilation.

        Raises:
            GraphError: a feed has no array, or one of another number of axes.
            VariableNotFoundError: a name is unknown; the nearest ones are shown.
        """
        feeds = {}
        for name, value in self.program.feeds.items():
            if name in batch:
                feeds[name] = np.asarray(batch[name], dtype_of(value))
                if feeds[name].ndim != len(value.shape):
                    raise GraphError(f"feed {name!r} is {list(value.shape)}, found {list(feeds[name].shape)}")
        return self.session.run(self.program, feeds, fetch)

    def _kept(self) -> dict[str, Any]:
        states = {name: value for name, value in self.program.states().items() if name != LEARNING_RATE}
        return {**self.program.parameters(), **states}


class Trainer(Runner):
    """A training program in a session, at some step of its schedule.

    Attributes:
        training: the program with the names of its losses, gradients and state.
        cfg: the student's run.
        step_number: zero-based number of the next step; the schedule follows it.
    """

    def __init__(self, training: TrainingProgram, session: Session, cfg: RunConfig) -> None:
        super().__init__(training.program, session)
        self.training = training
        self.cfg = cfg
        self.step_number = 0

    def step(self, batch: Mapping[str, np.ndarray], fetch: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """One training step with the learning rate of the file's schedule.

        Args:
            batch: an array for every feed of the program.
            fetch: variables to return beside the losses: any name, and `NAME@GRAD` for the gradient of the total loss
                with respect to a parameter, weight decay not included. All are values before the update.

        Returns:
            `lr`; `student_loss`, `total_loss`, with terms `distill_loss` (weighted) and each term's own loss
            (`distill.0.l2`, ..., not weighted), with a teacher that keeps its loss `teacher_loss`; what was fetched.

        Raises:
            TrainingError: a loss is not finite.
        """
        rate = learning_rate(self.cfg.schedule, self.step_number, self.cfg.train.max_iters)
        self.session.write(self.training.scalars(rate, self.step_number))
        seed_step(self.cfg.seed, self.step_number)
        losses = self.losses()
        out = self.run(batch, tuple(dict.fromkeys((*losses, *fetch))))
        check_finite({name: float(out[name]) for name in losses}, self.step_number, rate)
        self.step_number += 1
        return {"lr": np.asarray(rate, "float32"), **out}

    def losses(self) -> tuple[str, ...]:
        """Names of the losses that `step` returns."""
        names = ("student_loss", "distill_loss", "total_loss", *(f"{prefix}loss" for prefix in self.program.guests))
        terms = (name for name in self.training.losses.values() if name.startswith("distill."))
        return tuple(name for name in (*names, *terms) if name in self.program)

    def student(self) -> dict[str, np.ndarray]:
        """The student's parameters and running statistics, as `build(config, "eval")` takes them."""
        return self.read(self.training.student)


def _load(config: Config, overrides: Sequence[str]) -> RunConfig:
    if not isinstance(config, RunConfig):
        return load_config(config, overrides)
    if overrides:
        raise ConfigError("overrides belong to a file: give its path, or change the RunConfig with dataclasses.replace")
    return config


def _with_loss_names(program: NamedProgram, training: TrainingProgram) -> NamedProgram:
    """The losses under the names of the published system's log."""
    total = "total" if "total" in training.losses else "loss"
    names = {"student_loss": "loss", "distill_loss": "distill", "total_loss": total}
    aliases = {alias: program.canonical(name) for alias, name in names.items() if name in program}
    return replace(program, aliases={**program.aliases, **aliases})
