"""Measures of edits as the field has them: each a function of what a classifier sees or of pixels, with its direction,
range and source.

Evidence is what a classifier says of each attribute (n, A), positive where it is seen. Images are in [-1, 1].
"""

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.special import expit
from scipy.stats import spearmanr
from torch import Tensor

from analysis.measures.readers import Reader

BLENDS = 50  # steps of COUT
PART_SHARE = 0.8  # of the images that show a part, in which a consistent prototype's box meets it


def steerability(after: np.ndarray, column: int, wanted: bool) -> float:
    """Share of edited images in which the commanded attribute is seen (wanted) or not seen. Higher is better, 0 to 1.

    Activating and deactivating are told apart (CB-AE / CC, CVPR 2025). after: evidence (n, A).
    """
    return float(((after[:, column] > 0) == wanted).mean())


def side_changes(before: np.ndarray, after: np.ndarray, others: list[int]) -> float:
    """Share of (image, attribute that an edit must leave alone) in which the classifier's answer changes. Lower is
    better, 0 to 1."""
    return float(((before > 0) != (after > 0))[:, others].mean()) if others else np.nan


def mnac(before: np.ndarray, after: np.ndarray) -> float:
    """Mean number of attributes that change by an edit, that of the command among them. Best 1, 0 to A (MNAC; Rodriguez
    et al. 2021)."""
    return float(((before > 0) != (after > 0)).sum(1).mean())


def correlation_difference(change: np.ndarray, column: int, truth: np.ndarray) -> float:
    """Sum over attributes i of |corr(change_i, change_q) - truth_i|, q the edited one. Lower is better, 0 to 2 A (CD;
    Jeanneret et al. 2022).

    change: of evidence (n, A) by one edit; truth (A,): the data's correlations with q, or 0 for all, which is what
    exact counterfactuals have: of them nothing but q changes. A change that never varies correlates with nothing.
    """
    centred = change - change.mean(0)
    scale = np.sqrt(np.square(centred).sum(0))
    correlation = centred.T @ centred[:, column] / np.maximum(scale * scale[column], 1e-12)
    distance = np.abs(correlation - truth)
    distance[column] = 0
    return float(distance.sum())


def squared_distance(images: Tensor, truth: Tensor) -> float:
    """Mean squared difference of pixels to the true counterfactual, in units of [-1, 1]. Lower is better, 0 to 4.

    Minimality with a known answer (Monteiro et al. 2023): an edit must come nearer than doing nothing.
    """
    return float((images - truth).square().mean())


def cout(reader: Reader, x0: Tensor, edited: Tensor, column: int, up: bool) -> float:
    """Area under p(target) less area under p(source) while x0 turns into its edit, the pixels of largest change first.
    Higher is better, -1 to 1.

    COUT (Khorram and Fuxin 2022), in BLENDS steps: few pixels that decide give a high value. p is the classifier's
    probability.
    """
    n = len(x0)
    order = (edited - x0).abs().sum(1).flatten(1).argsort(dim=1, descending=True)  # (n, H W)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=x0.device).expand(n, -1))
    rank, curve = rank.view(n, 1, *x0.shape[2:]), []
    for step in range(BLENDS + 1):
        blended = torch.where(rank < step / BLENDS * order.shape[1], edited, x0)
        curve.append(expit(reader(blended)[:, column]))
    present = float(trapezoid(np.mean(curve, axis=1), dx=1 / BLENDS))
    return 2 * present - 1 if up else 1 - 2 * present


def single_deletion(importance: np.ndarray, drop: np.ndarray) -> float:
    """.5 + .5 Spearman(importance that an explanation gives each part, drop of the score when that part is truly
    removed). Higher is better, 0 to 1.

    FunnyBirds (Hesse et al. 2023). importance, drop: (n images, parts); images in which either never varies are left
    out; NaN where all are.
    """
    varying = (np.ptp(importance, axis=1) > 0) & (np.ptp(drop, axis=1) > 0)
    rho = [spearmanr(a, b)[0] for a, b in zip(importance[varying], drop[varying])]
    return float(0.5 + 0.5 * np.mean(rho)) if rho else np.nan


def boxes_meet(regions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each box (n, K, 4) (top, left, bottom, right) meets a region (n, H, W): bool (n, K)."""
    n, h, w = regions.shape
    summed = np.zeros((n, h + 1, w + 1))
    summed[:, 1:, 1:] = regions.cumsum(1).cumsum(2)
    top, left, bottom, right = np.moveaxis(boxes, -1, 0)
    rows = np.arange(n)[:, None]
    inside = (
        summed[rows, bottom, right] - summed[rows, top, right] - summed[rows, bottom, left] + summed[rows, top, left]
    )
    return inside > 0


def consistency(meets: list[np.ndarray]) -> np.ndarray:
    """Whether each prototype's box meets one and the same part in at least 80 % of the images that show it: bool (K,);
    its mean is the measure.

    Higher is better (consistency score of EvalProtoPNet; Huang et al. 2023). meets: for each part bool (images that
    show it, K).
    """
    return np.max([part.mean(0) for part in meets], axis=0) >= PART_SHARE


def stability(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Share of images whose set of parts in a prototype's box survives noise, for each prototype: (K,). Higher is
    better, 0 to 1.

    Stability score of EvalProtoPNet (Huang et al. 2023). before, after: which parts a box meets, bool (parts, n, K).
    """
    return (before == after).all(0).mean(0)
