"""Reading COCO data sets."""

import json

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.data import COCO_CLASSES, load_coco
from tests.data.conftest import write_image


@pytest.fixture
def coco(tmp_path):
    """Write a set of two images with the given changes to its content; return its folder."""

    def write(**changes):
        for name in ("a", "b"):
            write_image(tmp_path / "images" / f"{name}.png", np.zeros((40, 50, 3), np.uint8))
        content = {
            "images": [
                {"id": 70, "file_name": "a.png", "width": 50, "height": 40},
                {"id": 3, "file_name": "b.png", "width": 50, "height": 40},
            ],
            "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 70, "category_id": 4, "bbox": [10, 5, 20, 10], "area": 200, "iscrowd": 0},
                {"id": 2, "image_id": 70, "category_id": 9, "bbox": [40, 30, 20, 20], "area": 400, "iscrowd": 0},
                {"id": 3, "image_id": 3, "category_id": 9, "bbox": [0, 0, 50, 40], "area": 2000, "iscrowd": 1},
            ],
        } | changes
        (tmp_path / "gt.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_numbers_classes_in_the_order_of_the_file(coco):
    data = load_coco(coco(), "gt.json", images="images")
    assert data.classes == ("cat", "dog")
    assert data.category_ids == (9, 4)
    first, second = data.records
    assert first["im_id"].tolist() == [70]
    assert first["gt_class"].tolist() == [[1], [0]]
    # x2 = x1 + w - 1, clipped to w - 1
    assert first["gt_bbox"].tolist() == [[10, 5, 29, 14], [40, 30, 49, 39]]
    assert first["is_crowd"].tolist() == [[0], [0]]
    assert second["is_crowd"].tolist() == [[1]]
    assert (data.dropped_boxes, data.clipped_boxes) == (0, 1)


def test_numbers_classes_by_a_given_list(coco):
    data = load_coco(coco(), "gt.json", images="images", classes=("dog", "cat"))
    assert data.category_ids == (4, 9)
    assert data.records[0]["gt_class"].tolist() == [[0], [1]]


def test_a_cut_down_file_keeps_the_80_classes(coco):
    root = coco(categories=[{"id": 18, "name": "dog"}], annotations=[])
    data = load_coco(root, "gt.json", images="images", labels="coco")
    assert data.classes == COCO_CLASSES
    assert data.category_ids[16] == 18


def test_a_category_beyond_the_given_classes_is_an_error(coco):
    with pytest.raises(DataError, match=r"gt\.json: class 'cat' is not among the 1 classes"):
        load_coco(coco(), "gt.json", images="images", classes=("dog",))
    with pytest.raises(DataError, match=r"list of categories: class 'cart' is not among the 2 classes.*nearest: cat"):
        load_coco(coco(), "gt.json", images="images", classes=("dog", "cart"))


def test_an_undefined_category_is_an_error(coco):
    wrong = [{"id": 5, "image_id": 3, "category_id": 7, "bbox": [1, 1, 5, 5]}]
    with pytest.raises(DataError, match=r"annotation 5 of image 3 has category 7, .*it has 9 \(cat\), 4 \(dog\)"):
        load_coco(coco(annotations=wrong), "gt.json", images="images")


def test_drops_boxes_without_area(coco):
    boxes = [[5, 5, 0, 9], [5, 5, 9, -2], [60, 5, 9, 9], [1, 2, 3], [5, 5, float("inf"), 2], ["a", 1, 2, 3]]
    annotations = [{"image_id": 3, "category_id": 9, "bbox": b} for b in boxes]
    annotations.append({"image_id": 3, "category_id": 9, "bbox": [1, 1, 4, 4], "area": 0})
    annotations.append({"image_id": 3, "category_id": 9, "bbox": [2, 3, 1, 4]})
    data = load_coco(coco(annotations=annotations), "gt.json", images="images")
    assert data.dropped_boxes == 7
    assert data.records[1]["gt_bbox"].tolist() == [[2, 3, 2, 6]]


def test_skips_missing_images(coco):
    root = coco()
    (root / "images/b.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 images cannot be used.*b\.png: no such image"):
        load_coco(root, "gt.json", images="images")
    assert len(load_coco(root, "gt.json", images="images", max_bad_share=0.5)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", "no list 'images'"),
        ('{"images": []}', "no list 'categories'"),
        ('{"images": [{"id": 1}], "categories": []}', r"images\[0\] has no file_name, width, height"),
        (
            '{"images": [], "categories": [], "annotations": [7]}',
            r"annotations\[0\] has no image_id, category_id, bbox",
        ),
        ('{"images": [], "categories": [], "annotations": []}', "the data set is empty"),
    ],
)
def test_refuses_what_is_no_coco_file(tmp_path, text, message):
    (tmp_path / "gt.json").write_text(text)
    with pytest.raises(DataError, match=message):
        load_coco(tmp_path, "gt.json")


def test_says_where_a_missing_file_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"val\.json: no such annotation file.*is expected at .*README\.md"):
        load_coco(tmp_path, "val.json")
