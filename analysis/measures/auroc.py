"""AUROC of many single dimensions at once."""

import numpy as np
from scipy.stats import rankdata


def auroc_of_ranks(ranks: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """AUROC of every column from its ranks 1..N (N, m), ties sharing their mean, for binary labels (N,): (m,)
    (Mann-Whitney).

    NaN where one class is missing.
    """
    p, n = positive.sum(), (~positive).sum()
    if not p or not n:
        return np.full(ranks.shape[1], np.nan)
    return (positive @ ranks - p * (p + 1) / 2) / (p * n)


def single_auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC of every column of scores (N, m) for binary labels (N,), in [0, 1], ties counted half: (m,).

    Unknown labels (NaN) are left out; NaN where one class is missing.
    """
    known = ~np.isnan(labels)
    return auroc_of_ranks(rankdata(scores[known], axis=0), labels[known] > 0)


def both_ways(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`single_auroc` in the better of the two directions, in [0.5, 1]."""
    auroc = single_auroc(scores, labels)
    return np.maximum(auroc, 1 - auroc)


def best_attributes(scores: np.ndarray, attributes) -> tuple[list[str], np.ndarray]:
    """The attribute each column predicts best: names (m,) ('' where there is none) and AUROC.

    'not X' is what a low score tells of X. Of classes that exclude each other (one an image) only what a high score
    tells counts, since a prototype of bags is not best described as not being trousers.
    """
    names, best = [""] * scores.shape[1], np.full(scores.shape[1], np.nan)
    classes = len(attributes.columns) > 2 and (attributes.sum(axis=1) == 1).all()
    for attribute in attributes.columns:
        auroc = single_auroc(scores, attributes[attribute].to_numpy(float))
        for name, value in ((attribute, auroc),) + (() if classes else ((f"not {attribute}", 1 - auroc),)):
            for k in np.flatnonzero(~np.isnan(value) & (np.isnan(best) | (value > best))):
                names[k], best[k] = name, value[k]
    return names, best
