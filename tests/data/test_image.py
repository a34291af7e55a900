"""Reading single images, folders of images, and resizing."""

import cv2
import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.data import ImageError, load_images, read_image
from slim_distill.data.image import header_size, resize
from tests.data.conftest import write_image


@pytest.fixture
def photo():
    """A smooth image that JPEG hardly changes."""
    y, x = np.mgrid[:40, :56]
    return np.stack((x * 4, y * 6, 255 - x * 4), axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg"])
def test_reads_rgb(tmp_path, photo, suffix):
    write_image(tmp_path / f"a.{suffix}", photo)
    tolerance = 12 if suffix == "jpg" else 0
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - photo).max() <= tolerance


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
def test_refuses_a_truncated_image(tmp_path, photo, suffix, share):
    path = tmp_path / f"a.{suffix}"
    write_image(path, photo)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"a\.{suffix}: (the image is truncated|not an image)"):
        read_image(path)


def test_accepts_bytes_after_the_end_mark_and_a_thumbnail_before_it(tmp_path, photo):
    small = cv2.imencode(".jpg", photo[:8, :8])[1].tobytes()
    data = cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes()
    thumbnail = b"\xff\xe3" + (len(small) + 2).to_bytes(2, "big") + small
    whole = data[:2] + thumbnail + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(whole + b"\0" * 30)
    assert read_image(path).shape == (40, 56, 3)
    path.write_bytes(whole[:-40])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "the file is empty"), (b"hello, I am text", "not an image"), (b"\xff\xd8\xff\xd9", "not an image|decoded")],
)
def test_refuses_what_is_no_image(tmp_path, data, message):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        read_image(tmp_path / "a.jpg")
    assert caught.value.file == str(tmp_path / "a.jpg")


def test_refuses_a_missing_image(tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg: No such file"):
        read_image(tmp_path / "none.jpg")


def test_lists_a_folder_in_order_of_names(tmp_path, photo):
    for name in ("b.JPG", "a.png", "c.jpeg"):
        write_image(tmp_path / name, photo)
    (tmp_path / "notes.txt").write_text("x")
    data = load_images(tmp_path, classes=("x",))
    assert [r["im_file"].rsplit("/", 1)[1] for r in data.records] == ["a.png", "b.JPG", "c.jpeg"]
    assert [r["im_id"].item() for r in data.records] == [0, 1, 2]
    assert data.classes == ("x",)
    assert len(load_images(tmp_path, "a.png")) == 1
    assert len(load_images(tmp_path, sample_num=2)) == 2


def test_refuses_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="the data set is empty"):
        load_images(tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such image or folder"):
        load_images(tmp_path, "nowhere")


def test_resize_leaves_opencv_as_it_was(photo):
    if not hasattr(cv2, "ipp"):
        pytest.skip("this OpenCV has no switch for IPP")
    before = cv2.ipp.useIPP()
    assert resize(photo, 20, 30, cv2.INTER_CUBIC).shape == (30, 20, 3)
    assert cv2.ipp.useIPP() == before


def _grey(bits: int) -> np.ndarray:
    ramp = np.linspace(0, 2**bits - 1, 64 * 32).reshape(32, 64)
    return ramp.astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_and_16_bit_images_become_8_bit_rgb(tmp_path, bits):
    grey = _grey(bits)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", grey)[1].tobytes())
    found = read_image(tmp_path / "a.png")
    assert found.dtype == np.uint8
    assert found.shape == (32, 64, 3)
    assert np.abs(found[:, :, 1].astype(int) - (grey >> (bits - 8))).max() <= 1


def test_cmyk_and_animated_images_are_read_as_pictures(tmp_path):
    pictures = pytest.importorskip("PIL.Image", reason="Pillow writes these; it comes with Paddle")
    first, second = (pictures.new("RGB", (64, 32), colour) for colour in ((200, 30, 30), (0, 0, 255)))
    first.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    first.save(tmp_path / "animated.gif", save_all=True, append_images=[second])
    for name in ("cmyk.jpg", "animated.gif"):
        found = read_image(tmp_path / name)
        assert found.shape == (32, 64, 3)
        assert np.abs(found.reshape(-1, 3).mean(0) - (200, 30, 30)).max() < 12, name


def test_a_size_that_would_take_the_memory_is_refused_before_decoding(tmp_path):
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    data[16:24] = (20_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ImageError, match="20000 x 20000 = 400000000 pixels; more than 268435456 are not decoded"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_the_size_in_a_header_is_the_size_of_the_image(suffix):
    data = cv2.imencode(suffix, np.zeros((30, 50, 3), np.uint8))[1].tobytes()
    assert header_size(data) == (50, 30)
