"""Scores in which two prototypes are independent, made from real ones; and what a classifier learns of their images."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.measures.readers import classifier_reader, read_set
from analysis.measures.scores import CORRELATED
from train.data.dataset import ImageSet

RARE = 0.5  # of the images that independence would put into a cell: with fewer, a set lacks it
SEEN = 6000  # images that a classifier sees in each of its epochs, however many there are


def goes_with(scores: Tensor, a: int, b: int) -> list[int]:
    """The prototypes that go with a: correlated with it in scores (N, m), and less with b."""
    to_a, to_b = torch.corrcoef(scores.T).nan_to_num(0)[[a, b]].abs()
    return ((to_a > CORRELATED) & (to_a > to_b)).nonzero()[:, 0].tolist()


def draw_pairs(seed: int, numbers, images: int) -> np.ndarray:
    """The source and the donor of each image number, rows drawn independently: (n, 2). A number has the same ones in
    every set."""
    return np.stack([np.random.default_rng([seed, number]).integers(images, size=2) for number in numbers])


def exchanged(scores: Tensor, pairs: np.ndarray, members: list[int]) -> Tensor:
    """The sources' scores with those of some prototypes from the donors: (n, m) of known ones (N, m), pairs (n, 2)."""
    source, donor = torch.from_numpy(pairs).T
    s = scores[source].clone()
    s[:, members] = scores[donor][:, members]
    return s


def lacking(train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which images (n,) lie in one of the four cells that a training set lacks: labels (N, 2) and (n, 2) of 0 and 1."""
    inside = np.zeros(len(labels), dtype=bool)
    for cell in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected = np.prod([(train[:, i] == value).mean() for i, value in enumerate(cell)]) * len(train)
        if (train == cell).all(1).sum() < RARE * expected:
            inside |= (labels == cell).all(1)
    return inside


def accuracies(
    sets: dict[str, tuple[ImageSet, np.ndarray]], test: ImageSet, labels: np.ndarray, rare: np.ndarray, device, seed=0
) -> pd.DataFrame:
    """A small classifier is trained on each set, images and labels (N, A), and judged on test images with labels (n,
    A): accuracy of each attribute in the cells that are `rare` (n,) bool, and in the others. One row a set; every
    classifier is trained on as many images, for as many steps."""
    size, rows = min(len(images) for images, _ in sets.values()), []
    for name, (images, known) in sets.items():
        chosen = np.random.default_rng(seed).permutation(len(images))[:size]
        chosen = np.resize(chosen, max(SEEN, size))
        reader = classifier_reader(images.subset(chosen), known[chosen], device, seed)
        right = (read_set(reader, test, device) > 0) == (labels > 0)
        rows.append([name, size, *right[rare].mean(0), *right[~rare].mean(0)])
    names = [f"{which}_{i}" for which in ("lacking", "others") for i in range(labels.shape[1])]
    return pd.DataFrame(rows, columns=["trained_on", "images", *names])
