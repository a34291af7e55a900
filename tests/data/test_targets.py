"""YOLO targets against a plain loop over boxes, scales and anchors."""

import numpy as np
import pytest

from slim_distill.data.transforms import Gt2YoloTarget, yolo_targets

ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
MASKS = ((6, 7, 8), (3, 4, 5), (0, 1, 2))
STRIDES = (32, 16, 8)


def loop(box, number, score, size, classes, iou_thresh):
    """The definition, box by box."""
    height, width = size
    out = [
        np.zeros((len(m), 6 + classes, height // s, width // s), np.float32)
        for m, s in zip(MASKS, STRIDES, strict=True)
    ]
    for (cx, cy, w, h), k, p in zip(box.astype(np.float64), number, score, strict=True):
        if w <= 0 or h <= 0 or p <= 0:
            continue
        overlaps = []
        for aw, ah in ANCHORS:
            shared = min(w, aw / width) * min(h, ah / height)
            overlaps.append(shared / (w * h + aw * ah / width / height - shared))
        best = int(np.argmax(overlaps))
        for target, mask in zip(out, MASKS, strict=True):
            _, _, gh, gw = target.shape
            i, j = int(cx * gw), int(cy * gh)
            for slot, a in enumerate(mask):
                if a == best or (iou_thresh < 1 and overlaps[a] > iou_thresh):
                    aw, ah = ANCHORS[a]
                    log_w, log_h = np.log(w * width / aw), np.log(h * height / ah)
                    target[slot, :6, j, i] = cx * gw - i, cy * gh - j, log_w, log_h, 2 - w * h, p
                    target[slot, 6 + k, j, i] = 1
    return out


def random_boxes(seed, images=3, n=20):
    r = np.random.default_rng(seed)
    size = np.exp(r.uniform(np.log(0.01), np.log(0.9), (images, n, 2)))
    box = np.concatenate((r.uniform(size / 2, 1 - size / 2), size), axis=2).astype(np.float32)
    box[:, 3] = box[:, 2]  # collision: the later one wins, both classes stay
    box[:, 4, 2] = 0
    number = r.integers(0, 7, (images, n)).astype(np.int32)
    score = r.uniform(0.1, 1, (images, n)).astype(np.float32)
    score[:, 5] = 0
    return box, number, score


@pytest.mark.parametrize("iou_thresh", [1.0, 0.3])
@pytest.mark.parametrize("size", [(128, 128), (96, 224)])
def test_equals_the_loop(size, iou_thresh):
    box, number, score = random_boxes(size[1])
    options = {"anchors": ANCHORS, "anchor_masks": MASKS, "downsample_ratios": STRIDES}
    got = yolo_targets(box, number, score, size, **options, num_classes=7, iou_thresh=iou_thresh)
    positives = 0
    for n in range(len(box)):
        for target, expected in zip(got, loop(box[n], number[n], score[n], size, 7, iou_thresh), strict=True):
            assert target.dtype == np.float32
            assert np.abs(target[n] - expected).max() <= 2e-7  # the log of a product, in another order
            positives += (expected[:, 5] > 0).sum()
    assert positives > 40


def test_collisions_keep_the_last_box_and_both_classes():
    box = np.array([[[0.5, 0.5, 0.2, 0.2], [0.52, 0.51, 0.2, 0.2]]], np.float32)
    options = {"anchors": ((20, 20),), "anchor_masks": ((0,),), "downsample_ratios": (32,)}
    (target,) = yolo_targets(box, np.array([[0, 2]]), np.array([[0.4, 0.9]]), (96, 96), **options, num_classes=3)
    cell = target[0, 0, :, 1, 1]
    assert cell[5] == np.float32(0.9)
    assert cell[0] == pytest.approx(0.52 * 3 - 1, abs=1e-6)
    assert cell[6:].tolist() == [1, 0, 1]
    assert np.count_nonzero(target[0, 0, 5]) == 1


def test_a_centre_on_the_far_edge_stays_in_the_last_cell():
    box = np.array([[[1.0, 1.0, 0.2, 0.2]]], np.float32)
    options = {"anchors": ((20, 20),), "anchor_masks": ((0,),), "downsample_ratios": (32,)}
    (target,) = yolo_targets(box, np.array([[0]]), np.array([[1.0]]), (96, 96), **options, num_classes=1)
    assert target[0, 0, 5].nonzero() == (np.array([2]), np.array([2]))


def test_the_batch_step_adds_one_target_a_scale():
    box, number, score = random_boxes(0)
    samples = [
        {"image": np.zeros((3, 64, 96)), "gt_bbox": b, "gt_class": c, "gt_score": s, "im_file": "x"}
        for b, c, s in zip(box, number, score, strict=True)
    ]
    step = Gt2YoloTarget(ANCHORS, MASKS, STRIDES, num_classes=7)
    out = step(samples, np.random.default_rng(0))
    assert [out[1][f"target{i}"].shape for i in range(3)] == [(3, 13, 2, 3), (3, 13, 4, 6), (3, 13, 8, 12)]
    single = step(samples[1:2], np.random.default_rng(0))[0]
    assert all(np.array_equal(out[1][f"target{i}"], single[f"target{i}"]) for i in range(3))
    assert step([], np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="class 6 does not fit into num_classes 3"):
        Gt2YoloTarget(ANCHORS, MASKS, STRIDES, num_classes=3)(samples, np.random.default_rng(0))
