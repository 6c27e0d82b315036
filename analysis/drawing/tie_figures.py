"""The picture of a tie: what its two units say and where their first prototypes were learnt, the four corner cases, and
images in which the one is given."""

from typing import NamedTuple

import numpy as np

from analysis.drawing.cards import surroundings
from analysis.drawing.figures import save_figure
from analysis.drawing.sheet import Sheet
from analysis.measures.ties import Corner

COLUMNS = 6  # pictures a row
WORDS = ("low", "high")


class Card(NamedTuple):
    """What is shown of a unit."""

    number: int  # its first prototype
    expected: np.ndarray  # uint8 (2, H, W, C): the image expected at the low and at the high end of its axis
    images: np.ndarray  # uint8 (n, H, W, C): training images that match the first prototype best
    boxes: np.ndarray  # (n, 4): where


def draw_tie(a: Card, b: Card, cases: list[Corner], pixels: np.ndarray, generated: np.ndarray, title: str, path):
    """pixels: the training images that the cases number; generated: uint8 (2, n, H, W, C), from where a's
    unit alone is low and high."""
    corners = [f"{a.number} {WORDS[c.high_a]}, {b.number} {WORDS[c.high_b]}:\n{c.count} images" for c in cases]
    ends = [f"generated,\n{a.number} {word}" for word in WORDS[: len(generated)]]
    labels = [f"prototype {a.number}", f"prototype {b.number}", *corners, *ends]
    titles = ["expected, low", "expected, high", "best patches", *[""] * (COLUMNS - 3)]
    sheet = Sheet(labels, titles, side=1.1, heading=title)
    for line, card in enumerate((a, b)):
        for column, picture in enumerate(card.expected):
            sheet.picture(line, column, picture)
        for column, (image, box) in enumerate(zip(card.images[: COLUMNS - 2], card.boxes), start=2):
            sheet.picture(line, column, *surroundings(image, box))
    for line, images in enumerate([*([pixels[i] for i in case.nearest] for case in cases), *generated], start=2):
        for column, picture in enumerate(images[:COLUMNS]):
            sheet.picture(line, column, picture)
    return save_figure(sheet.figure, path)
