"""The figure of faithfulness: bars of the measures, and the maps of prototypes above the true regions."""

from pathlib import Path

import numpy as np

from analysis.drawing.figures import heat, plt, save_figure
from analysis.drawing.sheet import picture_rows


def draw(result, null, maps_and_pairs, path: Path) -> list[Path]:
    """Left: bars of the main measures, an attribute each, the null as a line; below them the map of each
    prototype, above the true region."""
    shown = ("single", "pair", "hit", "region", "appears", "side", "effectiveness")
    columns = [c for c in shown if c in result and result[c].notna().any()]
    maps, pairs = maps_and_pairs
    lines = 2 if pairs else 0
    size = max(1.3 * len(result) + 1.5, 5.0), 3.4 + 1.4 * lines
    figure = plt.figure(figsize=size, layout="constrained")
    rows = figure.add_gridspec(1 + lines, len(result), height_ratios=[3, *[1.4] * lines])
    bars = figure.add_subplot(rows[0, :])
    width = 0.8 / len(columns)
    for i, column in enumerate(columns):
        at = np.arange(len(result)) + (i - len(columns) / 2 + 0.5) * width
        bars.bar(
            at,
            result[column].to_numpy(float),
            width,
            color=f"C{i}",
            label=f"{column} (random {null.get(column, np.nan):.2f})",
        )
    bars.set_xticks(
        range(len(result)), [f"{n}\nprototype {k}" for n, k in zip(result.index, result["prototype"])], fontsize=7
    )
    least, most = float(result[columns].min().min()), float(result[columns].max().max())
    bars.set_ylim(min(0.0, least), max(1.0, most))
    figure.legend(fontsize=7, ncols=min(len(columns), int(size[0] / 1.6)), loc="outside upper center", frameon=False)
    for i, name in enumerate(result.index if lines else []):
        for line, (values, label) in enumerate(((maps[i], "its map"), (pairs[name].region.mean(0), "true region"))):
            axis = figure.add_subplot(rows[1 + line, i])
            heat(axis, values)
            if i == 0:
                axis.set_ylabel(label, fontsize=7)
    return save_figure(figure, path)


def draw_before_after(rows: list, path: Path) -> list[Path]:
    """rows: (title, images before, images after), uint8 (n, H, W, C) each; two lines of pictures a row, before above
    after."""
    lines = [images for _, before, after in rows for images in (before, after)]
    labels = [label for title, _, _ in rows for label in ("before", title)]
    return save_figure(picture_rows(lines, labels, side=0.75).figure, path)
