"""Panels, boxes and saving, the same for every script."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from train.images import replace_file  # noqa: E402


def panel(axis, pixels: np.ndarray, title: str = "", box: tuple | None = None, colour: str = "red") -> None:
    """uint8 (H, W, C) without ticks; box (top, left, bottom, right) in pixels."""
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    if title:
        axis.set_title(title, fontsize=8)
    if box is not None:
        top, left, bottom, right = box
        axis.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5))


def panels(rows: int, columns: int, side: float = 1.25):
    """A grid of axes, always two-dimensional: (figure, axes (rows, columns))."""
    return plt.subplots(rows, columns, figsize=(side * columns + 0.6, side * rows + 0.5), squeeze=False, layout="constrained")


def save_figure(figure, path: Path) -> list[Path]:
    """PNG and PDF beside each other; path without extension."""
    files = [path.with_name(path.name + extension) for extension in (".png", ".pdf")]
    for file in files:
        replace_file(file, lambda target: figure.savefig(target, dpi=160))
    plt.close(figure)
    return files
