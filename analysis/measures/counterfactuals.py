"""Counterfactual pairs of drawn images, and whether a prototype tells the two apart at the right place."""

from typing import NamedTuple

import numpy as np
import torch

from analysis.measures.candidates import Candidate
from models.patronus import Patronus
from train.data.table import SOURCES, resolve
from train.images import to_tensor
from train.runs import Run

FRESH = 1_000_003  # added to a run's data seed: drawings that no run has seen


class Pairs(NamedTuple):
    """n images without and with one attribute and nothing else changed, uint8 (n, H, W, C), and the pixels that differ,
    bool (n, H, W)."""

    absent: np.ndarray
    present: np.ndarray
    region: np.ndarray


def pairs_of(run: Run, names: list[str], count: int) -> dict:
    """Counterfactual pairs of fresh drawings, for the attributes that can be changed alone; none for photographs."""
    data = run.config.data
    maker = SOURCES[data.source].counterfactuals
    drawn = resolve(maker)(data.image_size, data.seed + FRESH, count) if maker else {}
    return {name: Pairs(*parts) for name, parts in drawn.items() if name in names}


@torch.no_grad()
def pair_measures(model: Patronus, pairs: Pairs, candidate: Candidate, deviation: float) -> dict[str, float]:
    """On counterfactual pairs: how often and by how many deviations the prototype moves the right way (pair,
    pair_deviations), and how often the patch box of its best match, in the image where it is high, meets the pixels
    that the attribute rules (hit; hit_chance: of all cells)."""
    device, k = model.encoder.prototypes.device, candidate.prototype
    absent, present = (model.encoder.match(to_tensor(pixels, device)) for pixels in (pairs.absent, pairs.present))
    change = candidate.direction * (present.scores[:, k] - absent.scores[:, k]).cpu().numpy()
    match, side = present if candidate.direction > 0 else absent, pairs.region.shape[1]
    field, whole = model.encoder.receptive_field, k >= len(model.encoder.prototypes)  # a template sees all
    cells = range(field.cells(side))
    boxes = [(0, 0, side, side)] if whole else [field.box(i, j, side, side) for i in cells for j in cells]
    hits, chance = [], []
    for i, region in enumerate(pairs.region):
        top, left, bottom, right = match.boxes[i, k].tolist()
        hits.append(region[top:bottom, left:right].any())
        chance.append(np.mean([region[a:c, b:d].any() for a, b, c, d in boxes]))
    return {
        "pair": float((change > 0).mean()),
        "pair_deviations": float(change.mean() / max(deviation, 1e-9)),
        "hit": float(np.mean(hits)),
        "hit_chance": float(np.mean(chance)),
    }
