"""Parts of images against what a prototype looks at: deletion, consistency, stability, and perturbation inside and
outside of its patch."""

import numpy as np
import torch
from torch import Tensor

from analysis.measures.candidates import Candidate
from analysis.measures.counterfactuals import Pairs
from analysis.measures.edit_metrics import boxes_meet, consistency, single_deletion, stability
from models.patronus import Patronus
from models.samplers import SeededNoise
from train.images import to_tensor

NOISE, CLIP = 0.2, 0.25  # of stability, in units of [-1, 1]


def patch_boxes(model: Patronus, x0: Tensor, prototypes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the best matches (B, K, 4) in images (B, C, H, W), and the scores (B, K)."""
    match = model.encoder.match(x0)
    return match.boxes[:, prototypes].cpu().numpy(), match.scores[:, prototypes].cpu().numpy()


@torch.no_grad()
def part_measures(model: Patronus, pairs: dict[str, Pairs], candidate: Candidate, heat: np.ndarray) -> dict[str, float]:
    """Measures of one prototype on faces of which each attribute can be truly removed; heat (H, W): its map.

    deletion: single deletion, with the heat in each part's region as its importance. consistent, stable: of its patch
        box. perturbed_inside,
    perturbed_outside: fall of the score, in deviations, where the patch or all else is replaced by noise; the
    first should be large and the second small.
    """
    device, k = model.encoder.prototypes.device, [candidate.prototype]
    importance, drop, meets, noisy_meets = [], [], [], []
    for part in pairs.values():
        present = to_tensor(part.present, device)
        boxes, part_present = patch_boxes(model, present, k)
        part_absent = model.score(to_tensor(part.absent, device))[:, k].cpu().numpy()
        noise = SeededNoise(range(len(present)), present.shape[1:], device)()
        noisy = (present + (NOISE * noise).clamp(-CLIP, CLIP)).clamp(-1, 1)
        importance.append((heat * part.region).sum((1, 2)))
        drop.append(np.abs(part_present - part_absent)[:, 0])
        meets.append(boxes_meet(part.region, boxes))
        noisy_meets.append(boxes_meet(part.region, patch_boxes(model, noisy, k)[0]))
    own = pairs[candidate.attribute]
    return {
        "deletion": single_deletion(np.stack(importance, 1), np.stack(drop, 1)),
        "consistent": float(consistency(meets)[0]),
        "stable": float(stability(np.stack(meets), np.stack(noisy_meets))[0]),
    } | dual_perturbation(model, own, candidate)


@torch.no_grad()
def dual_perturbation(model: Patronus, pairs: Pairs, candidate: Candidate) -> dict[str, float]:
    """Fall of the score where the patch, and where all but the patch, is replaced by noise, in units of its deviation
    over these images."""
    device, k = model.encoder.prototypes.device, candidate.prototype
    x0 = to_tensor(pairs.present if candidate.direction > 0 else pairs.absent, device)
    boxes, scores = patch_boxes(model, x0, [k])
    noise = SeededNoise(range(len(x0)), x0.shape[1:], device)().clamp(-1, 1)
    inside = torch.zeros_like(x0[:, :1], dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(inside, boxes[:, 0]):
        mask[:, top:bottom, left:right] = True
    scale = max(float(model.score(x0)[:, k].std()), 1e-6)

    def fall(where: Tensor) -> float:
        perturbed = model.score(torch.where(where, noise, x0))[:, k].cpu().numpy()
        return float((scores[:, 0] - perturbed).mean()) / scale

    return {"perturbed_inside": fall(inside), "perturbed_outside": fall(~inside)}
