"""Concepts that several prototypes share: groups and their states, found without labels, by what prototypes do
together.

A colour is told by several prototypes, each at its own place. Two prototypes are alike where their scores rise together
or against each other in the known images, where they change the same pixels, and where setting the one moves the
other. What such a group tells comes in several kinds, say black, brown, blond and red hair: its states, the clusters of
its members' scores.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from analysis.measures.auroc import best_attributes, single_auroc
from analysis.measures.scores import KnownScores

ALIKE = 0.4  # mean likeness of two groups above which they become one
SMALLEST = 2  # prototypes of a group
NAMED = 0.8  # AUROC from which a state is called by an attribute
STATES = 8  # of a group at most
CLUSTERED, JUDGED = 2000, 1000  # known images at most among which states are found, and of their silhouettes


class Group(NamedTuple):
    """Prototypes, the most typical first, and their scores in each state (S, K), from low to high of the first."""

    members: list[int]
    states: Tensor


def likeness(known: KnownScores, expected: Tensor) -> np.ndarray:
    """How alike two prototypes are, (m, m) in [0, 1]: the geometric mean of what their scores have in common and of
    their maps.

    Scores: |Spearman correlation|, which also tells how far the setting of one moves the other. Places: cosine of the
    maps of |E[x0 | s_k high] - E[x0 | s_k low]|; expected (m, 2, C, H, W).
    """
    together = torch.corrcoef(known.ranks.T).nan_to_num(0).abs().cpu()
    maps = (expected[:, 1] - expected[:, 0]).abs().mean(1).flatten(1)
    places = torch.nn.functional.normalize(maps, dim=1)
    return (together * (places @ places.T)).clamp(min=0).sqrt().numpy()


def find_groups(known: KnownScores, expected: Tensor) -> list[Group]:
    """Groups of prototypes, those of the strongest common part first: agglomerative clustering by mean likeness."""
    if len(expected) < SMALLEST:
        return []
    alike = likeness(known, expected)
    clusters = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - ALIKE
    ).fit_predict(1 - alike)
    correlation = torch.corrcoef(known.ranks.T).nan_to_num(0).abs().cpu().numpy()
    groups = []
    for label in range(clusters.max() + 1):
        members = np.flatnonzero(clusters == label)
        if len(members) >= SMALLEST:
            lead = members[alike[np.ix_(members, members)].sum(1).argmax()]  # the most typical one
            groups.append([int(k) for k in sorted(members, key=lambda k: -correlation[lead, k])])
    groups.sort(key=lambda members: -correlation[members[0], members].sum())
    return [Group(members, find_states(known, members)) for members in groups]


def find_states(known: KnownScores, members: list[int]) -> Tensor:
    """Mean scores (S, K) of K prototypes in each cluster of the known images, from low to high of the first prototype.

    k-means of the scores in their deviations, with the number of clusters, 2 to STATES, whose mean silhouette is
    largest (Rousseeuw 1987).
    """
    rows = torch.linspace(0, len(known) - 1, min(CLUSTERED, len(known))).long()
    scores = known.scores[rows][:, members].cpu()
    scaled = (scores / known.deviation[members].cpu()).numpy()
    some = np.linspace(0, len(scaled) - 1, min(JUDGED, len(scaled))).round().astype(int)  # sets may stand in order
    different, best, labels = len(np.unique(scaled, axis=0)), -np.inf, np.zeros(len(scaled), int)
    for count in range(2, min(STATES, different - 1) + 1):
        found = KMeans(count, n_init=3, random_state=0).fit_predict(scaled)
        alone = len(np.unique(found[some])) < 2  # a cluster of few, none of which is judged
        quality = -1.0 if alone else silhouette_score(scaled[some], found[some])
        if quality > best:
            best, labels = quality, found
    means = torch.stack([scores[labels == label].mean(0) for label in np.unique(labels)])
    return means[means[:, 0].argsort()].to(known.scores)


def belonging(known: KnownScores, group: Group) -> Tensor:
    """How far known images belong to each state, (N, S): how much nearer they are to it than to the next one, in
    deviations of the scores; above 0 for the state that an image is in."""
    unit, scores = (part.to(group.states) for part in (known.deviation, known.scores))
    unit = unit[group.members]
    distance = torch.cdist(scores[:, group.members] / unit, group.states / unit)
    if distance.shape[1] < 2:
        return torch.zeros_like(distance)
    nearest = distance.topk(2, dim=1, largest=False).values
    others = torch.where(distance <= nearest[:, :1], nearest[:, 1:], nearest[:, :1])
    return others - distance


def state_names(group: Group, known: KnownScores, attributes) -> list[str]:
    """'Red Hair (0.97)' for each state, the attribute that it tells best (`best_attributes`), or '' below an AUROC of
    NAMED; attributes: N rows, those of the known images."""
    names, auroc = best_attributes(belonging(known, group).cpu().numpy(), attributes)
    return [f"{name.replace('_', ' ')} ({a:.2f})" if name and a >= NAMED else "" for name, a in zip(names, auroc)]


def telling_groups(groups: list[Group], known: KnownScores, attributes) -> list[str]:
    """'group 6 (34, 38, 0): state 0 Blond Hair (0.97), state 2 Black Hair (1.00)' of each group with states that tell
    an attribute (`state_names`)."""
    lines = []
    for number, group in enumerate(groups):
        named = [f"state {j} {name}" for j, name in enumerate(state_names(group, known, attributes)) if name]
        if named:
            lines.append(f"group {number} ({', '.join(map(str, group.members))}): {', '.join(named)}")
    return lines


class StateOf(NamedTuple):
    """The state that tells an attribute, the one of the same group that tells best that it is not there, and the AUROC
    of the first."""

    group: int
    present: int
    absent: int
    auroc: float


def best_states(groups: list[Group], known: KnownScores, attributes) -> dict[str, StateOf]:
    """The state that tells each attribute best, where one tells it by NAMED at least."""
    best: dict[str, StateOf] = {}
    for number, group in enumerate(groups):
        values = belonging(known, group).cpu().numpy()
        for name in attributes.columns:
            auroc = single_auroc(values, attributes[name].to_numpy(float))
            if np.nanmax(auroc, initial=0) >= max(NAMED, best[name].auroc if name in best else 0):
                best[name] = StateOf(number, int(auroc.argmax()), int(auroc.argmin()), float(auroc.max()))
    return best
