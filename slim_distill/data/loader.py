"""The loader: batches of a data set in order, built here or by worker processes."""

import logging
import weakref
from collections.abc import Generator, Iterator, Sequence

import numpy as np

from slim_distill.common.errors import ConfigError
from slim_distill.data._workers import WorkerPool, supported
from slim_distill.data.batches import WHOLE, BatchMaker, Split, stack
from slim_distill.data.dataset import Dataset, check_share
from slim_distill.data.transforms import BatchTransform, SampleTransform

__all__ = ["Loader"]

_log = logging.getLogger("slim_distill.data")


class Loader:
    """Gives the batches of a data set as dicts of numpy arrays.

    What batch k holds depends on the seed and k alone, not on the number of workers nor on where one starts; see
    `BatchMaker`. `Loader.skipped` is file -> reason of images that could not be read so far.

    Args:
        dataset: images and annotations.
        transforms: steps on each sample.
        batch_transforms: steps on each batch.
        batch_size: samples in a batch.
        shuffle: draw a new order for every epoch.
        drop_last: leave out the last batch of an epoch when it is not full.
        seed: seeds order and augmentation.
        train: `batches` never ends, and unreadable images are replaced; or else one pass that leaves them out.
        workers: processes that build batches ahead; 0 builds them when asked, in this process.
        mixup_epochs: give samples a partner for MixupImage during the first so many epochs.
        split: which part of every batch this loader gives, where several processes share them or one takes several.
    """

    def __init__(
        self,
        dataset: Dataset,
        transforms: Sequence[SampleTransform],
        batch_transforms: Sequence[SampleTransform | BatchTransform] = (),
        *,
        batch_size: int = 8,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        train: bool = True,
        workers: int = 0,
        mixup_epochs: int = -1,
        split: Split = WHOLE,
    ) -> None:
        if batch_size < 1 or workers < 0 or seed < 0:
            raise ConfigError(
                f"batch_size {batch_size}, workers {workers}, seed {seed}: at least 1, 0 and 0 are wanted"
            )
        self.dataset = dataset
        self.maker = BatchMaker(
            dataset,
            transforms,
            batch_transforms,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            train=train,
            mixup_epochs=mixup_epochs,
            split=split,
        )
        self.train = train
        self.workers = workers
        self.skipped: dict[str, str] = dict(dataset.skipped)
        self._pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()
        if workers and not supported():
            _log.warning("this system cannot pass descriptors between processes; batches are built in this process")
            self.workers = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch: steps while training, else those of this process."""
        return len(self.maker)

    def batches(self, start: int = 0) -> Generator[dict[str, np.ndarray], None, None]:
        """Yield the batches from number `start` on: without end while training, to the end of the pass otherwise.

        Starting costs the same wherever it is. Worker processes end with the iterator.

        Raises:
            DataError: more images than the data set's `max_bad_share` cannot be read, a transform failed, or workers
                died over one sample again and again; the message names the file.
        """
        stop = None if self.train else len(self)
        built = self._inline(start, stop) if not self.workers else self._from_workers(start, stop)
        for batch, skipped in built:
            self._note(skipped)
            if batch is not None:
                yield batch

    def close(self) -> None:
        """End the worker processes of all iterators."""
        for pool in list(self._pools):
            pool.close()

    def _inline(self, start: int, stop: int | None) -> Iterator[tuple[dict[str, np.ndarray] | None, dict[str, str]]]:
        number = start
        while stop is None or number < stop:
            built = self.maker.build(number)
            yield stack(self.maker.arrays(built)) if built.samples else None, built.skipped
            number += 1

    def _from_workers(
        self, start: int, stop: int | None
    ) -> Iterator[tuple[dict[str, np.ndarray] | None, dict[str, str]]]:
        count = self.workers if stop is None else min(self.workers, max(1, stop - start))
        with WorkerPool(self.maker, count, start, stop) as pool:
            self._pools.add(pool)
            number = start
            while stop is None or number < stop:
                yield pool.next()
                number += 1

    def _note(self, skipped: dict[str, str]) -> None:
        for file, reason in skipped.items():
            if file not in self.skipped:
                _log.warning("%s: skipped: %s", file, reason)
                self.skipped[file] = reason
        if skipped:
            total = len(self.dataset) + len(self.dataset.skipped)
            check_share(self.skipped, total, self.dataset.max_bad_share, self.dataset.source)
