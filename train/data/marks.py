"""Marks to be planted in images: a tag in the corner, a colour cast, a border (train.data.table.MARKS)."""

import numpy as np

from train.errors import UserError

MARGIN = 1  # pixels between a tag and the edges


def region(kind: str, size: int, side: int) -> np.ndarray:
    """Pixels that a mark changes in images of `side` pixels, bool (side, side): a square of `size` in the lower right
    corner, everything, or a frame as wide as `size`. Raises UserError where it is larger than the image."""
    most = {"tag": side - MARGIN, "cast": size, "border": side // 2}[kind]
    if not 1 <= size <= most:
        raise UserError(f"--size {size}: a {kind} in images of {side} pixels has from 1 to {most}")
    inside = np.zeros((side, side), dtype=bool)
    match kind:
        case "tag":
            inside[side - MARGIN - size : side - MARGIN, side - MARGIN - size : side - MARGIN] = True
        case "cast":
            inside[:] = True
        case "border":
            inside[:] = True
            inside[size : side - size, size : side - size] = False
    return inside


def mark(pixels: np.ndarray, kind: str, inside: np.ndarray, contrast: float, white: bool) -> np.ndarray:
    """Images (N, H, W, C) uint8 with the mark: in its region they go towards white or black by the share `contrast`, of
    a cast in colour the first channel alone."""
    marked = pixels.copy()
    channels = slice(0, 1) if kind == "cast" else slice(None)
    old = marked[:, inside, channels].astype(float)
    marked[:, inside, channels] = np.round(old + contrast * (255.0 * white - old)).astype(np.uint8)
    return marked


def draw_marked(holds: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Which images get the mark, bool (N,): of those of the class the share `strength`, of the others what is left of
    1; at 0.5 the mark says nothing of the class."""
    marked = np.zeros(len(holds), dtype=bool)
    for has, share in ((holds, strength), (~holds, 1 - strength)):
        rows = rng.permutation(np.flatnonzero(has))
        marked[rows[: round(share * len(rows))]] = True
    return marked
