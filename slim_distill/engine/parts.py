"""A training step whose batch is shared by several ranks, or too large for one run: the program, and its runs."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from slim_distill.config.schema import ParallelConfig
from slim_distill.data.loader import Loader
from slim_distill.engine.build import Report
from slim_distill.engine.distributed import Ranks
from slim_distill.engine.session import Session, seed_step
from slim_distill.engine.training import TrainingProgram
from slim_distill.graph import SHARE, AllReduce, NamedProgram, broadcast, is_reduced, piece, run_passes
from slim_distill.graph.passes import PREFIX
from slim_distill.losses.table import WHOLE_BATCH
from slim_distill.losses.terms import Term

__all__ = ["PREFIX", "PartRunner", "in_parts", "start_together"]

log = logging.getLogger(__name__)


def in_parts(
    training: TrainingProgram, terms: Sequence[Term], cfg: ParallelConfig, ranks: int, report: Report = log.debug
) -> TrainingProgram:
    """A training program whose update is that of the batches of all ranks and pieces; unchanged where there is one.

    Args:
        training: the program of a step, before its kernels are placed.
        terms: its recipe.
        cfg: how to exchange gradients.
        ranks: number of processes.
        report: is told what was done.

    Raises:
        GraphError: something in a step needs the whole batch in one place.
    """
    if ranks == 1 and cfg.accumulate == 1:
        return training
    how = f"{ranks} ranks" if cfg.accumulate == 1 else f"{ranks} ranks and parallel.accumulate {cfg.accumulate}"
    for term in terms:
        if term.loss in WHOLE_BATCH and term.weight:
            line = "%s: %s looks at a batch as a whole; with %s each part of it is looked at by itself"
            log.warning(line, term.path, term.loss, how)
    losses = tuple(dict.fromkeys(training.losses.values()))
    result = run_passes(training.program, [AllReduce(training.gradients, losses, ranks, cfg.accumulate, cfg.bucket_mb)])
    report(f"{how}: {result.summary()}")
    return replace(training, program=result.program)


def start_together(session: Session, training: TrainingProgram, ranks: Ranks, done: int) -> None:
    """Give every rank the parameters and states of rank 0, and make sure that it has them.

    Raises:
        TrainingError: it has not.
    """
    if ranks.count > 1:
        ranks.wait()  # building the program may take one rank much longer than another
        try:
            with ranks.limited("the exchange of parameters"):
                session.run(broadcast(training.program), {}, [])
        except RuntimeError as error:
            raise ranks.failed("the exchange of parameters", error) from error
        names = (*training.program.parameters(), *training.program.states())
        ranks.check_drift(session, names, f"before step {done}")


class PartRunner:
    """Does the runs of one training step: one for each piece of this rank's batch, the last of which updates.

    Args:
        session: where the program runs.
        training: made by `in_parts`, placed on kernels or not.
        loader: gives the pieces.
        ranks: who shares the batch.
        seed: of the run.
    """

    def __init__(self, session: Session, training: TrainingProgram, loader: Loader, ranks: Ranks, seed: int) -> None:
        self.session, self.program = session, training.program
        self.maker, self.ranks, self.seed = loader.maker, ranks, seed
        self.pieces = loader.maker.split.pieces
        self.first = piece(training.program) if self.pieces > 1 else training.program
        self.reduced = is_reduced(training.program)

    def run(
        self, step: int, batches: Iterator[Mapping[str, np.ndarray]], fetch: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Do the zero-based `step`: {name: array} of the fetched variables, of the whole batch where they are averaged.

        `batches` gives this rank's pieces in order; so many are taken as make a step.
        """
        for number in range(step * self.pieces, (step + 1) * self.pieces - 1):
            self._run_piece(step, number, batches, self.first, ())
        return self._run_piece(step, (step + 1) * self.pieces - 1, batches, self.program, fetch)

    def _run_piece(
        self,
        step: int,
        number: int,
        batches: Iterator[Mapping[str, np.ndarray]],
        program: NamedProgram,
        fetch: Sequence[str],
    ) -> dict[str, np.ndarray]:
        with self.ranks.limited(f"batch {number}, for step {step},"):
            batch = next(batches)
        if self.reduced:
            self.session.write({SHARE: np.asarray(self.maker.weight(number), "float32")})
        seed_step(self.seed, step, self.ranks.rank * self.pieces + number % self.pieces)
        if fetch and self.session.on_cpu:
            self.ranks.wait()  # gloo gives up after 30 s, whatever a slow rank is doing
        try:
            with self.ranks.limited(f"step {step}"):
                return self.session.run(program, batch, fetch)
        except RuntimeError as error:  # what Paddle raises when an exchange fails says no more than that
            if self.ranks.count == 1:
                raise
            raise self.ranks.failed(f"step {step}", error) from error
