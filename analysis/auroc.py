"""AUROC of many single dimensions at once."""

import numpy as np
from scipy.stats import rankdata


def single_auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC of every column of scores (N, m) for binary labels (N,), in [0, 1], ties counted half (Mann-Whitney): (m,).

    Unknown labels (NaN) are left out; NaN where one class is missing.
    """
    known = ~np.isnan(labels)
    ranks, positive = rankdata(scores[known], axis=0), labels[known] > 0
    p, n = positive.sum(), (~positive).sum()
    if not p or not n:
        return np.full(scores.shape[1], np.nan)
    return (ranks[positive].sum(0) - p * (p + 1) / 2) / (p * n)


def best_attributes(scores: np.ndarray, attributes) -> tuple[list[str], np.ndarray]:
    """The attribute each column predicts best, in either direction: names (m,) ('' where there is none) and AUROC in [0.5, 1]."""
    names, best = [""] * scores.shape[1], np.full(scores.shape[1], np.nan)
    for attribute in attributes.columns:
        auroc = single_auroc(scores, attributes[attribute].to_numpy(float))
        auroc = np.maximum(auroc, 1 - auroc)
        for k in np.flatnonzero(np.isnan(best) | (auroc > best)):
            if not np.isnan(auroc[k]):
                names[k], best[k] = attribute, auroc[k]
    return names, best
