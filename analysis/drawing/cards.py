"""The sheet of prototype cards: one row a prototype."""

from pathlib import Path

import numpy as np

from analysis.drawing.figures import add_box, heat, panel, plt, save_figure
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
    columns, rows = 3 + PATCHES + 2 * EDITS, len(texts)
    widths = [1.7, *[1] * columns]
    figure, axes = plt.subplots(
        rows,
        columns + 1,
        figsize=(0.95 * sum(widths), 1.12 * rows + 0.5),
        squeeze=False,
        layout="constrained",
        width_ratios=widths,
    )
    titles = [
        "expected, high",
        "expected, low",
        "where",
        *[f"training patch {i + 1}" for i in range(PATCHES)],
        *["test image", "raised"] * EDITS,
    ]
    for line in range(rows):
        axes[line, 0].axis("off")
        axes[line, 0].text(0, 0.5, texts[line], fontsize=6.5, va="center", transform=axes[line, 0].transAxes)
        row = axes[line, 1:]
        panel(row[0], cards["expected_high"][line])
        panel(row[1], cards["expected_low"][line])
        heat(row[2], cards["where"][line])
        for i in range(PATCHES):
            if i < len(cards["patch_images"][line]):
                crop, box = surroundings(cards["patch_images"][line][i], cards["patch_boxes"][line][i])
                panel(row[3 + i], crop, box=box)
                row[3 + i].set_xlabel(str(cards["patch_ids"][line][i])[-12:], fontsize=4.5, labelpad=1)
            else:
                row[3 + i].axis("off")
        for i in range(EDITS):
            before, after = row[3 + PATCHES + 2 * i], row[4 + PATCHES + 2 * i]
            if i < len(cards["before"][line]):
                panel(before, cards["before"][line][i])
                panel(after, cards["after"][line][i])
                add_box(after, cards["edit_boxes"][line][i])
                before.set_xlabel(f"s {cards['score_before'][line][i]:.2f}", fontsize=5, labelpad=1)
                after.set_xlabel(f"s {cards['score_after'][line][i]:.2f}", fontsize=5, labelpad=1)
            else:
                before.axis("off")
                after.axis("off")
    for axis, title in zip(axes[0, 1:], titles):
        axis.set_title(title, fontsize=6)
    return save_figure(figure, path)
