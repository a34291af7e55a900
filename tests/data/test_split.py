"""Batches shared by several processes, or taken in several pieces: together they are the whole, to the last bit."""

from dataclasses import dataclass

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.data.batches import WHOLE, Split
from slim_distill.data.loader import Loader
from slim_distill.data.transforms import make_batch_transforms, make_transforms
from slim_distill.data.transforms.base import SampleTransform
from slim_distill.data.voc import load_voc
from tests.data.test_loader import take


@dataclass(frozen=True)
class Noise(SampleTransform):
    """A random step on single samples, which a batch may have too."""

    def __call__(self, sample, rng):
        return {**sample, "image": sample["image"] + rng.standard_normal(sample["image"].shape).astype(np.float32)}


def loader(root, *, batch_size, split=WHOLE, train=True, drop_last=False, workers=0):
    steps = [("DecodeImage", {"to_rgb": True, "with_mixup": True}), ("MixupImage", {}), ("RandomFlipImage", {}),
             ("NormalizeBox", {}), ("PadBox", {"num_max_boxes": 5}), ("BboxXYXY2XYWH", {})]  # fmt: skip
    resize = [("RandomShape", {"sizes": [32, 64, 96], "random_inter": True})]
    if not train:
        steps, resize = [("DecodeImage", {"to_rgb": True}), ("ResizeImage", {"target_size": 32})], []
    return Loader(
        load_voc(root, "list.txt"),
        make_transforms(steps, "t"),
        [*make_batch_transforms(resize, "b"), Noise()],
        batch_size=batch_size,
        shuffle=train,
        drop_last=drop_last,
        seed=3,
        train=train,
        workers=workers,
        mixup_epochs=1 if train else -1,
        split=split,
    )


def parts_of_a_step(root, step, ranks, pieces):
    for rank in range(ranks):
        own = loader(root, batch_size=2, split=Split(rank, ranks, pieces), workers=rank)
        yield from take(own, pieces, start=step * pieces)


@pytest.mark.parametrize(("ranks", "pieces"), [(2, 1), (1, 2), (2, 2)])
def test_parts_of_a_batch_together_are_the_batch_of_one_process(voc, ranks, pieces):
    root = voc(12)
    whole = loader(root, batch_size=2 * ranks * pieces)
    for step, expected in enumerate(take(whole, 4)):  # two epochs or more: mixed up in the first, of changing size
        parts = list(parts_of_a_step(root, step, ranks, pieces))
        for name, array in expected.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_no_sample_is_lost_or_used_twice_whatever_the_number_of_processes(voc):
    root = voc(11)
    for ranks, pieces in ((1, 1), (2, 1), (3, 1), (2, 3), (4, 2), (5, 2)):
        makers = [loader(root, batch_size=2, split=Split(rank, ranks, pieces)).maker for rank in range(ranks)]
        seen, weights = [], []
        for number in range(len(makers[0]) * pieces):
            weights.append([maker.weight(number) for maker in makers])
            for maker, weight in zip(makers, weights[-1], strict=True):
                assert maker.indices(number)  # an empty part has a stand-in
                seen += maker.indices(number) if weight > 0 else []
                size = min(2 * ranks * pieces, 11 - number // pieces * 2 * ranks * pieces)
                assert weight in (0, len(maker.indices(number)) / size)
        assert sorted(seen) == list(range(11))
        np.testing.assert_allclose(np.sum(weights), len(makers[0]))


def test_every_evaluation_batch_goes_to_one_process_whole(voc):
    root = voc(7)
    expected = list(loader(root, batch_size=2, train=False).batches())
    for ranks in (1, 2, 3, 5):
        split = [
            list(loader(root, batch_size=2, train=False, split=Split(rank, ranks)).batches()) for rank in range(ranks)
        ]
        assert [len(own) for own in split] == [len(range(rank, 4, ranks)) for rank in range(ranks)]
        for rank, own in enumerate(split):
            for batch, whole in zip(own, expected[rank::ranks], strict=True):
                assert all(np.array_equal(batch[name], whole[name]) for name in whole)


def test_too_few_images_for_all_parts_are_refused(voc):
    with pytest.raises(DataError, match="7 images are less than one batch of 4 times 2, and drop_last"):
        loader(voc(7), batch_size=2, split=Split(0, 2, 2), drop_last=True)
