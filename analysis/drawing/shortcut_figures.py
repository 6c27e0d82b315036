"""The pictures of a diagnosis: the matrix of effects, and the edits of the shortcuts found."""

import numpy as np

from analysis.drawing.figures import Rectangle, cut, panel, panels, plt, save_figure
from analysis.measures.shortcuts import as_tensor
from analysis.schemas import EDITS
from train.images import to_uint8

THREE = 3  # edits told of in a report
ROWS = 4  # images in the figure of each shortcut


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


def draw_edits(run, edits, pixels, pairs, gaps, tops, strength, path):
    """The paper's figure: original, its own scores, A lowered and raised by its class gap, with the best prototype of A
    boxed and its patch.

    Shown are the images that moved most: strength[A, B] (n,) tells by how much. Beside the figure lies an .npz: THREE
    of them for each attribute `raised`, pictures (R, THREE, 3, H, W, C), each as it is, lowered and raised.
    """
    raised = list(dict.fromkeys(row.raised for row in pairs))
    figure, axes = panels(ROWS * len(raised), 5, side=1.1)
    pictures = []
    for block, name in enumerate(raised):
        gap, k = as_tensor(gaps[name], edits.encoding.scores), tops[name]
        first = next(row for row in pairs if row.raised == name)
        chosen = np.argsort(-strength[first.raised, first.moved] * np.sign(first.edit))[:ROWS]
        shown = [edits.moved(shift * gap)[chosen] for shift in (0, -1, 1)]
        match = run.model.encoder.match(shown[2])
        moved = ", ".join(("+" if row.edit > 0 else "-") + row.moved for row in pairs if row.raised == name)
        titles = ("original", "own scores", f"{name} lowered", f"{name} raised\n{moved}", f"prototype {k}")
        images = [pixels[chosen], *map(to_uint8, shown)]
        pictures.append(np.stack([images[0], *images[2:]], axis=1)[:THREE])
        for line in range(ROWS):
            box = match.boxes[line, k].tolist()
            for column, shown_pixels in enumerate(images):
                title = titles[column] if line == 0 else ""
                panel(axes[block * ROWS + line, column], shown_pixels[line], title, box if column == 3 else None)
            panel(axes[block * ROWS + line, 4], cut(images[3][line], box), titles[4] if line == 0 else "")
    EDITS.write(path.parent, raised=raised, pictures=np.stack(pictures))
    return save_figure(figure, path)
