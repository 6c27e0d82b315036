"""Panels, patches and saving, the same for every script."""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from train.whole_files import replace_file  # noqa: E402

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels


def panel(axis, pixels: np.ndarray, title: str = "") -> None:
    """uint8 (H, W, C) without ticks."""
    axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    if title:
        axis.set_title(title, fontsize=8)


def heat(axis, values: np.ndarray) -> None:
    """A map (H, W) of values >= 0 in colours, from 0 to its maximum."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.imshow(values, cmap="inferno", vmin=0, interpolation="nearest")


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """The patch inside a box of an image (H, W, C)."""
    top, left, bottom, right = box
    return pixels[top:bottom, left:right]


def save_figure(figure, path: Path) -> list[Path]:
    """PNG and PDF beside each other; path without extension."""
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)  # once for both files: it takes as long as drawing
        figure.set_layout_engine("none")
    files = [path.with_name(path.name + extension) for extension in (".png", ".pdf")]
    with plt.rc_context({"image.composite_image": False}):  # a PDF keeps each picture by itself
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
