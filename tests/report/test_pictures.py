"""Boxes, sheets and PNG files."""

import cv2
import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.report import class_colour, draw_boxes, encode_png, save_png, sheet
from slim_distill.report._text import Text, blend

GREY = 90
CLASSES = ("cell", "dust")


@pytest.fixture
def image():
    return np.full((300, 400, 3), GREY, np.uint8)


def colour_at(picture, x, y):
    return tuple(picture[y, x].tolist())


def test_edges_have_the_colour_of_the_class_and_the_inside_is_untouched(image):
    picture = draw_boxes(image, np.array([[1, 0.9, 100, 80, 199, 219]]), CLASSES, min_side_px=0)
    for x, y in [(100, 150), (199, 150), (101, 150), (150, 219), (150, 218), (199, 219), (100, 219)]:
        assert colour_at(picture, x, y) == class_colour(1), (x, y)
    for x, y in [(99, 150), (200, 150), (150, 220)]:
        assert colour_at(picture, x, y) == (GREY // 2,) * 3, (x, y)  # the dim rim
    assert (picture[85:215, 105:195] == GREY).all()
    assert (picture[222:, :] == GREY).all()
    assert (picture[:, 202:] == GREY).all()


def test_label_stands_above_the_box_in_the_colour_of_the_class(image):
    picture = draw_boxes(image, np.array([[0, 0.9, 100, 80, 199, 219]]), CLASSES, min_side_px=0)
    tag = picture[67:79, 100:140].reshape(-1, 3)
    assert (tag == class_colour(0)).all(axis=1).mean() > 0.4
    assert (tag.min(axis=1) > 200).any()  # white letters
    shades = np.unique(tag, axis=0)
    assert len(shades) > 5  # anti-aliased


def test_label_of_a_box_at_the_top_stands_inside(image):
    picture = draw_boxes(image, np.array([[0, 0.9, 100, 0, 199, 219]]), CLASSES, min_side_px=0)
    assert (picture[1:12, 100:140] == class_colour(0)).all(axis=2).mean() > 0.4


def test_labels_keep_clear_of_each_other(image):
    two = np.array([[0, 0.9, 100, 80, 199, 219], [1, 0.8, 102, 82, 201, 221]])
    both = draw_boxes(image, two, CLASSES, min_side_px=0)
    tag = draw_boxes(image, two[:1], CLASSES, min_side_px=0)[60:79, 100:150]
    np.testing.assert_array_equal(both[60:79, 100:150], tag)


def test_boxes_under_the_threshold_are_not_shown(image):
    dets = np.array([[0, 0.49, 100, 80, 199, 219]])
    np.testing.assert_array_equal(draw_boxes(image, dets, CLASSES, 0.5, min_side_px=0), image)
    assert (draw_boxes(image, dets, CLASSES, 0.49, min_side_px=0) != image).any()


def test_the_image_given_is_left_alone_and_boxes_outside_it_are_cut(image):
    before = image.copy()
    picture = draw_boxes(image, np.array([[0, 0.9, -50, -50, 900, 900]]), CLASSES, min_side_px=0)
    np.testing.assert_array_equal(image, before)
    assert colour_at(picture, 0, 150) == colour_at(picture, 399, 150) == class_colour(0)
    assert colour_at(picture, 150, 299) == class_colour(0)
    draw_boxes(image, np.array([[0, 0.9, 500, 500, 600, 600], [0, 0.9, 50, 50, 20, 20]]), CLASSES)


def test_small_images_are_enlarged_with_their_boxes():
    small = np.full((40, 60, 3), GREY, np.uint8)
    picture = draw_boxes(small, np.array([[1, 0.9, 10, 20, 29, 39]]), CLASSES, min_side_px=480)
    assert picture.shape == (320, 480, 3)
    assert colour_at(picture, 80, 240) == colour_at(picture, 239, 240) == class_colour(1)
    assert colour_at(picture, 160, 319) == class_colour(1)
    assert colour_at(picture, 241, 240) == (GREY,) * 3


def test_no_detections_give_the_image(image):
    np.testing.assert_array_equal(draw_boxes(image, np.zeros((0, 6)), CLASSES, min_side_px=0), image)


def test_colours_of_classes_differ():
    colours = [class_colour(k) for k in range(80)]
    assert len(set(colours)) == 80
    first = np.array(colours[:12], float)
    gaps = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e9 * np.eye(12)
    assert gaps.min() > 60


@pytest.mark.parametrize(
    ("picture", "dets", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), [], r"image is float32 \(4, 4, 3\); uint8 \[H, W, 3\]"),
        (np.zeros((4, 4), np.uint8), [], r"image is uint8 \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), [], "has no pixels"),
        (np.zeros((9, 9, 3), np.uint8), [[1, 2, 3, 4, 5]], r"dets \(1, 5\); finite \[K, 6\]"),
        (np.zeros((9, 9, 3), np.uint8), [[0, 0.9, 1, 1, np.nan, 5]], r"dets \(1, 6\); finite"),
        (np.zeros((9, 9, 3), np.uint8), [[2, 0.9, 1, 1, 3, 5]], "detections of classes 2, but 2 class names"),
    ],
)
def test_draw_boxes_refuses(picture, dets, message):
    with pytest.raises(DataError, match=message):
        draw_boxes(picture, np.array(dets, float), CLASSES)


def solid(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_sheet_places_each_image_in_its_cell():
    page = sheet([[solid(50, 100, 10), solid(50, 100, 20)], [solid(50, 100, 30), None]], cell_px=200)
    gap = 6
    assert page.shape == (100 * 2 + 3 * gap, 200 * 2 + 3 * gap, 3)
    assert (page[gap : gap + 100, gap : gap + 200] == 10).all()
    assert (page[gap : gap + 100, 2 * gap + 200 : 2 * gap + 400] == 20).all()
    assert (page[2 * gap + 100 : 2 * gap + 200, gap : gap + 200] == 30).all()
    assert (page[2 * gap + 100 :, 2 * gap + 200 :] == 255).all()


def test_sheet_keeps_the_shape_of_images():
    page = sheet([[solid(100, 50, 10), solid(50, 100, 20)]], cell_px=100)
    tall, wide = (page == 10).all(axis=2), (page == 20).all(axis=2)
    assert (tall.any(axis=1).sum(), tall.any(axis=0).sum()) == (100, 50)
    assert (wide.any(axis=1).sum(), wide.any(axis=0).sum()) == (50, 100)


def test_sheet_titles_make_room_for_themselves():
    rows = [[solid(60, 60, 10), solid(60, 60, 20)]]
    plain = sheet(rows, cell_px=120)
    titled = sheet(rows, cell_px=120, row_titles=["first\nrow"], column_titles=["left", "right"], title="All")
    assert titled.shape[0] > plain.shape[0]
    assert titled.shape[1] > plain.shape[1]
    first = np.argwhere((titled == 10).all(axis=2))
    top, left = first.min(axis=0)
    assert (titled[:top] < 128).any()  # title and column titles
    assert (titled[top:, :left] < 128).any()  # row title
    assert len(first) == 120 * 120


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, r"rows of \[\] images"),
        ([[None]], {}, r"rows of \[1\] images"),
        ([[solid(4, 4, 0)], []], {}, r"rows of \[1, 0\] images"),
        ([[solid(4, 4, 0)]], {"row_titles": ["a", "b"]}, "2 row titles for 1 rows"),
        ([[solid(4, 4, 0)]], {"column_titles": ["a", "b"]}, "2 column titles for 1 columns"),
        ([[np.zeros((4, 4, 4), np.uint8)]], {}, r"image is uint8 \(4, 4, 4\)"),
    ],
)
def test_sheet_refuses(rows, options, message):
    with pytest.raises(DataError, match=message):
        sheet(rows, **options)


def test_png_holds_the_pixels(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = save_png(tmp_path / "new" / "a.png", picture)
    read = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]
    np.testing.assert_array_equal(read, picture)
    assert path.read_bytes() == encode_png(picture)


def test_png_into_a_file_instead_of_a_folder_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*taken/a\.png"):
        save_png(tmp_path / "taken" / "a.png", solid(4, 4, 0))


def test_text_has_one_height_and_one_base_line():
    text = Text(20)
    bottoms = {}
    for piece in ("H", "x", "Hg"):
        coverage = text.coverage(piece)
        assert coverage.shape[0] == 20
        bottoms[piece] = np.flatnonzero(coverage.any(axis=1)).max()
    assert bottoms["H"] == bottoms["x"] < bottoms["Hg"]  # g hangs below the line


def test_text_of_unknown_characters_and_none_at_all():
    text = Text(20)
    np.testing.assert_array_equal(text.coverage("漢"), text.coverage("?"))
    assert text.coverage("").shape == (20, 0)
    assert text.coverage("a\nb").shape[0] == 40


def test_blend_mixes_by_coverage_and_is_cut_at_the_border():
    canvas = np.zeros((4, 4, 3), np.uint8)
    blend(canvas, np.full((2, 2), 51, np.uint8), 3, -1, (250, 100, 0))
    assert colour_at(canvas, 3, 0) == (50, 20, 0)
    assert canvas.sum() == 70
    blend(canvas, np.full((2, 2), 51, np.uint8), 9, 9, (250, 100, 0))
    assert canvas.sum() == 70
