"""Panels, boxes, patches and saving, the same for every script."""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from train.whole_files import replace_file  # noqa: E402

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels


def panel(axis, pixels: np.ndarray, title: str = "", box: Box | None = None, colour: str = "red") -> None:
    """uint8 (H, W, C) without ticks, with a box around a patch."""
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    if title:
        axis.set_title(title, fontsize=8)
    if box is not None:
        add_box(axis, box, colour)


def add_box(axis, box: Box, colour: str = "red") -> None:
    top, left, bottom, right = box
    axis.add_patch(
        Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1.5)
    )


def heat(axis, values: np.ndarray, limit: float | None = None):
    """A map (H, W) of values >= 0 in colours, from 0 to `limit` (default: its maximum); returns what a colour bar
    needs."""
    axis.set_xticks([])
    axis.set_yticks([])
    return axis.imshow(values, cmap="inferno", vmin=0, vmax=limit, interpolation="nearest")


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The patch inside a box of an image (H, W, C)."""
    top, left, bottom, right = box
    return pixels[top:bottom, left:right]


def panels(rows: int, columns: int, side: float = 1.25):
    """A grid of axes, always two-dimensional: (figure, axes (rows, columns))."""
    return plt.subplots(
        rows, columns, figsize=(side * columns + 0.6, side * rows + 0.5), squeeze=False, layout="constrained"
    )


def picture_rows(rows: list[np.ndarray], labels: list[str], titles: list[str] | None = None):
    """Rows of uint8 images (n, H, W, C), each with a label on its left, and titles above the first: (figure, axes)."""
    figure, axes = panels(len(rows), len(rows[0]))
    for line, (label, images) in enumerate(zip(labels, rows, strict=True)):
        for column, pixels in enumerate(images):
            panel(axes[line, column], pixels, titles[column] if titles and line == 0 else "")
        axes[line, 0].set_ylabel(label, fontsize=8)
    return figure, axes


def save_figure(figure, path: Path) -> list[Path]:
    """PNG and PDF beside each other; path without extension."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)  # once for both files: it takes as long as drawing
        figure.set_layout_engine("none")
    files = [path.with_name(path.name + extension) for extension in (".png", ".pdf")]
    for file in files:
        replace_file(file, lambda target: figure.savefig(target, dpi=160))
    plt.close(figure)
    return files


def save_animation(frames: list[np.ndarray], path: Path, milliseconds: int = 150) -> Path:
    """uint8 (H, W, 3) frames -> an animated GIF that loops, its last frame held for a second."""
    images = [Image.fromarray(frame) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [1000]
    return replace_file(
        path, lambda file: images[0].save(file, save_all=True, append_images=images[1:], duration=durations, loop=0)
    )


def rendered(figure) -> np.ndarray:
    """A figure as pixels, uint8 (H, W, 3), for animations; the figure is closed."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return pixels
