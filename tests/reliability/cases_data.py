"""Bad annotations and images."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tests.reliability.world import Case, case, edit, locked

__all__ = ["CASES"]

COCO = "compare -c coco.yml --recipes recipe.yml --report-only"
VOC = "compare -c run.yml --recipes recipe.yml --report-only"
TRAIN_JSON, TEST_JSON = "data/annotations/train.json", "data/annotations/test.json"
XML = "data/Annotations/im008.xml"
LIST = "data/ImageSets/Main/test.txt"


def coco(change: Callable[[dict], object], *say: str, command: str = COCO) -> Case:
    """A COCO file with a change."""

    def prepare() -> None:
        data = json.loads(Path(TEST_JSON).read_text())
        change(data)
        Path(TEST_JSON).write_text(json.dumps(data))

    return case(command, *say, prepare=prepare)


def voc(old: str, new: str, *say: str) -> Case:
    """One VOC annotation in which a text is replaced."""

    def prepare() -> None:
        path = Path(XML)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return case(VOC, r"im008", *say, prepare=prepare)


def xml(content: bytes | str, *say: str) -> Case:
    """One VOC annotation of this content."""
    return case(VOC, "1 of 4 images cannot be used", "im008", *say, files={XML: content})


def image(content: bytes | str, *say: str) -> Case:
    """One image of this content, read because its annotation does not say its size."""

    def prepare() -> None:
        text = Path(XML).read_text()
        Path(XML).write_text(text.replace("<size>", "<no>").replace("</size>", "</no>"))

    return case(
        VOC,
        "1 of 4 images cannot be used",
        r"im008\.jpg",
        *say,
        files={"data/JPEGImages/im008.jpg": content},
        prepare=prepare,
    )


def png(width: int, height: int, *, bits: int = 8, data: bytes = b"") -> bytes:
    """A PNG file whose header says this size."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def jpeg(width: int, height: int) -> bytes:
    """A JPEG file whose header says this size and whose data are of another."""
    data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def bmp(width: int, height: int) -> bytes:
    """A BMP file whose header says this size."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(6)


def box(value: object, **others: object) -> Callable[[dict], object]:
    return lambda data: data["annotations"][0].update(bbox=value, **others)


SIZE = "<size><width>96</width>"
BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{i} "{"&a;" * 10}">' for i in range(9))
    + "]><annotation>&a8;</annotation>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation><filename>&a;</filename></annotation>'

ANNOTATIONS = {
    "coco_missing": case(COCO, "no such annotation file", files={TEST_JSON: None}),
    "coco_a_folder": case(
        COCO, "no such annotation file", prepare=lambda: (Path(TEST_JSON).unlink(), Path(TEST_JSON).mkdir())
    ),
    "coco_unreadable": case(COCO, "Permission denied", prepare=lambda: Path(TEST_JSON).chmod(0)),
    "coco_empty": case(COCO, "not a JSON file", files={TEST_JSON: b""}),
    "coco_cut": case(COCO, "not a JSON file", prepare=lambda: os.truncate(TEST_JSON, 500)),
    "coco_binary": case("train -c coco.yml", "not a JSON file", files={TRAIN_JSON: bytes(range(256))}),
    "coco_nested": case(COCO, "not a JSON file", files={TEST_JSON: "[" * 200_000}),
    "coco_a_list": case(COCO, "no list 'images'", files={TEST_JSON: "[]"}),
    "coco_of_nothing": case(COCO, "no list 'images'", files={TEST_JSON: "{}"}),
    "coco_results_file": case(COCO, "not a COCO annotation file", files={TEST_JSON: '[{"image_id": 1, "score": 0.5}]'}),
    "coco_utf_16": case(COCO, "class|JSON|images", files={TEST_JSON: '{"images": 1}'.encode("utf-16")}),
    "coco_without_images": coco(lambda d: d["images"].clear(), "the data set is empty"),
    "coco_without_categories": coco(lambda d: d.pop("categories"), "no list 'categories'"),
    "coco_image_without_name": coco(lambda d: d["images"][0].pop("file_name"), r"images\[0\] has no file_name"),
    "coco_image_is_text": coco(lambda d: d["images"].append("x"), r"images\[4\]"),
    "coco_image_id_text": coco(
        lambda d: d["images"][0].update(id="one"), r"images\[0\]\.id is .*; a whole number is wanted"
    ),
    "coco_image_id_list": coco(
        lambda d: d["images"][0].update(id=[1]), r"images\[0\]\.id is .*; a whole number is wanted"
    ),
    "coco_image_id_null": coco(
        lambda d: d["images"][0].update(id=None), r"images\[0\]\.id is .*; a whole number is wanted"
    ),
    "coco_image_id_huge": coco(lambda d: d["images"][0].update(id=10**30), r"images\[0\]\.id is 1000"),
    "coco_width_zero": coco(lambda d: d["images"][0].update(width=0), r"images\[0\] is 0 x 80 pixels"),
    "coco_width_text": coco(lambda d: d["images"][1].update(width="96"), r"images\[1\] is '96' x 80"),
    "coco_width_infinite": coco(lambda d: d["images"][0].update(width=float("inf")), r"images\[0\] is inf"),
    "coco_width_nan": coco(lambda d: d["images"][0].update(width=float("nan")), r"images\[0\] is nan"),
    "coco_width_absurd": coco(lambda d: d["images"][0].update(width=10**400), r"images\[0\] is"),
    "coco_name_nul": coco(lambda d: d["images"][0].update(file_name="a\0b"), "1 of 4 images"),
    "coco_name_too_long": coco(lambda d: d["images"][0].update(file_name="x" * 5000), "File name too long"),
    "coco_name_a_number": coco(lambda d: d["images"][0].update(file_name=7), "1 of 4 images"),
    "coco_images_missing": case(
        COCO,
        "4 of 4 images cannot be used",
        "no such image",
        prepare=edit("coco.yml", lambda d: d["data"]["eval"]["dataset"].update(images="gone")),
    ),
    "coco_category_missing": coco(lambda d: d["annotations"][0].update(category_id=99), "category 99"),
    "coco_category_a_list": coco(
        lambda d: d["annotations"][0].update(category_id=[1]), r"annotations\[0\]\.category_id is \[1\]"
    ),
    "coco_category_id_text": coco(
        lambda d: [c.update(id=c["name"]) for c in d["categories"]], r"categories\[0\]\.id is 'square'"
    ),
    "coco_category_id_list": coco(lambda d: d["categories"][0].update(id=[1]), r"categories\[0\]"),
    "coco_categories_too_many": coco(lambda d: d["categories"].append({"id": 9, "name": "ring"}), "3 classes"),
    "coco_class_unknown": coco(
        lambda d: d["categories"][0].update(name="sqare"),
        "nearest: sqare|'square'",
        command=COCO + " -o data.eval.dataset.classes=[square,disc]",
    ),
    "coco_annotation_image_a_list": coco(
        lambda d: d["annotations"][0].update(image_id=[1]), r"annotations\[0\]\.image_id is \[1\]"
    ),
    "coco_crowd_text": coco(box([1, 1, 5, 5], iscrowd="no"), r"annotations\[0\]", "iscrowd"),
    "coco_area_text": coco(box([1, 1, 5, 5], area="big"), r"annotations\[0\]", "area"),
    "voc_list_missing": case(VOC, "no such list file", files={LIST: None}),
    "voc_list_empty": case(VOC, "the data set is empty", files={LIST: "\n\n"}),
    "voc_list_not_text": case(VOC, "test.txt", "UTF-8", files={LIST: b"im\xff\xfe008\n"}),
    "voc_list_of_others": case(
        "train -c run.yml", "train.txt: 3 of 3", files={"data/ImageSets/Main/train.txt": "a\nb\nc\n"}
    ),
    "voc_list_leaves": case(VOC, "1 of 1 images", files={LIST: "../../run.yml ../../run.xml\n"}),
    "voc_list_name_too_long": case(VOC, "File name too long", files={LIST: "x" * 5000}),
    "voc_list_binary": case(VOC, "test.txt", files={LIST: bytes(range(128))}),
    "voc_list_unreadable": case(VOC, "Permission denied", prepare=lambda: Path(LIST).chmod(0)),
    "voc_labels_not_text": case(
        VOC + " -o data.eval.dataset.classes=[] data.eval.dataset.labels=l.txt",
        "l.txt",
        "UTF-8",
        files={"data/l.txt": b"\xff\xfe"},
    ),
    "voc_labels_empty": case(
        VOC + " -o data.eval.dataset.classes=[] data.eval.dataset.labels=l.txt",
        "label file is empty",
        files={"data/l.txt": "\n"},
    ),
    "voc_labels_twice": case(
        VOC + " -o data.eval.dataset.classes=[] data.eval.dataset.labels=l.txt",
        "more than once",
        files={"data/l.txt": "a\na\n"},
    ),
    "xml_empty": xml(b"", "no element found"),
    "xml_cut": xml("<annotation><object><name>di", "not well-formed"),
    "xml_binary": xml(bytes(range(256)), "not well-formed"),
    "xml_is_json": xml("{}", "not well-formed"),
    "xml_wrong_encoding": xml(
        '<?xml version="1.0" encoding="utf-8"?><annotation>\xe9</annotation>'.encode("latin-1"), "invalid token"
    ),
    "xml_unknown_encoding": xml('<?xml version="1.0" encoding="klingon"?><annotation/>', "encoding"),
    "xml_bomb": xml(BOMB, "declares a document type"),
    "xml_outside_entity": xml(OUTSIDE, "declares a document type"),
    "xml_missing": case(VOC, "im008.xml cannot be read: No such file", files={XML: None}),
    "xml_unreadable": case(VOC, "Permission denied", prepare=lambda: Path(XML).chmod(0)),
    "xml_box_missing": voc("<bndbox>", "<box>", "mismatched tag"),
    "xml_corner_missing": voc("<xmin>", "<xmin></xmin><x>".replace("<x>", "<xmin>"), "could not convert"),
    "xml_corner_text": voc("<ymax>", "<ymax>low ", "could not convert"),
    "xml_corner_nan": voc("<xmin>", "<xmin>nan</xmin><xmin>", "a box is not finite"),
    "xml_corner_infinite": voc("<xmax>", "<xmax>1e999</xmax><xmax>", "a box is not finite"),
    "xml_class_unknown": voc("<name>disc</name>", "<name>disk</name>", "'disk'", "disc"),
    "xml_class_empty": voc("<name>disc</name>", "<name> </name>", "class ''"),
    "xml_class_escapes": voc("<name>disc</name>", "<name>\u202edisc</name>", "is not among"),
    "xml_width_text": voc("<width>96", "<width>wide", "broken"),
    "xml_width_infinite": voc("<width>96", "<width>inf", "broken"),
    "xml_width_absurd": voc("<width>96", "<width>1e300", "broken"),
}

IMAGES = {
    "image_missing": case(VOC, "no such image", files={"data/JPEGImages/im008.jpg": None}),
    "image_empty": image(b"", "the file is empty"),
    "image_text": image("no image", "not an image"),
    "image_web_page": image("<!DOCTYPE html>", "not an image"),
    "image_of_noise": image(bytes(range(256)) * 20, "not an image"),
    "image_jpeg_cut": image(jpeg(16, 16)[:-9], "truncated"),
    "image_jpeg_header_only": image(b"\xff\xd8\xff\xe0", "im008"),
    "image_png_cut": image(png(96, 80)[:40], "truncated"),
    "image_png_without_data": image(png(96, 80), "decoded|not an image"),
    "image_png_0x0": image(png(0, 0), "decoded|not an image|pixels"),
    "image_png_huge": image(png(30_000, 30_000), "900000000 pixels"),
    "image_png_absurd": image(png(2**31 - 1, 2**31 - 1), "pixels"),
    "image_jpeg_huge": image(jpeg(65_500, 65_500), "pixels"),
    "image_bmp_huge": image(bmp(30_000, 30_000), "pixels"),
    "image_bmp_cut": image(bmp(96, 80), "im008"),
    "image_to_infer_missing": case(
        "infer -c run.yml --infer_img gone.jpg --output_dir out/x -o weights=model.safetensors",
        "no such image or folder",
    ),
    "image_to_infer_folder_empty": case(
        "infer -c run.yml --infer_img void --output_dir out/x -o weights=model.safetensors",
        "the data set is empty",
        prepare=lambda: Path("void").mkdir(),
    ),
    "image_to_infer_folder_unreadable": case(
        "infer -c run.yml --infer_img locked --output_dir out/x -o weights=model.safetensors",
        "Permission denied",
        prepare=locked(0),
    ),
    "image_to_infer_unreadable": case(
        "infer -c run.yml --infer_img data/JPEGImages/im000.jpg --output_dir out/x -o weights=model.safetensors",
        "Permission denied",
        prepare=lambda: Path("data/JPEGImages/im000.jpg").chmod(0),
    ),
    "image_to_infer_text": case(
        "infer -c run.yml --infer_img run.yml --output_dir out/x -o weights=model.safetensors", "not an image"
    ),
    "image_to_eval_broken": case(
        "eval -c run.yml -o weights=model.safetensors",
        "1 of 4 images cannot be used",
        files={"data/JPEGImages/im009.jpg": b"broken"},
    ),
    "images_to_train_all_broken": case(
        "train -c run.yml",
        "images cannot be used|none of its",
        files={f"data/JPEGImages/im00{i}.jpg": b"broken" for i in range(8)},
    ),
}

CASES = {**ANNOTATIONS, **IMAGES}
