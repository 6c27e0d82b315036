"""What a card of a prototype shows: what it says, where, its best training patches, and guided edits of test images."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.edits import Gesture, edit, encode_and_invert, patch_box, says
from analysis.measures.faithfulness import quantiles
from train.data.dataset import ImageSet
from train.images import to_tensor, to_uint8
from train.runs import Run

PATCHES, EDITS = 5, 3
ALIKE = 0.7  # |cosine| of what two prototypes say above which one of them is left out
FLAT = 4.0  # grey levels within its best patches below which a prototype stands for a flat area


def sayings(run: Run, known: Tensor) -> Tensor:
    """E[x0 | s_k low] and E[x0 | s_k high], all else hidden, of every prototype: (m, 2, C, H, W) on the CPU."""
    data, device = run.config.data, run.model.encoder.prototypes.device
    shape = (data.channels, data.image_size, data.image_size)
    parts = range(known.shape[1])
    limits = quantiles(known).to(device)
    return torch.cat([says(run.model, [k], limits[k : k + 1], known, shape).cpu() for k in parts])


@torch.no_grad()
def best_patches(run: Run, images: ImageSet, count: int = PATCHES, batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """The images in which each prototype matches best, one patch an image: rows (m, count) and boxes (m, count, 4)."""
    device, side = run.model.encoder.prototypes.device, run.config.data.image_size
    scores, rows, columns = [], [], []
    for start in tqdm(range(0, len(images), batch), desc="matching", unit="batch", leave=False):
        match = run.model.encoder.match(to_tensor(images.pixels[start : start + batch]).to(device))
        for kept, part in zip((scores, rows, columns), match):
            kept.append(part.cpu())
    scores, rows, columns = (torch.cat(part) for part in (scores, rows, columns))  # (N, m)
    best = scores.topk(min(count, len(scores)), dim=0).indices.T  # (m, count)
    field = run.model.encoder.receptive_field
    boxes = [[field.box(rows[i, k].item(), columns[i, k].item(), side, side) for i in line] for k, line in enumerate(best.tolist())]
    return best.numpy(), np.array(boxes)


def contrast(images: ImageSet, rows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Deviation of grey levels within each prototype's best patches, their mean: (m,)."""
    return np.array(
        [
            np.mean([images.pixels[i][top:bottom, left:right].mean(-1).std() for i, (top, left, bottom, right) in zip(line, places)])
            for line, places in zip(rows, boxes)
        ]
    )


def choose(told: Tensor, weight: np.ndarray, flat: np.ndarray, count: int) -> list[int]:
    """The prototypes that matter most, no two that say alike, flat areas last.

    told (m, 2, C, H, W); weight (m,): how far one deviation of each score moves the expected image; flat (m,) bool.
    """
    difference = (told[:, 1] - told[:, 0]).flatten(1)
    unit = torch.nn.functional.normalize(difference, dim=1)
    cosine = (unit @ unit.T).abs()
    order = np.lexsort((-weight, flat))
    chosen: list[int] = []
    for k in order.tolist():
        if len(chosen) < count and all(cosine[k, other] <= ALIKE for other in chosen):
            chosen.append(k)
    return chosen + [k for k in order.tolist() if k not in chosen][: count - len(chosen)]


def moves(told: Tensor, known: Tensor) -> np.ndarray:
    """How far one deviation of each score moves the expected image, in grey levels: told (m, 2, C, H, W), known scores (N, m) -> (m,)."""
    limits = quantiles(known)
    steepness = known.std(0) / (limits[:, 1] - limits[:, 0]).clamp(min=1e-6)  # one deviation of the score, as a share of low to high
    return ((told[:, 1] - told[:, 0]).abs().flatten(1).mean(1) * steepness * 127.5).numpy()


def matter_most(run: Run, images: ImageSet, known: Tensor, count: int) -> list[int]:
    """The prototypes that matter most; patches are looked for in `images`, whose scores are known (N, m)."""
    told = sayings(run, known)
    return choose(told, moves(told, known), contrast(images, *best_patches(run, images)) < FLAT, count)


@torch.no_grad()
def example_edits(run: Run, test: ImageSet, known: Tensor, prototypes: list[int], gesture: Gesture) -> dict[str, np.ndarray]:
    """For each prototype three test images that lack it, with it raised to its high score: before, after, boxes, scores; one entry a prototype."""
    device, side = run.model.encoder.prototypes.device, run.config.data.image_size
    high, order = quantiles(known)[:, 1], np.random.default_rng(0).permutation(len(test))  # sets may stand in order of class
    found = {key: [] for key in ("edited_rows", "before", "after", "edit_boxes", "own", "found")}
    for k in tqdm(prototypes, desc="editing", unit="prototype", leave=False):
        lacking = order[(known[order, k] <= known[:, k].median()).numpy()][:EDITS]
        x0 = to_tensor(test.pixels[lacking]).to(device)
        encoding = encode_and_invert(run.model, x0, gesture.steps)
        made = edit(run.model, encoding, gesture.set(encoding.scores, [k], high[k].to(device)), gesture).clamp(-1, 1)
        match = run.model.encoder.match(made)
        boxes = [patch_box(run.model, match, i, k, side) for i in range(len(made))]
        values = (lacking, test.pixels[lacking], to_uint8(made), boxes, encoding.scores[:, k].cpu(), match.scores[:, k].cpu())
        for key, value in zip(found, values):
            found[key].append(np.array(value))
    return {key: np.array(value) for key, value in found.items()}
