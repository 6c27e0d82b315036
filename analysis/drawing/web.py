"""Pictures and tables as text, for pages that stand alone."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH = 1500  # pixels of the widest figure


def _uri(image: Image.Image, kind: str, **options) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def pixels_uri(pixels: np.ndarray, quality: int | None = None) -> str:
    """uint8 (H, W, C) as a data URI: a PNG, or a smaller picture of a quality up to 100."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return _uri(image, "PNG") if quality is None else _uri(image.convert("RGB"), "WEBP", quality=quality)


def figure_uri(path: Path, width: int = WIDTH) -> str:
    """A figure's PNG as a data URI, no wider than `width`."""
    with Image.open(path) as image:
        image = image.convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    return _uri(image, "WEBP", quality=82)


def heat_pixels(values: np.ndarray) -> np.ndarray:
    """Maps (..., H, W) of values >= 0 in colours, each from 0 to its own maximum: uint8 (..., H, W, 3)."""
    from matplotlib import colormaps

    highest = np.maximum(values.max((-2, -1), keepdims=True), 1e-12)
    return (colormaps["inferno"](np.clip(values / highest, 0, 1))[..., :3] * 255).round().astype(np.uint8)


def strip(images: list[np.ndarray]) -> np.ndarray:
    """Images uint8 (H, W, C) of one size side by side, a white pixel apart, in three channels: (H, n (W + 1) - 1,
    3)."""
    colour = [np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image for image in images]
    gap = np.full((colour[0].shape[0], 1, 3), 255, np.uint8)
    return np.concatenate([part for image in colour for part in (image, gap)][:-1], axis=1)


def surrounded(pixels: np.ndarray, box, side: int) -> np.ndarray:
    """A square of `side` pixels around a patch, inside the image; a larger patch whole."""
    top, left, bottom, right = (int(v) for v in box)
    side = max(side, bottom - top, right - left)
    h, w = pixels.shape[:2]
    y, x = (int(np.clip((a + b - side) // 2, 0, most - side)) for a, b, most in ((top, bottom, h), (left, right, w)))
    return pixels[y : y + side, x : x + side]
