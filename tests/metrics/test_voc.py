"""VOC average precision: closed-form cases, invariances, refusals, golden numbers."""

import json

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.metrics import average_precision, index_records, iou_matrix, voc_ap

BOX_A = [10.0, 10.0, 49.0, 49.0]
BOX_B = [60.0, 10.0, 99.0, 49.0]
BOX_C = [10.0, 60.0, 49.0, 99.0]


def record(boxes, classes, difficult=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    difficult = np.zeros(len(boxes), int) if difficult is None else np.array(difficult)
    return {"gt_bbox": boxes, "gt_class": np.array(classes).reshape(-1, 1), "difficult": difficult.reshape(-1, 1)}


def dets(*rows):
    return np.array([[c, s, *box] for c, s, box in rows], np.float32).reshape(-1, 6)


@pytest.fixture(scope="module")
def golden_case(golden):
    case = json.loads((golden / "map" / "voc_map.json").read_text())
    truth = {im["image_id"]: record(im["gt_bbox"], im["gt_class"], im["difficult"]) for im in case["images"]}
    found = {im["image_id"]: np.array(im["dets"], np.float32).reshape(-1, 6) for im in case["images"]}
    return case, found, truth


@pytest.fixture
def random_case():
    rng = np.random.default_rng(3)
    truth, found = {}, {}
    for im_id in range(12):
        corner = rng.uniform(0, 60, (5, 2))
        boxes = np.hstack([corner, corner + rng.uniform(8, 30, (5, 2))])
        classes = rng.integers(0, 3, 5)
        truth[im_id] = record(boxes, classes, rng.random(5) < 0.2)
        near = np.repeat(boxes, 2, axis=0) + rng.normal(0, 2.5, (10, 4))
        found[im_id] = np.column_stack([np.repeat(classes, 2), rng.random(10), near])
    return found, truth


@pytest.mark.golden
@pytest.mark.parametrize("map_type", ["11point", "integral"])
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("mAP", {}),
        ("evaluate_difficult", {"evaluate_difficult": True}),
        ("overlap_0.75", {"iou_threshold": 0.75}),
        ("boxes_normalized_flag_true(no +1)", {"plus_one": False}),
    ],
)
def test_golden_map(golden_case, map_type, key, options):
    case, found, truth = golden_case
    result = voc_ap(found, truth, case["num_classes"], map_type=map_type, **options)
    assert result.map == pytest.approx(case["results"][map_type][key], abs=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("map_type", ["11point", "integral"])
def test_golden_values_of_each_class(golden_case, map_type):
    case, found, truth = golden_case
    expected = case["results"][map_type]
    per_class = voc_ap(found, truth, case["num_classes"], map_type=map_type).per_class
    assert [c.num_truth for c in per_class] == expected["gt_counts_non_difficult"]
    assert [c.num_detections for c in per_class] == expected["n_det_scored_per_class"]
    assert [c.ap is None for c in per_class] == [ap is None for ap in expected["per_class_ap"]]
    for mine, ap in zip(per_class, expected["per_class_ap"], strict=True):
        if ap is not None:
            assert mine.ap == pytest.approx(ap, abs=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("map_type", ["11point", "integral"])
@pytest.mark.parametrize("batch_size", [1, 5, 30])
def test_golden_entry_point_forgets_empty_batches(golden_case, map_type, batch_size):
    case, found, truth = golden_case
    result = voc_ap(found, truth, case["num_classes"], map_type=map_type, skip_empty_batches=batch_size)
    expected = case["results"]["via_eval_entry_point_percent"][f"batch_{batch_size}_{map_type}"]
    assert 100 * result.map == pytest.approx(expected, abs=1e-4)  # per cent: 1e-6 of 1


@pytest.mark.parametrize("map_type", ["11point", "integral"])
def test_perfect_detections_are_one(map_type):
    truth = {7: record([BOX_A, BOX_B], [0, 1]), 8: record([BOX_C], [1])}
    found = {7: dets((0, 0.9, BOX_A), (1, 0.2, BOX_B)), 8: dets((1, 0.6, BOX_C))}
    result = voc_ap(found, truth, 2, map_type=map_type)
    assert result.map == pytest.approx(1.0, abs=1e-12)
    assert [c.num_true_positive for c in result.per_class] == [1, 2]


@pytest.mark.parametrize("map_type", ["11point", "integral"])
def test_class_that_is_never_detected_counts_as_zero(map_type):
    truth = {0: record([BOX_A, BOX_B], [0, 1])}
    result = voc_ap({0: dets((0, 0.9, BOX_A))}, truth, 2, map_type=map_type)
    assert [c.ap for c in result.per_class] == pytest.approx([1.0, 0.0], abs=1e-12)
    assert result.map == pytest.approx(0.5, abs=1e-12)


def test_class_without_ground_truth_is_left_out_of_the_mean():
    truth = {0: record([BOX_A], [0])}
    result = voc_ap({0: dets((0, 0.9, BOX_A), (1, 0.99, BOX_B))}, truth, 3)
    assert result.map == pytest.approx(1.0, abs=1e-12)
    assert result.per_class[1].ap is None
    assert result.per_class[1].num_detections == 1
    assert result.per_class[2].ap is None


def test_second_hit_on_an_object_is_wrong():
    truth = {0: record([BOX_A, BOX_B], [0, 0])}
    found = {0: dets((0, 0.9, BOX_A), (0, 0.8, BOX_A), (0, 0.7, BOX_B))}
    curve = voc_ap(found, truth, 1, map_type="integral").per_class[0]
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3], rtol=1e-12)
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 1.0], rtol=1e-12)
    assert curve.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-12)


def test_given_order_decides_who_is_first_and_scores_decide_the_curve():
    # The worse-scored hit comes first in the image, so it is the right one; the curve still starts with the other.
    truth = {0: record([BOX_A], [0])}
    curve = voc_ap({0: dets((0, 0.3, BOX_A), (0, 0.9, BOX_A))}, truth, 1, map_type="integral").per_class[0]
    np.testing.assert_allclose(curve.scores, [0.9, 0.3], rtol=1e-6)
    np.testing.assert_allclose(curve.precision, [0, 0.5], rtol=1e-12)
    assert curve.ap == pytest.approx(0.5, abs=1e-12)


def test_difficult_object_is_neither_right_nor_wrong_nor_missed():
    truth = {0: record([BOX_A, BOX_B], [0, 0], difficult=[0, 1])}
    found = {0: dets((0, 0.9, BOX_B), (0, 0.85, BOX_B), (0, 0.8, BOX_A))}
    curve = voc_ap(found, truth, 1).per_class[0]
    assert (curve.ap, curve.num_truth, curve.num_detections) == (pytest.approx(1.0), 1, 1)
    counted = voc_ap(found, truth, 1, map_type="integral", evaluate_difficult=True).per_class[0]
    assert (counted.num_truth, counted.num_detections) == (2, 3)
    assert counted.ap == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-12)


def test_equal_scores_stay_in_the_order_of_the_images():
    rng = np.random.default_rng(1)
    right, high = rng.random(400) < 0.5, rng.random(400) < 0.5
    truth = {i: record([BOX_A], [0]) for i in range(400)}
    found = {i: dets((0, 0.6 if high[i] else 0.5, BOX_A if right[i] else BOX_B)) for i in range(400)}
    curve = voc_ap(found, truth, 1).per_class[0]
    in_order = np.concatenate([right[high], right[~high]])
    np.testing.assert_allclose(curve.recall, np.cumsum(in_order) / 400, rtol=1e-12)


def test_iou_equal_to_the_threshold_is_no_hit():
    truth = {0: record([[0, 0, 9, 9]], [0])}  # 10 x 10 with the last pixel
    found = {0: dets((0, 0.9, [0, 0, 9, 4]))}  # 10 x 5: IoU exactly 0.5
    assert voc_ap(found, truth, 1).map == 0.0
    assert voc_ap(found, truth, 1, iou_threshold=0.49).map == pytest.approx(1.0)
    assert voc_ap(found, truth, 1, iou_threshold=0.45, plus_one=False).map == 0.0  # 4 / 9 without the last pixel


def test_detection_of_another_class_does_not_hit():
    result = voc_ap({0: dets((1, 0.9, BOX_A))}, {0: record([BOX_A, BOX_A], [0, 1])}, 2)
    assert [c.ap for c in result.per_class] == pytest.approx([0.0, 1.0])


def test_missing_image_and_image_without_rows_mean_the_same():
    truth = {0: record([BOX_A], [0]), 1: record([BOX_B], [0])}
    found = {0: dets((0, 0.9, BOX_A))}
    assert voc_ap(found, truth, 1).map == voc_ap({**found, 1: np.zeros((0, 6))}, truth, 1).map
    assert voc_ap(found, truth, 1, map_type="integral").map == pytest.approx(0.5)


def test_skipping_empty_batches_is_off_by_default():
    truth = {0: record([BOX_A], [0]), 1: record([BOX_B], [0])}
    found = {0: dets((0, 0.9, BOX_A))}
    assert voc_ap(found, truth, 1, map_type="integral").map == pytest.approx(0.5)
    assert voc_ap(found, truth, 1, map_type="integral", skip_empty_batches=1).map == pytest.approx(1.0)
    assert voc_ap(found, truth, 1, map_type="integral", skip_empty_batches=2).map == pytest.approx(0.5)
    assert voc_ap({}, truth, 1, skip_empty_batches=1).map == 0.0


@pytest.mark.parametrize("map_type", ["11point", "integral"])
def test_order_of_images_and_scale_of_scores_do_not_matter(random_case, map_type):
    found, truth = random_case
    expected = voc_ap(found, truth, 3, map_type=map_type)
    assert 0.1 < expected.map < 0.95  # otherwise the case says nothing
    backwards = {k: truth[k] for k in reversed(truth)}
    assert voc_ap(found, backwards, 3, map_type=map_type).map == pytest.approx(expected.map, abs=1e-12)
    scaled = {k: np.column_stack([v[:, 0], 0.5 * v[:, 1] ** 3, v[:, 2:]]) for k, v in found.items()}
    assert voc_ap(scaled, truth, 3, map_type=map_type).map == pytest.approx(expected.map, abs=1e-12)


def test_higher_threshold_never_raises_the_result(random_case):
    found, truth = random_case
    maps = [voc_ap(found, truth, 3, map_type="integral", iou_threshold=t).map for t in (0.3, 0.5, 0.7, 0.9)]
    assert maps == sorted(maps, reverse=True)
    assert maps[0] > maps[-1]


def test_random_case_equals_plain_loops(random_case):
    found, truth = random_case
    result = voc_ap(found, truth, 3, map_type="integral")
    for number in range(3):
        outcomes, count = [], 0
        for im_id, rec in truth.items():
            easy = rec["difficult"].ravel() == 0
            count += int((easy & (rec["gt_class"].ravel() == number)).sum())
            taken = set()
            for row in found[im_id][found[im_id][:, 0] == number]:
                best, best_iou = -1, 0.5
                for i in np.flatnonzero(rec["gt_class"].ravel() == number):
                    iou = plain_iou(row[2:], rec["gt_bbox"][i].astype(float))
                    if iou > best_iou:
                        best, best_iou = i, iou
                if best < 0 or easy[best]:
                    outcomes.append((row[1], best >= 0 and best not in taken))
                    taken.add(best)
        outcomes.sort(reverse=True)
        right = np.cumsum([hit for _, hit in outcomes])
        ap, before = 0.0, 0.0
        for i, r in enumerate(right):
            ap += r / (i + 1) * (r / count - before)
            before = r / count
        assert result.per_class[number].ap == pytest.approx(ap, abs=1e-12)


def plain_iou(a, b):
    if a[0] >= b[2] or a[2] <= b[0] or a[1] >= b[3] or a[3] <= b[1]:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    area = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
    return width * height / (area - width * height)


def test_iou_matrix_values():
    a = np.array([[0, 0, 9, 9], [20, 20, 29, 29.0]])
    b = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [9, 0, 18, 9.0]])
    np.testing.assert_allclose(iou_matrix(a, b), [[1, 50 / 150, 0], [0, 0, 0]], atol=1e-12)  # only touching: 0
    np.testing.assert_allclose(iou_matrix(a, b, plus_one=False)[0], [1, 36 / 126, 0], atol=1e-12)
    assert iou_matrix(a, np.zeros((0, 4))).shape == (2, 0)


def test_eleven_points_take_the_best_precision_to_the_right():
    precision, recall = np.array([1.0, 0.5, 2 / 3]), np.array([1 / 3, 1 / 3, 2 / 3])
    # recall 0 ... 0.3 -> 1, 0.4 ... 0.6 -> 2/3, 0.7 ... 1 -> 0
    assert average_precision(precision, recall, "11point") == pytest.approx((4 + 3 * 2 / 3) / 11, abs=1e-12)


TRUTH = {0: record([BOX_A], [0])}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voc_ap({}, TRUTH, 1, map_type="11points"), "map_type '11points' is not known; did you mean '11point'"),
        (lambda: voc_ap({4: dets((0, 1, BOX_A))}, TRUTH, 1), "image 4: no such image in the ground truth"),
        (lambda: voc_ap({0: np.zeros((3, 5))}, TRUTH, 1), r"shape \(3, 5\); \[K, 6\]"),
        (lambda: voc_ap({0: dets((2, 1, BOX_A))}, TRUTH, 2), "class 2 does not exist; the data set has 2 classes"),
        (lambda: voc_ap({0: dets((-1, 1, BOX_A))}, TRUTH, 2), "class -1 does not exist"),
        (lambda: voc_ap({0: dets((0.5, 1, BOX_A))}, TRUTH, 2), "class 0.5 does not exist"),
        (lambda: voc_ap({0: dets((0, np.nan, BOX_A))}, TRUTH, 1), "row 0 is not finite"),
        (lambda: voc_ap({}, {0: record([BOX_A], [3])}, 2), r"image \(id 0\): class 3 does not exist"),
        (lambda: voc_ap({}, {0: record([BOX_A], [0, 1])}, 2), "1 boxes, 2 classes"),
        (lambda: voc_ap({}, {0: record([], [])}, 2), "no object in 1 images"),
        (lambda: voc_ap({}, {}, 2), "no object in 0 images"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(DataError, match=message):
        call()


def test_index_records_keeps_order_and_refuses_a_second_image_with_one_id():
    records = [{"im_id": np.array([5]), "im_file": "a.jpg"}, {"im_id": 2, "im_file": "b.jpg"}]
    assert list(index_records(records)) == [5, 2]
    with pytest.raises(DataError, match=r"c\.jpg: image id 5 is taken by a\.jpg"):
        index_records([*records, {"im_id": 5, "im_file": "c.jpg"}])
