"""Training-free denoisers computed the plain way, position by position: oracles for tests and benchmarks."""

import torch
from torch import Tensor


def naive_square(images: Tensor, z: Tensor, sigma: Tensor, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """images (N, C, H, W) and z (B, C, H, W) in [-1, 1], sigma (B,) -> (B, C, H, W)."""
    images, z = images.to(dtype), z.to(dtype)
    _, _, h, w = z.shape
    total, count = torch.zeros_like(z), torch.zeros(h, w, dtype=dtype)
    for y in range(h - size + 1):
        for x in range(w - size + 1):
            place = (slice(None), slice(None), slice(y, y + size), slice(x, x + size))
            patches, noisy = images[place].flatten(1), z[place].flatten(1)  # (N, C p p), (B, C p p)
            distance = (noisy[:, None] - patches[None]).square().sum(-1)  # (B, N)
            weights = torch.softmax(-distance / (2 * sigma.to(dtype)[:, None] ** 2), dim=1)
            total[place] += (weights @ patches).view(len(z), -1, size, size)
            count[y : y + size, x : x + size] += 1
    return total / count
