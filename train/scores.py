"""Images -> scores, batched."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.patronus import Patronus
from train.data.dataset import ImageSet
from train.distributed import images_a_call
from train.images import to_tensor


@torch.no_grad()
def encode(
    model: Patronus,
    images: ImageSet,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Tensor:
    """Scores of every image of a set: (N, m) float32 on the CPU."""
    device = torch.device(device)
    parts, batch = [], batch or images_a_call(device, model.encoder.largest_map(images.pixels.shape[1]))
    for start in tqdm(range(0, len(images), batch), desc="encoding", unit="batch", leave=False, disable=not progress):
        pixels = torch.from_numpy(np.array(images.pixels[start : start + batch])).to(device)
        x0 = to_tensor(pixels).contiguous(memory_format=torch.channels_last)
        parts.append(model.score(x0).float())
    return torch.cat(parts).cpu()
