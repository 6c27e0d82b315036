"""The sheet of prototype cards: one row a prototype."""

from pathlib import Path

import numpy as np

from analysis.drawing.figures import save_figure
from analysis.drawing.sheet import Sheet
from analysis.measures.cards import EDITS, PATCHES

MARGIN = 4  # pixels of surroundings around a training patch


def surroundings(pixels: np.ndarray, box, margin: int = MARGIN) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """A patch with `margin` pixels around it, and its box in that crop."""
    top, left, bottom, right = (int(v) for v in box)
    a, b = max(top - margin, 0), max(left - margin, 0)
    crop = pixels[a : bottom + margin, b : right + margin]
    return crop, (top - a, left - b, bottom - a, right - b)


def draw_cards(cards: dict, texts: list[str], path: Path) -> list[Path]:
    """cards: arrays of one entry a prototype (analysis/measures/cards.py); texts: what stands at the left of each
    row."""
    patches = [f"training patch {i + 1}" for i in range(PATCHES)]
    titles = ["expected, high", "expected, low", "where", *patches, *["test image", "raised"] * EDITS]
    sheet = Sheet(texts, titles, side=1.0, notes=True, size=6)
    for line in range(len(texts)):
        sheet.picture(line, 0, cards["expected_high"][line])
        sheet.picture(line, 1, cards["expected_low"][line])
        sheet.heat(line, 2, cards["where"][line])
        names, images, boxes = (cards[f"patch_{key}"][line] for key in ("ids", "images", "boxes"))
        for i, (name, image, box) in enumerate(zip(names[:PATCHES], images, boxes)):
            sheet.picture(line, 3 + i, *surroundings(image, box), note=str(name)[-20:])
        for i in range(min(EDITS, len(cards["before"][line]))):
            column, scores = 3 + PATCHES + 2 * i, [cards[f"score_{end}"][line][i] for end in ("before", "after")]
            sheet.picture(line, column, cards["before"][line][i], note=f"s {scores[0]:.2f}")
            box = cards["edit_boxes"][line][i]
            sheet.picture(line, column + 1, cards["after"][line][i], box, note=f"s {scores[1]:.2f}")
    return save_figure(sheet.figure, path)
