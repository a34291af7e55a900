"""COCO average precision: golden numbers, the form made from records, refusals."""

import copy
import json

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.metrics import COCO_METRICS, coco_ap, coco_detections, coco_from_records, voc_ap

CLASSES = ("cat", "dog")


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    out = []
    for im_id in range(6):
        corner = rng.uniform(0, 150, (4, 2))
        boxes = np.hstack([corner, corner + rng.uniform(10, 140, (4, 2))]).astype(np.float32)
        out.append(
            {
                "im_id": np.array([im_id + 100]),
                "im_file": f"{im_id}.jpg",
                "h": 300.0,
                "w": 320.0,
                "gt_bbox": boxes,
                "gt_class": rng.integers(0, 2, (4, 1)),
                "is_crowd": np.zeros((4, 1), int),
                "difficult": np.zeros((4, 1), int),
            }
        )
    return out


def perfect(records):
    rng = np.random.default_rng(1)
    return {
        int(r["im_id"][0]): np.column_stack([r["gt_class"], rng.random(len(r["gt_bbox"])), r["gt_bbox"]])
        for r in records
    }


@pytest.mark.golden
@pytest.mark.parametrize("as_file", [True, False])
def test_golden_figures_from_arrays(golden, as_file):
    case = json.loads((golden / "map" / "voc_map.json").read_text())
    found = {im["image_id"]: np.array(im["dets"], np.float32).reshape(-1, 6) for im in case["images"]}
    expected = json.loads((golden / "map" / "coco_stats.json").read_text())
    path = golden / "map" / "coco_gt.json"
    mapping = {int(k): v for k, v in expected["class_to_category"].items()}
    result = coco_ap(found, path if as_file else json.loads(path.read_text()), class_to_category=mapping)
    assert tuple(expected["order"]) == COCO_METRICS
    assert [result[k] for k in COCO_METRICS] == pytest.approx(expected["stats"], abs=1e-6)
    assert result == coco_ap(found, path)  # the default mapping is the order of category ids


@pytest.mark.golden
def test_golden_export(golden):
    case = json.loads((golden / "map" / "voc_map.json").read_text())
    found = {im["image_id"]: np.array(im["dets"], np.float32).reshape(-1, 6) for im in case["images"]}
    mapping = {k: 10 * (k + 1) for k in range(5)}
    assert coco_detections(found, mapping) == json.loads((golden / "map" / "coco_dt.json").read_text())


def test_perfect_detections_are_one_and_nothing_is_printed(records, capsys):
    result = coco_ap(perfect(records), coco_from_records(records, CLASSES))
    assert list(result)[:12] == list(COCO_METRICS)
    for key in ("AP", "AP50", "AP75", "AR10", "AR100", "AP/cat", "AP/dog", "AP50/dog"):
        assert result[key] == pytest.approx(1.0, abs=1e-6), key
    assert capsys.readouterr().out == ""


def test_no_detection_at_all_is_zero(records):
    result = coco_ap({}, coco_from_records(records, CLASSES))
    assert [result[k] for k in ("AP", "AP50", "AR100", "AP/cat", "AP/dog")] == [0.0] * 5


def test_mean_of_the_classes_is_ap(records):
    found = perfect(records)
    rng = np.random.default_rng(2)
    shaken = {k: np.column_stack([v[:, :2], v[:, 2:] + rng.normal(0, 6, (len(v), 4))]) for k, v in found.items()}
    result = coco_ap(shaken, coco_from_records(records, CLASSES))
    assert 0.1 < result["AP"] < 0.9
    assert np.mean([result["AP/cat"], result["AP/dog"]]) == pytest.approx(result["AP"], abs=1e-12)
    assert np.mean([result["AP50/cat"], result["AP50/dog"]]) == pytest.approx(result["AP50"], abs=1e-12)


def test_ap50_of_perfect_order_agrees_with_voc(records):
    # No false positive above any hit, so the 101 points, the 11 points and the area all see the same recall.
    found = {k: v[:2] for k, v in perfect(records).items()}
    truth = {int(r["im_id"][0]): r for r in records}
    coco = coco_ap(found, coco_from_records(records, CLASSES))["AP50"]
    assert coco == pytest.approx(voc_ap(found, truth, 2, map_type="integral").map, abs=0.01)


def test_size_without_objects_is_minus_one(records):
    for r in records:
        r["gt_bbox"] = np.tile(np.array([10, 10, 19, 19], np.float32), (4, 1))
    result = coco_ap(perfect(records), coco_from_records(records, CLASSES))
    assert result["AP_large"] == result["AP_medium"] == -1.0
    assert result["AP_small"] > 0


def test_class_without_objects_is_minus_one(records):
    for r in records:
        r["gt_class"] = np.zeros((4, 1), int)
    result = coco_ap(perfect(records), coco_from_records(records, CLASSES))
    assert result["AP/dog"] == -1.0
    assert result["AP"] == result["AP/cat"]


def test_image_ids_limit_the_images(records):
    found = {k: v for k, v in perfect(records).items() if k < 103}
    gt = coco_from_records(records, CLASSES)
    assert coco_ap(found, gt)["AR100"] < 0.9
    assert coco_ap(found, gt, image_ids=[100, 101, 102])["AR100"] == pytest.approx(1.0, abs=1e-6)


def test_difficult_objects_are_not_missed(records):
    records[0]["difficult"] = np.ones((4, 1), int)
    found = perfect(records)
    del found[100]
    assert coco_ap(found, coco_from_records(records, CLASSES))["AR100"] == pytest.approx(1.0, abs=1e-6)
    assert coco_ap(found, coco_from_records(records, CLASSES, ignore_difficult=False))["AR100"] < 0.95


def test_content_from_records(records):
    gt = coco_from_records(records, CLASSES)
    assert gt["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert gt["images"][0] == {"id": 100, "file_name": "0.jpg", "height": 300, "width": 320}
    box = records[0]["gt_bbox"][0].astype(float)
    assert gt["annotations"][0]["bbox"] == [box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1]
    assert gt["annotations"][0]["category_id"] == records[0]["gt_class"][0, 0] + 1
    assert len({a["id"] for a in gt["annotations"]}) == 24
    json.dumps(gt)


def test_given_content_is_left_alone(records):
    gt = coco_from_records(records, CLASSES)
    before = copy.deepcopy(gt)
    coco_ap(perfect(records), gt)
    assert gt == before


def write(tmp_path, text):
    path = tmp_path / "gt.json"
    path.write_text(text)
    return path


def test_refuses_files_that_are_no_annotations(tmp_path, records):
    with pytest.raises(DataError, match=r"gone\.json: cannot be read: No such file"):
        coco_ap({}, tmp_path / "gone.json")
    with pytest.raises(DataError, match=r"gt\.json: is not a JSON file"):
        coco_ap({}, write(tmp_path, "{"))
    with pytest.raises(DataError, match="no list 'images'"):
        coco_ap({}, write(tmp_path, "[1]"))
    gt = coco_from_records(records, CLASSES)
    with pytest.raises(DataError, match="the list 'annotations' is empty"):
        coco_ap({}, {**gt, "annotations": []})


def test_refuses_detections_that_do_not_fit(records):
    gt = coco_from_records(records, CLASSES)
    row = np.array([[0, 0.5, 1, 1, 9, 9.0]])
    with pytest.raises(DataError, match="image 9: no such image"):
        coco_ap({9: row}, gt)
    with pytest.raises(DataError, match="class 2 does not exist; the data set has 2 classes"):
        coco_ap({100: row + np.array([2, 0, 0, 0, 0, 0])}, gt)
    with pytest.raises(DataError, match="class 1 is category 7, which is not among"):
        coco_ap({100: row}, gt, class_to_category={0: 1, 1: 7})
    with pytest.raises(DataError, match="class 0 has no category; classes 1, 2 have"):
        coco_ap({100: row}, gt, class_to_category={1: 1, 2: 2})
