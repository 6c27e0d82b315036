"""uint8 <-> [-1, 1], PNG files, grids."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from train.errors import UserError
from train.whole_files import replace_file

GREY = 127.5  # grey levels of 255 in a unit of an image in [-1, 1]


def to_tensor(pixels: np.ndarray | Tensor, device: torch.device | str | None = None) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [-1, 1], on a device; None leaves them where they are."""
    pixels = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return pixels.to(device).permute(0, 3, 1, 2).float() / GREY - 1


def to_uint8(x: Tensor) -> np.ndarray:
    """float (B, C, H, W), clipped to [-1, 1] and rounded -> uint8 (B, H, W, C). Raises UserError where a pixel is no
    number."""
    x = x.detach().float()
    wrong = x.isnan().flatten(1).any(1).sum()
    pixels = x.clamp(-1, 1).add(1).mul(GREY).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    if wrong.item():
        raise UserError(
            f"{wrong.item()} of {len(x)} images hold pixels that are no numbers (NaN); the network "
            "that made them is damaged or diverged"
        )
    return pixels


def save_png(pixels: np.ndarray, path: Path, tmp_dir: Path | None = None) -> Path:
    """uint8 (H, W, C) with C 1 or 3 -> a PNG file."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return replace_file(path, image.save, tmp_dir)


def grid(pixels: np.ndarray, columns: int) -> np.ndarray:
    """uint8 (N, H, W, C) -> one image of N / columns rows (N a multiple of columns): (rows H, columns W, C)."""
    n, h, w, c = pixels.shape
    return (
        pixels.reshape(n // columns, columns, h, w, c)
        .transpose(0, 2, 1, 3, 4)
        .reshape(n // columns * h, columns * w, c)
    )
