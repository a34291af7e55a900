"""Anti-aliased text on RGB arrays, with the font that matplotlib ships."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font

__all__ = ["Text", "blend"]

Colour = tuple[int, int, int]


class Text:
    """Letters of one size.

    Args:
        size_px: height of the letters from the highest to the lowest, about 1.2 times the em size.
        bold: heavier letters.
    """

    def __init__(self, size_px: int, *, bold: bool = False) -> None:
        name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
        self._font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name))
        self._font.set_size(size_px / 1.2, 72)
        self._known = self._font.get_charmap()
        self._ascent = round(size_px * self._font.ascender / (self._font.ascender - self._font.descender))
        self.line_px = size_px

    def coverage(self, text: str) -> np.ndarray:
        """Return [H, W] uint8: how much of each pixel the letters cover, 255 for all of it.

        H is `line_px` for each line of `text`, so that pieces with and without descenders stand on one line. A
        character that the font does not have becomes "?".
        """
        lines = [self._line(line) for line in text.split("\n")]
        width = max(line.shape[1] for line in lines)
        return np.vstack([np.pad(line, ((0, 0), (0, width - line.shape[1]))) for line in lines])

    def _line(self, text: str) -> np.ndarray:
        text = "".join(c if ord(c) in self._known else "?" for c in text)
        if not text.strip():
            return np.zeros((self.line_px, 0), np.uint8)
        self._font.set_text(text, 0.0)
        self._font.draw_glyphs_to_bitmap(antialiased=True)
        glyphs = np.array(self._font.get_image(), dtype=np.uint8)
        above = glyphs.shape[0] - round(self._font.get_descent() / 64)
        top = max(self._ascent - above, 0)
        line = np.zeros((max(self.line_px, top + glyphs.shape[0]), glyphs.shape[1]), np.uint8)
        line[top : top + glyphs.shape[0]] = glyphs
        return line[: self.line_px]


def blend(image: np.ndarray, coverage: np.ndarray, x: int, y: int, colour: Colour) -> None:
    """Paint `colour` through `coverage` [h, w] uint8 onto `image` [H, W, 3] uint8, corner at (x, y)."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + coverage.shape[1], image.shape[1]), min(y + coverage.shape[0], image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    share = coverage[y0 - y : y1 - y, x0 - x : x1 - x, None].astype(np.float32) / 255.0
    under = image[y0:y1, x0:x1].astype(np.float32)
    image[y0:y1, x0:x1] = np.rint(under * (1 - share) + np.asarray(colour, np.float32) * share).astype(np.uint8)
