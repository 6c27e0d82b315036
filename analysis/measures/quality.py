"""What scores tell about known attributes: latent and single AUROC, TAD (protocol of Wang et al. 2023; Yeats et al.
2022)."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from analysis.measures.auroc import auroc_of_ranks
from models.patronus import Patronus
from train.build import build_model, initialise
from train.data.dataset import load_split
from train.runs import Run

FOLDS = 5
CAPTURED_AUROC, CAPTURED_SHARED = 0.75, 0.2  # at least, at most


def untrained_model(run: Run, device: torch.device) -> Patronus:
    """The model of a run before anything is learnt: its prototypes are random patches, its templates random images."""
    torch.manual_seed(run.config.train.seed)
    model = build_model(run.config).to(device)
    initialise(model, run.config, load_split(run.config.data, "train"), device, learn_templates=False)
    return model.eval().requires_grad_(False)


def entropy_bits(labels):
    """Entropy of binary labels (..., N) in bits, over the last axis."""
    p = np.clip(np.mean(labels, axis=-1), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def mutual_bits(labels):
    """Mutual information in bits of every pair of binary labels (A, N), from their counts: (A, A)."""
    labels = np.asarray(labels, dtype=float)
    n = labels.shape[1]
    share = np.stack([1 - labels.mean(1), labels.mean(1)])  # (2, A)
    total = np.zeros((len(labels), len(labels)))
    for x, left in enumerate((1 - labels, labels)):
        for y, right in enumerate((1 - labels, labels)):
            joint = left @ right.T / n
            expected = np.outer(share[x], share[y])
            total += np.where(joint > 0, joint * np.log2(np.maximum(joint, 1e-300) / np.maximum(expected, 1e-300)), 0)
    return total


def captured_and_tad(single, labels) -> tuple[list[int], float]:
    """Which attributes (rows of single (A, m): AUROC, better direction; labels (A, N)) are captured, and TAD.

    Captured: best AUROC at least 0.75 and at most 0.2 of the entropy shared with any other attribute (Wang et al.
    2023). TAD: sum over those of best minus second-best AUROC.
    """
    shared = mutual_bits(labels)
    np.fill_diagonal(shared, 0)
    share = shared.max(1) / entropy_bits(labels)
    second, best = np.sort(single, axis=1)[:, -2:].T
    captured = np.flatnonzero((best >= CAPTURED_AUROC) & (share <= CAPTURED_SHARED))
    return captured.tolist(), float((best - second)[captured].sum())


def single_aurocs(scores, labels):
    """AUROC, in the better direction, of every score (N, m) for every row of labels (A, N): (A, m)."""
    ranks = rankdata(scores, axis=0)
    auroc = np.array([auroc_of_ranks(ranks, row > 0) for row in labels])
    return np.maximum(auroc, 1 - auroc)


def folds_of(scores):
    return tqdm(list(KFold(FOLDS, shuffle=True, random_state=0).split(scores)), desc="folds", leave=False)


def regression():
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))  # 60,000 images may need over 1,000


def latent_aurocs(scores, labels):
    """AUROC of a regression from scores (N, m) to binary labels (N,) on each of five folds, learnt on the others: (5,).

    Every fold holds its share of the positives, since AUROC is unknown where there is none.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(scores, labels)
    return np.array(
        [
            roc_auc_score(labels[held], regression().fit(scores[fit], labels[fit]).decision_function(scores[held]))
            for fit, held in folds
        ]
    )


class Evaluation(NamedTuple):
    """What scores tell of attributes: a table of one row an attribute, the names of those captured, and TAD, mean and
    deviation over folds."""

    table: pd.DataFrame
    captured: list[str]
    tad: float
    tad_deviation: float


def evaluate(scores, attributes) -> Evaluation:
    """scores (N, m), attributes (N rows, no unknowns, five images at least with each and without)."""
    names, labels = list(attributes.columns), attributes.to_numpy(int).T
    bar = tqdm(labels, desc="attributes", unit="attribute", leave=False)
    latent = np.array([latent_aurocs(scores, row) for row in bar])  # (A, FOLDS)
    tads = [
        captured_and_tad(single_aurocs(scores[held], labels[:, held]), labels[:, held])[1]
        for _, held in folds_of(scores)
    ]
    single = single_aurocs(scores, labels)
    rows = {
        "latent": latent.mean(1),
        "deviation": latent.std(1),
        "single": single.max(1),
        "prototype": single.argmax(1),
    }
    rows["second"] = np.sort(single, axis=1)[:, -2]
    captured, _ = captured_and_tad(single, labels)
    table = pd.DataFrame(rows, index=pd.Index(names, name="attribute"))
    return Evaluation(table, [names[a] for a in captured], np.mean(tads), np.std(tads))


def class_accuracy(scores, labels) -> tuple[float, float]:
    """Accuracy of a logistic regression from scores (N, m) to classes (N,): mean and deviation over folds."""
    accuracies = [
        np.mean(regression().fit(scores[fit], labels[fit]).predict(scores[held]) == labels[held])
        for fit, held in folds_of(scores)
    ]
    return float(np.mean(accuracies)), float(np.std(accuracies))


def held_out_accuracy(fit, fit_labels, values, labels) -> float:
    """Accuracy on values (N, m) of classes (N,) of a logistic regression that learnt on others, fit (M, m)."""
    return float(np.mean(regression().fit(fit, fit_labels).predict(values) == labels))
