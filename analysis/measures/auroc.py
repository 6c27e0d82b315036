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
    """The attribute each column predicts best, in either direction: names (m,) ('' where there is none) and AUROC in
    [0.5, 1]."""
    names, best = [""] * scores.shape[1], np.full(scores.shape[1], np.nan)
    for attribute in attributes.columns:
        auroc = both_ways(scores, attributes[attribute].to_numpy(float))
        for k in np.flatnonzero(np.isnan(best) | (auroc > best)):
            if not np.isnan(auroc[k]):
                names[k], best[k] = attribute, auroc[k]
    return names, best
