"""The pictures of a diagnosis: the matrix of effects, and the edits of the shortcuts found."""

import numpy as np
from matplotlib.patches import Rectangle

from analysis.drawing.figures import cut, plt, save_figure
from analysis.drawing.sheet import Sheet
from analysis.measures.shortcuts import Example


def draw_matrix(table, names, path):
    """Effects of raising A (rows) on B (columns): by edits and in generation; shortcuts are framed."""
    side = max(3.2, 0.42 * len(names))
    figure, axes = plt.subplots(1, 2, figsize=(2 * side + 1.5, side + 0.6), layout="constrained")
    for axis, column, title in zip(
        axes, ("edit", "generated"), ("edits of A's prototypes", "generation from real scores")
    ):
        values = np.full((len(names), len(names)), np.nan)
        for row in table.itertuples():
            i, j = names.index(row.raised), names.index(row.moved)
            values[i, j] = getattr(row, column)
            axis.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center", fontsize=5)
            if row.shortcut:
                axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2))
        bar = axis.imshow(values, cmap="RdBu_r", vmin=-0.6, vmax=0.6)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("B, moved", fontsize=8)
    axes[0].set_ylabel("A, raised", fontsize=8)
    figure.colorbar(bar, ax=axes, shrink=0.8, label="share of B's class gap")
    return save_figure(figure, path)


def draw_edits(examples: list[Example], path):
    """The paper's figure, a block of lines an attribute: original, its own scores, the attribute lowered and raised,
    with its best prototype boxed, and the patch."""
    labels = [
        f"{example.attribute}\n{example.moved}\nprototype {example.prototype}"
        for example in examples
        for _ in example.boxes
    ]
    sheet, line = Sheet(labels, ["original", "own scores", "lowered", "raised", "patch"], side=1.1), 0
    for example in examples:
        images = (example.original, example.own, example.lowered, example.raised)
        for row, box in enumerate(example.boxes):
            for column, pixels in enumerate(images):
                sheet.picture(line, column, pixels[row])
            sheet.box(line, 3, box)
            sheet.picture(line, 4, cut(example.raised[row], box))
            line += 1
    return save_figure(sheet.figure, path)
