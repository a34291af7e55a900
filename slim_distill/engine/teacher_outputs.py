"""What the losses read of a frozen teacher, kept on disk for images that come again."""

import hashlib
import json
import logging
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from slim_distill.common.array_store import ArrayStore, digest_arrays
from slim_distill.common.errors import ConfigError, SlimDistillError
from slim_distill.common.files import cache_folder
from slim_distill.config.schema import CacheConfig, RunConfig
from slim_distill.engine import build
from slim_distill.engine.loop import Hook
from slim_distill.engine.measure import machine
from slim_distill.engine.session import Session
from slim_distill.graph import NamedProgram, shape_of
from slim_distill.losses.terms import Term

__all__ = ["CachedTeacher", "TeacherOutputs", "open_outputs"]

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Outputs of an image may differ by this share of the largest one when its companions in the batch change."""


class CachedTeacher:
    """Completes batches by the outputs of one teacher: from the store, or computed and then stored.

    An entry belongs to one image and is found by the digest of the very numbers that the teacher is fed for it. A batch
    with an image that is not in the store is computed as a whole, so its numbers are those without a store.

    Args:
        prefix: of the teacher.
        program: its program, cut to `names`.
        names: what to compute, without prefix.
        device: where it runs; values of parameters are those that the program knows.
    """

    def __init__(self, prefix: str, program: NamedProgram, names: Sequence[str], device: str) -> None:
        self.prefix, self.program, self.names = prefix, program, tuple(names)
        self.session = Session(device)
        self.session.start(program, seed=0)
        self.identity = _identity(program, self.names, self.session.on_cpu)
        self.seen = self.found = 0
        self._store: ArrayStore | None = None
        self._images = 0
        self._checked = False

    def use(self, store: ArrayStore, images: int) -> None:
        """Look outputs up in `store`, and keep them there; `images` is the number of those in the data set."""
        self._store, self._images = store, images

    def outputs(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for a batch, names with prefix."""
        inputs = {name: batch[name] for name in self.program.feeds}
        count = len(next(iter(inputs.values())))
        keys = [digest_arrays({name: array[i] for name, array in inputs.items()}) for i in range(count)]
        entries = [None if self._store is None else self._store.get(self.identity, key) for key in keys]
        found = [entry for entry in entries if entry is not None]
        self.seen, self.found = self.seen + count, self.found + len(found)
        if len(found) == count:
            out = {name: np.stack([entry[name] for entry in found]) for name in self.names}
        else:
            out = self.session.run(self.program, inputs, self.names)
            self._keep(inputs, out, [key for key, entry in zip(keys, entries, strict=True) if entry is None], keys)
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
    """Completes batches by the outputs of all cached teachers; as a hook it logs how often they were found.

    Args:
        teachers: those whose outputs are fed; none to hand batches on as they are.
        store: closed at the end of training; None without teachers.
        log_iter: distance of the log lines in steps.
    """

    def __init__(
        self, teachers: Sequence[CachedTeacher] = (), store: ArrayStore | None = None, log_iter: int = 1
    ) -> None:
        self.teachers, self.store, self.log_iter, self.stop = tuple(teachers), store, log_iter, 0

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Of the teachers whose outputs must be fed."""
        return tuple(teacher.prefix for teacher in self.teachers)

    def complete(
        self, batches: Generator[dict[str, np.ndarray], None, None]
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """The batches with the teachers' outputs beside their own arrays; closing ends `batches` too."""
        with closing(batches):
            for batch in batches:
                for teacher in self.teachers:
                    batch = {**batch, **teacher.outputs(batch)}
                yield batch

    def before_train(self, start: int, stop: int) -> None:
        """Note where the run ends."""
        self.stop = stop

    def after_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the hit rate since the last line when due."""
        done = step + 1
        if self.store is None or (done % self.log_iter and done != self.stop):
            return
        for teacher in self.teachers:
            log.info(
                "%s: outputs of %d of %d images (%.0f %%) came from the cache, which holds %.3g of at most %.3g GB",
                teacher.prefix, teacher.found, teacher.seen, 100 * teacher.found / max(1, teacher.seen),
                self.store.used_bytes / 1e9, self.store.max_bytes / 1e9,
            )  # fmt: skip
            teacher.found = teacher.seen = 0

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
    """The cache that `compile.cache` asks for; a teacher that cannot be cached is left out, with a line that says why.

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
    cache = cfg.compile.cache
    if not cache.max_gb:
        return TeacherOutputs()
    cached = []
    for prefix, teacher in teachers.items():
        why = "it trains along" if not teacher.frozen else "it follows the student" if teacher.ema is not None else ""
        if not why:
            program, names = build.build_frozen(prefix, teacher, terms, cfg, on_cpu=on_cpu, report=log.info)
            why = _refusal(program, names, feeds)
        if why:
            log.info("%s: not cached: %s", prefix, why)
        else:
            cached.append(CachedTeacher(prefix, program, [program.canonical(n) for n in names], cfg.device))
    if not cached:
        return TeacherOutputs()
    store = _open_store(cache, [one.identity for one in cached])
    for one in cached:
        one.use(store, images)
    log.info("outputs of %s are kept in %s", ", ".join(one.prefix for one in cached), store.folder)
    return TeacherOutputs(cached, store, cfg.train.log_iter)


def _open_store(cache: CacheConfig, groups: Sequence[str]) -> ArrayStore:
    folder = Path(cache.dir).expanduser() if cache.dir else cache_folder() / "teacher_outputs"
    try:
        return ArrayStore(folder, groups, int(cache.max_gb * 1e9))
    except SlimDistillError as error:
        raise ConfigError(f"compile.cache.dir: {error}; choose another, or set compile.cache.max_gb to 0") from error


def _refusal(program: NamedProgram, names: Sequence[str], feeds: Collection[str]) -> str:
    """Why outputs of this program cannot be kept image by image, as far as the program itself tells; "" if they can."""
    own = [name for name in program.feeds if name not in feeds]
    if own:
        return f"it is fed {own[0]!r}, which is in no batch"
    whole = [name for name in names if shape_of(program[name])[:1] != (-1,)]
    if whole:
        return f"{whole[0]!r} is not one array for each image"
    if program.has_control_flow():
        return "it branches or loops, by what may depend on the whole batch"
    unknown = [name for name in program.parameters() if name not in program.values]
    if unknown:
        return f"the value of {unknown[0]!r} is not known"
    return ""


def _identity(program: NamedProgram, names: Sequence[str], on_cpu: bool) -> str:
    """A name that changes with the teacher's network, weights or needed variables, and with what rounds differently."""
    facts = json.dumps([str(program.main), list(names), machine(), on_cpu, digest_arrays(program.values)])
    return hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
