"""Is a prototype used, dead, or a duplicate, and what does it stand for?"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from analysis.measures.auroc import best_attributes
from models.patronus import Patronus
from models.samplers import SeededNoise
from train.data.dataset import ImageSet
from train.images import GREY, to_tensor
from train.runs import Run

PROBE_IMAGES = 8
PROBE_SIGMA = 5.0  # much noise: what s says matters most here


@torch.no_grad()
def effect(model: Patronus, x0: Tensor, s: Tensor, deviation: Tensor, batch: int = 64) -> Tensor:
    """How far one deviation more of each score moves the denoiser's estimate of x0 at sigma 5: mean |change| in grey
    levels of 255, (m,).

    x0 (B, C, H, W) images, s (B, m) their scores, deviation (m,).
    """
    b, m = s.shape
    z = x0 + PROBE_SIGMA * SeededNoise(range(b), x0.shape[1:], x0.device)()
    edited = s[None] + torch.diag(deviation)[:, None]  # (m, B, m)
    edited, repeated = edited.flatten(0, 1), z.repeat(m, 1, 1, 1)
    base = model.denoise(z, z.new_full((b,), PROBE_SIGMA), s)
    change = []
    for start in tqdm(range(0, m * b, batch), desc="effects", unit="batch", leave=False):
        part = slice(start, start + batch)
        moved = model.denoise(repeated[part], z.new_full((len(edited[part]),), PROBE_SIGMA), edited[part])
        rows = torch.arange(m * b, device=z.device)[part] % b
        change.append((moved - base[rows]).abs().flatten(1).mean(1))
    return torch.cat(change).view(m, b).mean(1) * GREY


def test_effects(run: Run, test: ImageSet, scores: Tensor) -> np.ndarray:
    """`effect` of every prototype, probed on the first test images; scores (N, m) of the whole test set, on the CPU:
    (m,)."""
    device = run.model.encoder.prototypes.device
    probe = to_tensor(test.pixels[:PROBE_IMAGES], device)
    return effect(run.model, probe, scores[:PROBE_IMAGES].to(device), scores.std(0).to(device)).cpu().numpy()


def cosines(vectors: Tensor) -> Tensor:
    """|cosine| of every two vectors (m, D), on the CPU: (m, m)."""
    unit = F.normalize(vectors.detach().cpu(), dim=1)
    return (unit @ unit.T).abs()


def health_table(run: Run, scores: np.ndarray, attributes: pd.DataFrame, effects: np.ndarray) -> pd.DataFrame:
    """One row a prototype. usage: its share of the summed effects; dead: below 1 % of an equal share, or a score that
    never varies;
    nearest: the other prototype of highest |cosine|; duplicate: that cosine is above 0.999. scores (N, m), effects
        (m,)."""
    encoder = run.model.encoder
    cosine = cosines(encoder.prototypes)
    if encoder.templates is not None:
        cosine = torch.block_diag(cosine, cosines(encoder.templates.vectors))
    cosine.fill_diagonal_(-1)  # (m, m)
    nearest_cosine, nearest = cosine.max(1)
    share = effects / max(effects.sum(), 1e-12)
    names, auroc = best_attributes(scores, attributes)
    table = pd.DataFrame(
        {
            "usage": share,
            "effect_grey_levels": effects,
            "dead": (share < 0.01 / len(share)) | (scores.std(0) < 1e-6),
            "score_min": scores.min(0),
            "score_mean": scores.mean(0),
            "score_max": scores.max(0),
            "score_deviation": scores.std(0),
            "nearest": nearest.numpy(),
            "cosine": nearest_cosine.numpy(),
            "duplicate": nearest_cosine.numpy() > 0.999,
        }
    )
    if len(attributes.columns):
        table["attribute"], table["auroc"] = names, auroc
    table.index.name = "prototype"
    return table
