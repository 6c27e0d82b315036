"""The picture of a tie: what its two units say and where their first prototypes were learnt, the four corner cases, and
images in which the one is given."""

from typing import NamedTuple

import numpy as np

from analysis.drawing.cards import surroundings
from analysis.drawing.figures import panel, panels, save_figure
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
    figure, axes = panels(2 + len(cases) + len(generated), COLUMNS, side=1.1)
    for axis in axes.flat:
        axis.axis("off")

    def fill(line: int, label: str, pictures, boxes=(), titles=()) -> None:
        for axis, picture, box, heading in zip(axes[line], pictures, [*boxes, *[None] * COLUMNS], [*titles, *[""] * 6]):
            axis.axis("on")
            panel(axis, picture, heading, box)
        axes[line, 0].text(-0.08, 0.5, label, fontsize=7, ha="right", va="center", transform=axes[line, 0].transAxes)

    for line, card in enumerate((a, b)):
        crops = [surroundings(image, box) for image, box in zip(card.images, card.boxes)][: COLUMNS - 2]
        titles = ("expected, low", "expected, high", "best patches") if line == 0 else ()
        boxes = [None, None, *(box for _, box in crops)]
        fill(line, f"prototype {card.number}", [*card.expected, *(crop for crop, _ in crops)], boxes, titles)
    for line, case in enumerate(cases, start=2):
        label = f"{a.number} {WORDS[case.high_a]}, {b.number} {WORDS[case.high_b]}:\n{case.count} images"
        fill(line, label, [pixels[i] for i in case.nearest[:COLUMNS]])
    for end, images in enumerate(generated):
        fill(2 + len(cases) + end, f"generated,\n{a.number} {WORDS[end]}", images[:COLUMNS])
    figure.suptitle(title, fontsize=8)
    return save_figure(figure, path)
