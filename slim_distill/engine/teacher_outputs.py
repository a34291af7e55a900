"""What the losses read of a frozen teacher, computed beside the student: ahead of time, or kept on disk."""

import hashlib
import json
import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.array_store import ArrayStore, digest_arrays
from slim_distill.common.errors import ConfigError, SlimDistillError
from slim_distill.common.files import cache_folder
from slim_distill.common.idle import Ahead, why_not_idle
from slim_distill.config.schema import CacheConfig, RunConfig
from slim_distill.engine import build
from slim_distill.engine.loop import Hook
from slim_distill.engine.measure import machine
from slim_distill.engine.session import Session
from slim_distill.graph import NamedProgram, shape_of
from slim_distill.losses.terms import Term

__all__ = ["FedTeacher", "TeacherOutputs", "open_outputs"]

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Outputs of an image may differ by this share of the largest one when its companions in the batch change."""


class FedTeacher:
    """Completes batches by the outputs of one teacher: computed, or with a store from there where they are known.

    An entry belongs to one image and is found by the digest of the very numbers that the teacher is fed for it. A batch
    with an image that is not in the store is computed as a whole, so its numbers are those without a store.

    Args:
        prefix: of the teacher.
        program: its program, cut to `names`.
        names: what to compute, without prefix.
        device: where it runs; values of parameters are those that the program knows.
        stored: a store will be used.

    Attributes:
        identity: a name that changes with the network, weights or needed variables, and with what rounds differently;
            "" where nothing is stored.
        counts: how many images were looked up in the store so far, and how many of them were found.
    """

    def __init__(
        self, prefix: str, program: NamedProgram, names: Sequence[str], device: str, *, stored: bool = True
    ) -> None:
        self.prefix, self.names = prefix, tuple(names)
        self.session = Session(device)
        self.identity = _identity(program, self.names, self.session.on_cpu) if stored else ""
        self.program = replace(program, values={})  # the session has a copy
        self.session.start(program, seed=0)
        self.counts = (0, 0)
        self._store: ArrayStore | None = None
        self._images = 0
        self._checked = False

    def use(self, store: ArrayStore, images: int) -> None:
        """Look outputs up in `store`, and keep them there; `images` is the number of those in the data set."""
        self._store, self._images = store, images

    def outputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for a batch, names with prefix."""
        inputs = {name: batch[name] for name in self.program.feeds}
        if self._store is None:
            return self._prefixed(self.session.run(self.program, inputs, self.names))
        count = len(next(iter(inputs.values())))
        keys = [digest_arrays({name: array[i] for name, array in inputs.items()}) for i in range(count)]
        entries = [self._store.get(self.identity, key) for key in keys]
        found = [entry for entry in entries if entry is not None]
        self.counts = (self.counts[0] + count, self.counts[1] + len(found))
        if len(found) == count:
            out = {name: np.stack([entry[name] for entry in found]) for name in self.names}
        else:
            out = self.session.run(self.program, inputs, self.names)
            self._keep(inputs, out, [key for key, entry in zip(keys, entries, strict=True) if entry is None], keys)
        return self._prefixed(out)

    def _prefixed(self, out: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self.prefix + name: array for name, array in out.items()}

    def _keep(
        self, inputs: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray], new: Sequence[str], keys: Sequence[str]
    ) -> None:
        if self._store is not None and self._store.storing and not self._checked:
            self._checked = True
            self._refuse(self._refusal(self._store, inputs, out))
        if self._store is None:
            return
        for key in new:
            i = keys.index(key)
            self._store.put(self.identity, key, {name: array[i] for name, array in out.items()})

    def _refuse(self, why: str) -> None:
        if why:
            self._store = None
            log.info("%s: not cached: %s", self.prefix, why)

    def _refusal(self, store: ArrayStore, inputs: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]) -> str:
        """Why the outputs for a first batch must not or need not be kept; "" if they are."""
        size = sum(array.nbytes for array in out.values())
        count = len(next(iter(inputs.values())))
        bound = store.max_bytes
        if size > bound:
            return (
                f"its outputs for one batch take {size / 1e9:.3g} GB, the bound is {bound / 1e9:.3g} "
                "(compile.cache.max_gb)"
            )
        if not self._is_independent(inputs, out):
            return "its outputs for an image depend on the other images of the batch"
        all_gb = size / count * self._images / 1e9
        log.info(
            "%s: %.3g MB an image; %.3g GB for the %d of the data set, each once; the bound is %.3g GB",
            self.prefix, size / count / 1e6, all_gb, self._images, bound / 1e9,
        )  # fmt: skip
        return ""

    def _is_independent(self, inputs: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray]) -> bool:
        """Whether half of the images, put behind blank ones, have the same outputs as in the batch."""
        count = len(next(iter(inputs.values())))
        half = max(1, count // 2)
        blank = max(1, count - half)
        mixed = {n: np.concatenate([np.zeros_like(a[:1]).repeat(blank, 0), a[:half]]) for n, a in inputs.items()}
        again = self.session.run(self.program, mixed, self.names)
        return all(
            array[:1].shape == again[name][:1].shape
            and np.abs(again[name][blank:] - array[:half]).max() <= TOLERANCE * np.abs(array).max()
            for name, array in out.items()
        )


class TeacherOutputs(Hook):
    """Completes batches by the outputs of teachers that are not in the program; as a hook it logs what a store gave.

    Args:
        teachers: those whose outputs are fed; none to hand batches on as they are.
        store: closed at the end of training; None without one.
        log_iter: distance of the log lines in steps.
        overlap: read and complete the next batch while this one is used, in idle time, where that is faster.
    """

    def __init__(
        self,
        teachers: Sequence[FedTeacher] = (),
        store: ArrayStore | None = None,
        log_iter: int = 1,
        *,
        overlap: bool = False,
    ) -> None:
        self.teachers, self.store, self.log_iter, self.stop = tuple(teachers), store, log_iter, 0
        self._told = dict.fromkeys(self.prefixes, (0, 0))
        self._ahead = Ahead(lambda found: log.info("%s: %s", ", ".join(self.prefixes), found)) if overlap else None

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Of the teachers whose outputs must be fed."""
        return tuple(teacher.prefix for teacher in self.teachers)

    def complete(
        self, batches: Generator[dict[str, np.ndarray], None, None]
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """The batches with the teachers' outputs beside their own arrays; closing ends `batches` too."""
        with closing(batches):
            completed = self._complete(batches)
            yield from self._ahead.items(completed) if self._ahead is not None else completed

    def _complete(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for batch in batches:
            for teacher in self.teachers:
                batch = {**batch, **teacher.outputs(batch)}
            yield batch

    def before_train(self, start: int, stop: int) -> None:
        """Note where the run ends."""
        self.stop = stop

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the hit rate since the last line when due; ahead of time one batch more may have been looked up."""
        done = step + 1
        if self.store is None or (done % self.log_iter and done != self.stop):
            return
        for teacher in self.teachers:
            counts, told = teacher.counts, self._told[teacher.prefix]
            seen, found = (now - then for now, then in zip(counts, told, strict=True))
            if not seen:
                continue
            self._told[teacher.prefix] = counts
            log.info(
                "%s: outputs of %d of %d images (%.0f %%) came from the cache, which holds %.3g of at most %.3g GB",
                teacher.prefix, found, seen, 100 * found / seen,
                self.store.used_bytes / 1e9, self.store.max_bytes / 1e9,
            )  # fmt: skip

    def after_train(self, step: int) -> None:
        """Let another run store in the folder."""
        if self.store is not None:
            self.store.close()


def open_outputs(
    cfg: RunConfig,
    teachers: Mapping[str, build.Teacher],
    terms: Sequence[Term],
    feeds: Collection[str],
    *,
    images: int,
    on_cpu: bool,
) -> TeacherOutputs:
    """The teachers that run beside the student's program: what `compile.overlap` and `compile.cache` ask for.

    A teacher that cannot is left in the student's program, with a line that says why.

    Args:
        cfg: the student's run.
        teachers: prefix -> teacher.
        terms: the recipe.
        feeds: names of the arrays in every batch.
        images: number of images of the data set.
        on_cpu: whether training runs on a CPU.

    Raises:
        ConfigError: the folder cannot be used.
    """
    cache, told = cfg.compile.cache, logging.INFO if cfg.compile.cache.max_gb else logging.DEBUG
    overlap = _overlaps(cfg, teachers, on_cpu=on_cpu)
    if not cache.max_gb and not overlap:
        return TeacherOutputs()
    fed = []
    for prefix, teacher in teachers.items():
        why = "it trains along" if not teacher.frozen else "it follows the student" if teacher.ema is not None else ""
        if not why:
            done: list[str] = []
            program, names = build.build_frozen(prefix, teacher, terms, cfg, on_cpu=on_cpu, report=done.append)
            why = _refusal(program, feeds) or (_cache_refusal(program, names) if cache.max_gb else "")
        if why:
            log.log(told, "%s: not %s: %s", prefix, "cached" if cache.max_gb else "overlapped", why)
            continue
        for line in done:
            log.info("%s", line)
        needed = [program.canonical(name) for name in names]
        fed.append(FedTeacher(prefix, program, needed, cfg.device, stored=bool(cache.max_gb)))
    if not fed:
        return TeacherOutputs()
    shown, store = ", ".join(one.prefix for one in fed), None
    if cache.max_gb:
        store = _open_store(cache, [one.identity for one in fed])
        for one in fed:
            one.use(store, images)
        log.info("outputs of %s are kept in %s", shown, store.folder)
    if overlap:
        log.info("%s: compared: beside the student, on the next batch, or before it", shown)
    return TeacherOutputs(fed, store, cfg.train.log_iter, overlap=overlap)


def _overlaps(cfg: RunConfig, teachers: Mapping[str, build.Teacher], *, on_cpu: bool) -> bool:
    """Whether teachers are to run in idle time; a line says why not, where that was expected."""
    frozen = [prefix for prefix, teacher in teachers.items() if teacher.frozen and teacher.ema is None]
    if cfg.compile.overlap != "auto" or not on_cpu or not frozen:
        return False
    why = why_not_idle()
    if why:
        log.info("%s: not overlapped with the student's step: %s", ", ".join(frozen), why)
    return not why


def _open_store(cache: CacheConfig, groups: Sequence[str]) -> ArrayStore:
    folder = Path(cache.dir).expanduser() if cache.dir else cache_folder() / "teacher_outputs"
    try:
        return ArrayStore(folder, groups, int(cache.max_gb * 1e9))
    except SlimDistillError as error:
        raise ConfigError(f"compile.cache.dir: {error}; choose another, or set compile.cache.max_gb to 0") from error


def _refusal(program: NamedProgram, feeds: Collection[str]) -> str:
    """Why this program cannot run beside the student's; "" if it can."""
    own = [name for name in program.feeds if name not in feeds]
    if own:
        return f"it is fed {own[0]!r}, which is in no batch"
    unknown = [name for name in program.parameters() if name not in program.values]
    if unknown:
        return f"the value of {unknown[0]!r} is not known"
    if program.draws_random_numbers():
        return "it draws random numbers"
    return ""


def _cache_refusal(program: NamedProgram, names: Sequence[str]) -> str:
    """Why outputs cannot be kept image by image, as far as the program itself tells; "" if they can."""
    whole = [name for name in names if shape_of(program[name])[:1] != (-1,)]
    if whole:
        return f"{whole[0]!r} is not one array for each image"
    if program.has_control_flow():
        return "it branches or loops, by what may depend on the whole batch"
    return ""


def _identity(program: NamedProgram, names: Sequence[str], on_cpu: bool) -> str:
    facts = json.dumps([str(program.main), names, machine(), on_cpu, digest_arrays(program.values)])
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
