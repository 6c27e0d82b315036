"""A grid of pictures in one axes: an axes a picture takes several times as long to lay out, draw and save."""

import numpy as np
from matplotlib.patches import Rectangle

from analysis.drawing.figures import Box, plt

GAP = 0.07  # inches between pictures
LETTER = 0.6  # mean width of a letter, of its size
LINE = 1.25  # height of a line, of its size


def inches(text: str, size: float) -> tuple[float, float]:
    """Width and height of lines of text."""
    lines = text.split("\n") if text else []
    return max(map(len, lines), default=0) * LETTER * size / 72, len(lines) * LINE * size / 72


class Sheet:
    """Rows of pictures with a label at the left of each row and a title above each column, '' for none.

    labels: one a row; titles: one a column; side: of a cell in inches, into which each picture is fitted; notes:
    there is room for a line below each picture; heading: above all; size: of labels, titles and notes in points.
    """

    def __init__(self, labels, titles, *, side: float = 1.25, notes: bool = False, heading: str = "", size: float = 7):
        self.side, self.size = side, size
        self.left = GAP + max(inches(label, size)[0] for label in labels) + GAP
        self.pitch = side + GAP + (LINE * size / 72 if notes else 0)  # from row to row
        above = inches(heading, size + 1)[1]
        self.top = GAP + above + max(inches(title, size)[1] for title in titles) + GAP
        width = max(self.left + len(titles) * (side + GAP), inches(heading, size + 1)[0] + 2 * GAP)
        height = self.top + len(labels) * self.pitch
        self.figure = plt.figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")
        self._places: dict[tuple[int, int], tuple[float, float, float]] = {}  # left, top, inches a pixel
        for row, label in enumerate(labels):
            self._text(self.left - GAP, self.top + row * self.pitch + side / 2, label, "right", "center")
        for column, title in enumerate(titles):
            self._text(self._middle(column), self.top - GAP / 2, title, "center", "bottom")
        self._text(width / 2, GAP, heading, "center", "top", size + 1)

    def _middle(self, column: int) -> float:
        return self.left + column * (self.side + GAP) + self.side / 2

    def _text(self, x: float, y: float, text: str, across: str, down: str, size: float | None = None) -> None:
        if text:
            self.axes.text(x, y, text, ha=across, va=down, fontsize=size or self.size)

    def _image(self, row: int, column: int, values: np.ndarray, **look) -> None:
        height, width = values.shape[:2]
        scale = self.side / max(height, width)
        left = self._middle(column) - scale * width / 2
        top = self.top + row * self.pitch + (self.side - scale * height) / 2
        self._places[row, column] = (left, top, scale)
        extent = (left, left + scale * width, top + scale * height, top)
        self.axes.imshow(values, extent=extent, aspect="auto", interpolation="nearest", **look)

    def picture(self, row: int, column: int, pixels: np.ndarray, box: Box | None = None, note: str = "") -> None:
        """uint8 (H, W, C), with a box around a patch and a note below."""
        self._image(row, column, pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
        if box is not None:
            self.box(row, column, box)
        self._text(self._middle(column), self.top + row * self.pitch + self.side, note, "center", "top")

    def heat(self, row: int, column: int, values: np.ndarray, limit: float | None = None) -> None:
        """A map (H, W) of values >= 0 in colours, from 0 to `limit` (default: its maximum)."""
        self._image(row, column, values, cmap="inferno", vmin=0, vmax=limit)

    def box(self, row: int, column: int, box: Box, colour: str = "red") -> None:
        """Around a patch of the picture that is there."""
        left, top, scale = self._places[row, column]
        up, near, down, far = (scale * int(v) for v in box)
        place = (left + near, top + up), far - near, down - up
        self.axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=1.5))


def picture_rows(rows: list[np.ndarray], labels: list[str], titles: list[str] | None = None, **options) -> Sheet:
    """Rows of uint8 images (n, H, W, C), each with a label on its left, and titles above the first."""
    sheet = Sheet(labels, titles or [""] * max(map(len, rows)), **options)
    for line, images in enumerate(rows):
        for column, pixels in enumerate(images):
            sheet.picture(line, column, pixels)
    return sheet
