"""Data sets in the layout of PASCAL VOC: a list file, and one XML annotation an image."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder
from xml.parsers import expat

from slim_distill.common.errors import DataError
from slim_distill.data.dataset import Dataset, Record, make_dataset, make_record, missing, read_lines
from slim_distill.data.image import MAX_SIDE_PX, ImageError, find_image, read_image
from slim_distill.data.labels import class_number, read_labels

__all__ = ["load_voc", "parse_xml"]


def load_voc(
    root: str | Path,
    annotations: str,
    *,
    images: str = "",
    labels: str = "",
    classes: Sequence[str] = (),
    sample_num: int = -1,
    max_bad_share: float = 0.1,
) -> Dataset:
    """Read a data set listed in a text file.

    A line is either "image.jpg annotation.xml", both relative to `root`/`images` as PaddleDetection's VOCDataSet has
    it, or a bare image id: then the image is `root`/`images`/id.* (`images` is JPEGImages by default) and its
    annotation Annotations/id.xml beside that folder. Image ids of the records count from 0 in order of the list.

    Boxes are clipped to [0, w - 1] x [0, h - 1] and left out when no width or height remains.

    Args:
        root: folder of the data set.
        annotations: the list file, relative to `root`.
        images: folder that the lines are relative to, itself relative to `root`.
        labels: "voc", "coco" or a label file; when neither this nor `classes` is given, `root`/label_list.txt.
        classes: the class names.
        sample_num: use only the first so many images, -1 for all.
        max_bad_share: largest share of images that may be missing or have a broken annotation.

    Raises:
        DataError: missing list or labels, unknown class, too many broken images, no image at all.
    """
    root = Path(root)
    listing = root / annotations
    if not listing.is_file():
        raise missing(listing, "list file", f"a VOC data set with list, images and annotations is expected at {root}")
    names = read_labels(labels or ("" if classes else "label_list.txt"), classes, root)
    return make_dataset(_collect(listing, _listed(listing, root, images), names, sample_num, max_bad_share))


def parse_xml(data: bytes) -> Element:
    """Parse XML without a document type, so that no entity can be declared (they can expand without bound).

    Raises:
        ValueError: not well-formed, or it has a document type declaration.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ParseError, AssertionError, LookupError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"not well-formed XML: {error}") from error


class _BrokenAnnotationError(DataError):
    """One annotation cannot be used; its image is skipped and counted."""


def _refuse_doctype(name: str, *_: object) -> None:
    raise ValueError(f"it declares a document type ({name}); annotations need none, and its entities could be a bomb")


def _listed(listing: Path, root: Path, images: str) -> Iterator[tuple[Path, Path]]:
    for line in read_lines(listing):
        words = line.split()
        if len(words) >= 2 and words[1].lower().endswith(".xml"):
            yield root / images / words[0], root / images / words[1]
        else:  # a bare id; the lists of VOC's ImageSets put 1, 0 or -1 after it
            folder = root / (images or "JPEGImages")
            yield find_image(folder / words[0]), folder.parent / "Annotations" / f"{words[0]}.xml"


def _collect(
    listing: Path, pairs: Iterator[tuple[Path, Path]], names: tuple[str, ...], sample_num: int, max_bad_share: float
) -> Dataset:
    numbers = {name: i for i, name in enumerate(names)}
    records: list[Record] = []
    skipped: dict[str, str] = {}
    dropped = clipped = 0
    for image, annotation in pairs:
        if 0 <= sample_num <= len(records):
            break
        if not image.is_file():
            skipped[str(image)] = "no such image"
            continue
        try:
            h, w, found = _read_annotation(annotation, image, numbers)
        except ImageError as error:
            skipped[str(image)] = error.reason
            continue
        except _BrokenAnnotationError as error:
            skipped[str(image)] = str(error)
            continue
        kept = []
        for x1, y1, x2, y2, *rest in found:
            box = (max(0.0, x1), max(0.0, y1), min(w - 1.0, x2), min(h - 1.0, y2))
            clipped += box != (x1, y1, x2, y2)
            if box[2] > box[0] and box[3] > box[1]:
                kept.append((*box, *rest))
        dropped += len(found) - len(kept)
        records.append(make_record(len(records), image, h, w, kept))
    category_ids = tuple(range(1, len(names) + 1))
    return Dataset(names, records, category_ids, listing, skipped, dropped, clipped, max_bad_share)


def _read_annotation(path: Path, image: Path, numbers: dict[str, int]) -> tuple[int, int, list[tuple[float, ...]]]:
    """Return height, width and the objects (x1, y1, x2, y2, class number, crowd 0, difficult), unclipped."""
    try:
        tree = parse_xml(path.read_bytes())
        objects = []
        for item in tree.iterfind("object"):
            corners = [float(item.findtext(f"bndbox/{key}", "")) for key in ("xmin", "ymin", "xmax", "ymax")]
            if not all(map(math.isfinite, corners)):
                raise ValueError(f"a box is not finite: {corners}")
            number = class_number(item.findtext("name", "").strip(), numbers, path)
            objects.append((*corners, number, 0, item.findtext("difficult", "0").strip() == "1"))
        sizes = [float(tree.findtext(f"size/{key}", "0") or 0) for key in ("width", "height")]
        if not all(size <= MAX_SIDE_PX for size in sizes):
            raise ValueError(f"its size is {sizes[0]:g} x {sizes[1]:g} pixels")
        w, h = map(int, sizes)
    except OSError as error:
        raise _BrokenAnnotationError(f"its annotation {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _BrokenAnnotationError(f"its annotation {path} is broken: {error}") from error
    if w <= 0 or h <= 0:  # some annotation tools leave the size out
        h, w = read_image(image).shape[:2]
    return h, w, objects
