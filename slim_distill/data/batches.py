"""What a batch holds: a pure function of the data set, the seed and the batch's number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from slim_distill.common.errors import DataError, SlimDistillError
from slim_distill.data.dataset import Dataset
from slim_distill.data.image import ImageError
from slim_distill.data.transforms import BatchTransform, PadBox, Sample, SampleTransform

__all__ = ["EVAL_FIELDS", "TRAIN_FIELDS", "WHOLE", "BatchMaker", "Built", "Split", "stack"]

TRAIN_FIELDS = ("image", "gt_bbox", "gt_class", "gt_score")
EVAL_FIELDS = ("image", "im_size", "im_id", "gt_bbox", "gt_class", "is_difficult")

_NEED_PADDING = ("gt_bbox", "gt_class", "gt_score", "is_difficult")
_PER_BOX = ("gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult")

# Second word of every seed, so that the three kinds of random streams never meet.
_ORDER, _SAMPLE, _BATCH = 0, 1, 2


@dataclass(frozen=True)
class Built:
    """One batch before stacking: its samples, and file -> reason of unreadable ones."""

    samples: list[Sample]
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """What one of several processes builds, and in how many pieces.

    A training batch of all has `ranks * pieces` parts of `batch_size` samples; they follow each other in the one
    order of the data set. Number n of a process is its piece n % pieces of batch n // pieces. In evaluation a process
    builds every `ranks`-th batch, whole: number n is batch n * ranks + rank.
    """

    rank: int = 0
    ranks: int = 1
    pieces: int = 1


WHOLE = Split()
"""All of it, at once."""


class BatchMaker:
    """Builds batch k of a data set. It can be pickled, and every copy builds the same batches.

    The order of epoch e is a permutation drawn from (seed, e); sample i of epoch e is augmented from (seed, e, i);
    the steps of batch k from (seed, k), or (seed, k, its position) where they take one sample. So nothing depends on
    which batches were built before, or by whom, nor on how a batch is split: all parts together hold what the whole
    would hold. Only PadBatch, which looks at the sizes of all images, looks at those of one part.

    While training, an unreadable image is replaced by the next readable one of the data set, and objects marked as
    crowds are left out; in evaluation an unreadable image is left out of its batch, and random order is the same in
    every pass.
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
        mixup_epochs: int = -1,
        split: Split = WHOLE,
    ) -> None:
        self.dataset = dataset
        self.transforms = tuple(transforms)
        self.batch_transforms = tuple(batch_transforms)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.train = train
        self.mixup_epochs = mixup_epochs
        self.split = split
        self.parts = split.ranks * split.pieces if train else 1
        self._order: tuple[int, np.ndarray] | None = None
        count = len(dataset) / (batch_size * self.parts)
        self.per_epoch = int(count) if drop_last else int(np.ceil(count))
        if self.per_epoch == 0:
            shown = f"{batch_size}" if self.parts == 1 else f"{self.parts} times {batch_size}"
            raise DataError(
                f"{dataset.source}: {len(dataset)} images are less than one batch of {shown}, and drop_last "
                "leaves incomplete batches out; choose a smaller batch_size or drop_last: false"
            )

    def __len__(self) -> int:
        """Return the number of steps of an epoch while training, else of the batches that this process builds."""
        return self.per_epoch if self.train else len(range(self.split.rank, self.per_epoch, self.split.ranks))

    def indices(self, number: int) -> list[int]:
        """Return the positions in `dataset.records` that batch `number` is made of.

        Where a last batch has fewer samples than parts, an empty part holds the last sample once more: see `weight`.
        """
        whole, first, end = self._place(number)
        return [int(i) for i in (whole[first:end] if end > first else whole[-1:])]

    def weight(self, number: int) -> float:
        """Return which share of the samples of the whole batch is in part `number`: 1 where it is not split."""
        whole, first, end = self._place(number)
        return (end - first) / len(whole)

    def _batch(self, number: int) -> tuple[int, int]:
        """Return the whole batch that `number` belongs to, and which part of it that is."""
        split = self.split
        if not self.train:
            return number * split.ranks + split.rank, 0
        batch, piece = divmod(number, split.pieces)
        return batch, split.rank * split.pieces + piece

    def _place(self, number: int) -> tuple[np.ndarray, int, int]:
        """Return the positions in the data set of a whole batch, and where in them part `number` begins and ends."""
        batch, part = self._batch(number)
        epoch, position = divmod(batch, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            count = len(self.dataset)
            order = self._rng(_ORDER, epoch).permutation(count) if self.shuffle else np.arange(count)
            self._order = (epoch, order)
        size = self.batch_size * self.parts
        whole = self._order[1][position * size : (position + 1) * size]
        first, end = (k * len(whole) // self.parts for k in (part, part + 1))
        return whole, first, end

    def build(self, number: int, started: Callable[[int], None] | None = None) -> Built:
        """Build batch `number`; `started(i)` is called before the sample at position i is read.

        Raises:
            DataError: a transform failed, or no image at all can be read.
        """
        batch, _ = self._batch(number)
        epoch = batch // self.per_epoch if self.train else 0
        samples: list[Sample] = []
        skipped: dict[str, str] = {}
        for index in self.indices(number):
            if started is not None:
                started(index)
            sample = self._sample(epoch, index, skipped)
            if sample is not None:
                samples.append(sample)
        _, first, _ = self._place(number)
        rng = self._rng(_BATCH, batch)
        each = [self._rng(_BATCH, batch, first + i) for i in range(len(samples))]
        for step in self.batch_transforms if samples else ():
            try:
                if isinstance(step, BatchTransform):
                    samples = step(samples, rng)
                else:
                    samples = [step(sample, own) for sample, own in zip(samples, each, strict=True)]
            except SlimDistillError:
                raise
            except Exception as error:
                files = ", ".join(s["im_file"] for s in samples)
                raise DataError(f"{files}: {type(step).__name__} failed on batch {number}: {error!r}") from error
        return Built(samples, skipped)

    def arrays(self, built: Built) -> dict[str, list[np.ndarray]]:
        """Return what the batch feeds, by name, as lists of one array a sample.

        Training gives image, gt_bbox, gt_class, gt_score and the targets, evaluation image, im_size, im_id and, for
        its ground truth, gt_bbox, gt_class and is_difficult; boxes only where PadBox made their number one.
        """
        first = built.samples[0]
        padded = any(isinstance(step, PadBox) for step in (*self.transforms, *self.batch_transforms))
        names = [*(TRAIN_FIELDS if self.train else EVAL_FIELDS), *sorted(k for k in first if k.startswith("target"))]
        wanted = [n for n in names if n in first and (padded or n not in _NEED_PADDING)]
        for name in wanted:
            shapes = [s[name].shape for s in built.samples]
            odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
            if odd is not None:
                raise DataError(
                    f"{built.samples[odd]['im_file']}: {name} is {shapes[odd]}, but {shapes[0]} for {first['im_file']} "
                    "in the same batch; add a step that makes sizes equal (ResizeImage, RandomShape, PadBatch, PadBox)"
                )
        return {name: [s[name] for s in built.samples] for name in wanted}

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *key])))

    def _sample(self, epoch: int, index: int, skipped: dict[str, str]) -> Sample | None:
        """Read and transform the sample at `index`; note unreadable files in `skipped`; None when left out."""
        count = len(self.dataset)
        mix = self.train and epoch < self.mixup_epochs and count > 1
        bad: set[str] = set()
        for _ in range(count):
            rng = self._rng(_SAMPLE, epoch, index)
            # The partner is drawn first, so that a replaced sample consumes the same random numbers.
            partner = (index + int(rng.integers(1, count))) % count if mix else index
            main = self._readable(index, bad)
            sample = self._record(main)
            if mix:
                sample["mixup"] = self._record(self._readable(partner, bad))
            try:
                return self._transform(sample, rng)
            except ImageError as error:
                skipped[error.file] = error.reason
                bad.add(error.file)
                if not self.train:
                    return None
        raise DataError(
            f"{self.dataset.source}: none of its {count} images can be read; the last: {list(skipped.items())[-1]}"
        )

    def _readable(self, index: int, bad: set[str]) -> int:
        """Return `index`, or the first position after it whose file is not known to be bad."""
        count = len(self.dataset)
        around = ((index + i) % count for i in range(count))
        return next((i for i in around if self.dataset.records[i]["im_file"] not in bad), index)

    def _record(self, index: int) -> Sample:
        record = dict(self.dataset.records[index])
        crowd = record.get("is_crowd")
        if self.train and crowd is not None and crowd.any():
            kept = crowd[:, 0] == 0
            record.update({k: record[k][kept] for k in _PER_BOX if k in record})
        return record

    def _transform(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for step in self.transforms:
            try:
                sample = step(sample, rng)
            except SlimDistillError:
                raise
            except Exception as error:
                raise DataError(f"{sample['im_file']}: {type(step).__name__} failed: {error!r}") from error
        return sample


def stack(
    lists: dict[str, list[np.ndarray]], allocate: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty
) -> dict[str, np.ndarray]:
    """Stack the arrays of every name along a new first axis, into memory that `allocate(shape, dtype)` gives."""
    return {
        name: np.stack(arrays, out=allocate((len(arrays), *arrays[0].shape), arrays[0].dtype))
        for name, arrays in lists.items()
    }
