"""What a card of a prototype shows: the image expected of it, its map, its best training patches, and edits of
test images."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.edits import EditOptions, edit_until_reached, encode_and_invert, expected_images
from analysis.measures.groups import Group, find_groups
from analysis.measures.scores import KnownScores, quantiles
from models.patronus import Patronus
from train.data.dataset import ImageSet, load_split
from train.distributed import images_a_call
from train.images import GREY, to_tensor, to_uint8
from train.runs import Run
from train.scores import encode

Setting = tuple[list[int], list[float]]  # prototypes and the scores that they are set to
PATCHES, EDITS = 5, 3
GROUPED = 10_000  # training images at most in whose scores groups are found
ALIKE = 0.7  # |cosine| of what two prototypes say above which one of them is left out
FLAT = 4.0  # grey levels within its best patches below which a prototype stands for a flat area


def expected_extremes(run: Run, scores: Tensor) -> Tensor:
    """E[x0 | s_k low] and E[x0 | s_k high], all else hidden, of every prototype, of scores (N, m): (m, 2, C, H, W) on
    the CPU."""
    data, device = run.config.data, run.model.encoder.prototypes.device
    shape = (data.channels, data.image_size, data.image_size)
    known = KnownScores(scores.to(device))
    parts = [
        expected_images(run.model, [k], known.limits[k : k + 1], known, shape).cpu()
        for k in tqdm(range(scores.shape[1]), desc="expected images", unit="prototype", leave=False)
    ]
    return torch.cat(parts)


def groups_of(run: Run) -> list[Group]:
    """Groups of a run's prototypes, on the device of its model, the same for every script; their numbers are their
    places. Found in the scores of its training images, GROUPED at most, evenly spread over the set."""
    train = load_split(run.config.data, "train")
    rows = np.linspace(0, len(train) - 1, min(GROUPED, len(train))).round().astype(int)
    device = run.model.encoder.prototypes.device
    scores = encode(run.model, train.subset(rows), device=device)
    return find_groups(KnownScores(scores.to(device)), expected_extremes(run, scores))


@torch.no_grad()
def match_all(model: Patronus, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every image, (N, m) float32, and the boxes of the patches that gave them, (N, m, 4) int16."""
    encoder, device = model.encoder, model.encoder.prototypes.device
    scores, boxes, batch = [], [], images_a_call(device, encoder.largest_map(images.pixels.shape[1]))
    for start in tqdm(range(0, len(images), batch), desc="matching", unit="batch", leave=False):
        match = encoder.match(to_tensor(images.pixels[start : start + batch], device))
        scores.append(match.scores.float().cpu())
        boxes.append(match.boxes.short().cpu())  # of 100,000 images and 128 prototypes: 100 MB
    return torch.cat(scores).numpy(), torch.cat(boxes).numpy()


def best_patches(run: Run, images: ImageSet, count: int = PATCHES) -> tuple[np.ndarray, np.ndarray]:
    """The images in which each prototype matches best, one patch an image: rows (m, count) and boxes (m, count, 4)."""
    scores, boxes = match_all(run.model, images)
    best = torch.from_numpy(scores).topk(min(count, len(scores)), dim=0).indices.T.numpy()  # (m, count)
    return best, boxes[best, np.arange(len(best))[:, None]].astype(np.int64)


def contrast(images: ImageSet, rows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Deviation of grey levels within each prototype's best patches, their mean: (m,)."""
    return np.array(
        [
            np.mean(
                [
                    images.pixels[i][top:bottom, left:right].mean(-1).std()
                    for i, (top, left, bottom, right) in zip(line, places)
                ]
            )
            for line, places in zip(rows, boxes)
        ]
    )


def choose(expected: Tensor, weight: np.ndarray, flat: np.ndarray, count: int) -> list[int]:
    """The prototypes that matter most, no two alike, flat areas last.

    expected (m, 2, C, H, W): images of the low and the high score; weight (m,): how far one deviation of each score
    moves the expected image; flat (m,) bool.
    """
    difference = (expected[:, 1] - expected[:, 0]).flatten(1)
    unit = torch.nn.functional.normalize(difference, dim=1)
    cosine = (unit @ unit.T).abs()
    order = np.lexsort((-weight, flat))
    chosen: list[int] = []
    for k in order.tolist():
        if len(chosen) < count and all(cosine[k, other] <= ALIKE for other in chosen):
            chosen.append(k)
    return chosen + [k for k in order.tolist() if k not in chosen][: count - len(chosen)]


def moves(expected: Tensor, known: Tensor) -> np.ndarray:
    """How far one deviation of each score moves the expected image, in grey levels: expected (m, 2, C, H, W), known
    scores (N, m) -> (m,)."""
    limits = quantiles(known)
    steepness = known.std(0) / (limits[:, 1] - limits[:, 0]).clamp(
        min=1e-6
    )  # one deviation of the score, as a share of low to high
    return ((expected[:, 1] - expected[:, 0]).abs().flatten(1).mean(1) * steepness * GREY).numpy()


def matter_most(run: Run, images: ImageSet, known: Tensor, count: int) -> list[int]:
    """The prototypes that matter most; patches are looked for in `images`, whose scores are known (N, m)."""
    expected = expected_extremes(run, known)
    return choose(expected, moves(expected, known), contrast(images, *best_patches(run, images)) < FLAT, count)


def example_edits(
    run: Run, test: ImageSet, options: EditOptions, scores: Tensor, settings: list[Setting]
) -> dict[str, np.ndarray]:
    """For each setting three test images that lack it, before and after: images, boxes of its first prototype, scores
    of that one.

    scores (N, m): of the test images. Every array has one entry a setting.
    """
    device = run.model.encoder.prototypes.device
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(test)))  # sets may stand in order of class
    columns = {
        key: [] for key in ("edited_rows", "before", "after", "edit_boxes", "score_before", "score_after", "guidance")
    }
    for prototypes, values in tqdm(settings, desc="editing", unit="prototype", leave=False):
        k, values = prototypes[0], torch.tensor(values, device=device)
        median = scores[:, k].median()
        lacking = order[(scores[order, k] <= median) if values[0] > median else (scores[order, k] >= median)][
            :EDITS
        ].numpy()
        encoding = encode_and_invert(run.model, to_tensor(test.pixels[lacking], device), options.steps)
        result = edit_until_reached(
            run.model, encoding, options.set(encoding.scores, prototypes, values), prototypes, options
        )
        match = run.model.encoder.match(result.images)
        boxes = match.boxes[:, k].cpu()
        scores_of_k = encoding.scores[:, k].cpu(), result.scores[:, k].cpu()
        entries = (lacking, test.pixels[lacking], to_uint8(result.images), boxes, *scores_of_k, result.guidance.cpu())
        for key, value in zip(columns, entries):
            columns[key].append(np.array(value))
    return {key: np.array(value) for key, value in columns.items()}
