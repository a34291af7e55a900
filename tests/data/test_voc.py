"""Reading VOC data sets: what good input gives, and what is said about bad input."""

import logging

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.data import load_voc
from slim_distill.data.labels import COCO_CATEGORY_IDS, COCO_CLASSES, VOC_CLASSES
from slim_distill.data.voc import parse_xml
from tests.data.conftest import CLASSES, xml


def test_reads_ids_and_pairs_alike(voc):
    root = voc(4)
    (root / "pairs.txt").write_text("".join(f"JPEGImages/im{i}.png Annotations/im{i}.xml\n" for i in range(4)))
    by_id, by_pair = load_voc(root, "list.txt"), load_voc(root, "pairs.txt", classes=CLASSES)
    assert by_id.classes == by_pair.classes == CLASSES
    assert by_id.category_ids == (1, 2, 3)
    for i, (a, b) in enumerate(zip(by_id.records, by_pair.records, strict=True)):
        assert a["im_id"].tolist() == [i]
        assert (a["h"], a["w"]) == (48, 64)
        assert a["gt_class"].tolist() == [[i % 3]]
        assert a["gt_score"].tolist() == [[1.0]]
        for key in a:
            assert np.array_equal(a[key], b[key]), key


def test_reads_lists_that_mark_their_ids_with_a_number(voc):
    root = voc(2)
    (root / "list.txt").write_text("im0 1\nim1 -1\n\n")
    assert len(load_voc(root, "list.txt")) == 2


def test_sample_num_takes_the_first(voc):
    root = voc(4)
    assert [r["im_id"].item() for r in load_voc(root, "list.txt", sample_num=2).records] == [0, 1]


def test_clips_boxes_and_drops_those_without_area(voc, caplog):
    root = voc(1)
    boxes = [("red", -5, 3, 200, 9), ("green", 10, 10, 10, 20), ("blue", 70, 1, 90, 9), ("blue", 1, 2, 3, 4)]
    (root / "Annotations/im0.xml").write_text(xml(boxes))
    with caplog.at_level(logging.WARNING, "slim_distill.data"):
        data = load_voc(root, "list.txt")
    assert data.records[0]["gt_bbox"].tolist() == [[0, 3, 63, 9], [1, 2, 3, 4]]
    assert data.records[0]["gt_class"].tolist() == [[0], [2]]
    assert data.records[0]["difficult"].tolist() == [[0], [1]]
    assert (data.dropped_boxes, data.clipped_boxes) == (2, 2)
    assert "2 boxes without area" in caplog.text


def test_takes_the_size_from_the_image_when_the_annotation_has_none(voc):
    root = voc(1)
    (root / "Annotations/im0.xml").write_text(xml([("red", 1, 1, 200, 200)], w=0, h=0))
    record = load_voc(root, "list.txt").records[0]
    assert (record["h"], record["w"]) == (48, 64)
    assert record["gt_bbox"].tolist() == [[1, 1, 63, 47]]


def test_names_file_class_and_nearest_classes_for_an_unknown_class(voc):
    root = voc(2)
    (root / "Annotations/im1.xml").write_text(xml([("gren", 1, 1, 9, 9)]))
    with pytest.raises(DataError, match=r"im1\.xml: class 'gren' is not among the 3 classes .* nearest: green"):
        load_voc(root, "list.txt")


def test_skips_and_counts_what_is_broken(voc, caplog):
    root = voc(8)
    (root / "JPEGImages/im1.png").unlink()
    (root / "Annotations/im2.xml").write_text("<annotation><object>")
    (root / "Annotations/im3.xml").unlink()
    (root / "Annotations/im4.xml").write_text(xml([("red", "1", "1", "nan", "9")]))
    (root / "Annotations/im5.xml").write_text("<annotation><object><name>red</name></object></annotation>")
    with caplog.at_level(logging.WARNING, "slim_distill.data"):
        data = load_voc(root, "list.txt", max_bad_share=0.7)
    assert [r["im_id"].item() for r in data.records] == [0, 1, 2]
    reasons = {file.rsplit("/", 1)[1]: reason for file, reason in data.skipped.items()}
    assert reasons["im1.jpg"] == "no such image"
    assert "not well-formed XML" in reasons["im2.png"]
    assert "cannot be read: No such file" in reasons["im3.png"]
    assert "not finite" in reasons["im4.png"]
    assert "is broken" in reasons["im5.png"]
    assert "5 images skipped" in caplog.text


def test_stops_when_too_many_images_are_missing(voc):
    root = voc(4)
    (root / "JPEGImages/im1.png").unlink()
    load_voc(root, "list.txt", max_bad_share=0.25)
    with pytest.raises(DataError, match=r"1 of 4 images cannot be used.*max_bad_share = 0.2 allows.*no such image"):
        load_voc(root, "list.txt", max_bad_share=0.2)


def test_says_where_a_missing_data_set_is_expected(tmp_path):
    with pytest.raises(DataError, match=r"trainval\.txt: no such list file.*is expected at .*README\.md"):
        load_voc(tmp_path, "trainval.txt", labels="voc")


def test_refuses_an_empty_list(voc):
    root = voc(1)
    (root / "list.txt").write_text("\n")
    with pytest.raises(DataError, match=r"list\.txt: the data set is empty"):
        load_voc(root, "list.txt")


def test_label_lists(voc):
    root = voc(1)
    assert len(set(VOC_CLASSES)) == 20
    assert len(set(COCO_CLASSES)) == len(COCO_CATEGORY_IDS) == 80
    by_name = dict(zip(COCO_CLASSES, COCO_CATEGORY_IDS, strict=True))
    # A few pairs of instances_val2017.json on both sides of each gap.
    known = {"fire hydrant": 11, "stop sign": 13, "zebra": 24, "umbrella": 28, "handbag": 31, "bottle": 44}
    known |= {"wine glass": 46, "potted plant": 64, "bed": 65, "dining table": 67, "toilet": 70, "tv": 72, "sink": 81}
    assert {k: by_name[k] for k in known} == known
    assert by_name["refrigerator"] == 82
    assert by_name["toothbrush"] == 90
    with pytest.raises(DataError, match="are both given"):
        load_voc(root, "list.txt", labels="voc", classes=CLASSES)
    with pytest.raises(DataError, match=r"nowhere\.txt: no such label file"):
        load_voc(root, "list.txt", labels="nowhere.txt")
    with pytest.raises(DataError, match="'red' occurs more than once"):
        load_voc(root, "list.txt", classes=("red", "red"))
    (root / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="label file is empty"):
        load_voc(root, "list.txt", labels="empty.txt")


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037"])
def test_refuses_a_document_type_in_any_encoding(encoding):
    declaration = f'<?xml version="1.0" encoding="{encoding}"?>'
    text = f"{BOMB}<annotation>&y;</annotation>"
    data = (
        (declaration + text).encode(encoding) if encoding != "cp037" else declaration.encode() + text.encode(encoding)
    )
    with pytest.raises(ValueError, match="document type|not well-formed"):
        parse_xml(data)


def test_skips_an_annotation_with_a_document_type(voc):
    root = voc(3)
    (root / "Annotations/im1.xml").write_text(xml([("red", 1, 1, 9, 9)], extra=BOMB))
    data = load_voc(root, "list.txt", max_bad_share=0.5)
    assert len(data) == 2
    assert "declares a document type" in next(iter(data.skipped.values()))
