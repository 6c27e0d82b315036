"""Where a prototype changes the expected image, against the pixels that an attribute truly rules."""

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from analysis.edits import expected_images
from analysis.measures.candidates import Candidate
from analysis.measures.counterfactuals import Pairs
from analysis.measures.information import image_maps
from analysis.measures.scores import KnownScores
from models.patronus import Patronus
from train.images import GREY, to_tensor

MAPPED, MAP_LEVELS = 40, 8  # images and noise levels of maps of single images


def expected_maps(model: Patronus, prototypes: list[int], known: KnownScores, shape) -> np.ndarray:
    """Maps of prototypes: mean over channels of |E[x0 | s_k high] - E[x0 | s_k low]|, all else hidden: (K, H, W) in
    grey levels."""
    expected = expected_images(model, prototypes, known.limits[prototypes], known, shape)  # (K, 2, C, H, W)
    return ((expected[:, 0] - expected[:, 1]).abs().mean(1) * GREY).cpu().numpy()


def region_measures(heat: np.ndarray, regions: np.ndarray) -> dict[str, float]:
    """A map (H, W) against true regions (n, H, W): Pearson correlation with their mean, share of its mass inside,
    beside chance."""
    mean = regions.mean(0)
    flat = heat.std() < 1e-12 or mean.std() < 1e-12
    correlation = 0.0 if flat else float(np.corrcoef(heat.ravel(), mean.ravel())[0, 1])
    mass = heat / max(heat.sum(), 1e-12)
    return {"region": correlation, "inside": float((mass * mean).sum()), "inside_chance": float(mean.mean())}


def sensitivity_maps(model: Patronus, x0: Tensor, prototype: int) -> Tensor:
    """How a score depends on each pixel: |d s_k / d x|, summed over channels: (B, C, H, W) -> (B, H, W)."""
    with torch.enable_grad():
        x0 = x0.clone().requires_grad_(True)
        return torch.autograd.grad(model.score(x0)[:, prototype].sum(), x0)[0].abs().sum(1)


def map_measures(
    model: Patronus, pairs: Pairs, candidate: Candidate, known: KnownScores, sigma_min: float
) -> dict[str, float]:
    """Maps of single images, in which the prototype is high, against the region that the attribute rules in that very
    image.

    map: average precision of the pixels of the information beyond the others, map_inside: share of those bits inside;
    map_alone: of the information alone; map_box, map_gradient: of the patch box of the best match, of the score's
    gradient; map_chance: of any order of the pixels.
    sigma_min: the lowest noise level of the information.
    """
    device, k = model.encoder.prototypes.device, candidate.prototype
    visible = pairs.region.any((1, 2))
    region = pairs.region[visible][:MAPPED]
    pixels = (pairs.present if candidate.direction > 0 else pairs.absent)[visible][:MAPPED]
    x0 = to_tensor(pixels, device)
    with torch.no_grad():
        match = model.encoder.match(x0)
    sigmas = np.geomspace(sigma_min, model.sigma_max, MAP_LEVELS)
    maps = {"map": image_maps(model, x0, match.scores, k, known.scores, False, sigmas).sum(0)}
    if model.masked:
        maps["map_alone"] = image_maps(model, x0, match.scores, k, known.scores, True, sigmas).sum(0)
    boxes = np.zeros(region.shape)
    for i, box in enumerate(boxes):
        top, left, bottom, right = match.boxes[i, k].tolist()
        box[top:bottom, left:right] = 1
    maps |= {"map_box": boxes, "map_gradient": sensitivity_maps(model, x0, k).cpu().numpy()}
    precision = {}
    for name, lines in maps.items():
        precision[name] = float(np.mean([average_precision_score(r.ravel(), m.ravel()) for r, m in zip(region, lines)]))
    inside = [(m * r).sum() / max(m.sum(), 1e-12) for r, m in zip(region, maps["map"])]
    return precision | {"map_inside": float(np.mean(inside)), "map_chance": float(region.mean())}
