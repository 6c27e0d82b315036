"""Concepts that several prototypes share: groups found without labels, by what prototypes do together.

A colour is told by several prototypes, each at its own place. Two prototypes are alike where their scores rise together
or against each other in the known images, where they change the same pixels, and where setting the one moves the
other.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor

from analysis.measures.auroc import best_attributes, single_auroc
from analysis.measures.scores import SHARE, KnownScores

ALIKE = 0.3  # mean likeness of two groups above which they become one
SMALLEST = 2  # prototypes of a group
NAMED = 0.8  # AUROC from which a group is called by an attribute


class Group(NamedTuple):
    """Prototypes and the direction (+1, -1) in which each goes with the group; the first member leads."""

    members: list[int]
    directions: list[int]


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
    correlation = torch.corrcoef(known.ranks.T).nan_to_num(0).cpu().numpy()
    groups = []
    for label in range(clusters.max() + 1):
        members = np.flatnonzero(clusters == label)
        if len(members) >= SMALLEST:
            lead = members[alike[np.ix_(members, members)].sum(1).argmax()]  # the most typical one
            members = sorted(members, key=lambda k: -abs(correlation[lead, k]))
            groups.append(Group([int(k) for k in members], [1 if correlation[lead, k] >= 0 else -1 for k in members]))
    return sorted(groups, key=lambda g: -len(g.members) * float(np.abs(correlation[g.members[0], g.members]).mean()))


def activation(known: KnownScores, group: Group) -> Tensor:
    """How far known images have what the group stands for: the mean rank of its members, each in its direction, (N,) in
    (0, 1)."""
    directions = torch.tensor(group.directions, device=known.scores.device, dtype=known.scores.dtype)
    return ((known.ranks[:, group.members] - 0.5) * directions).mean(1) + 0.5


def group_values(known: KnownScores, group: Group, share: float) -> list[float]:
    """The members' mean scores over the known images whose activation is nearest to that of a share of them: 1 is most,
    0 is least."""
    order = activation(known, group).argsort()
    count = max(round(SHARE * len(known)), 1)
    first = round(share * (len(known) - count))
    return known.scores[order[first : first + count]][:, group.members].mean(0).tolist()


class Telling(NamedTuple):
    """How a group tells an attribute: AUROC of its activation in the better direction, and that direction (+1, -1)."""

    attribute: str
    auroc: float
    direction: int


def tellings(group: Group, known: KnownScores, attributes) -> list[Telling]:
    """How a group tells each attribute, the best first; attributes: N rows, those of the known images."""
    value, telling_attributes = activation(known, group).cpu().numpy()[:, None], []
    for name in attributes.columns:
        auroc = float(single_auroc(value, attributes[name].to_numpy(float))[0])
        if not np.isnan(auroc):
            telling_attributes.append(Telling(name, max(auroc, 1 - auroc), 1 if auroc >= 0.5 else -1))
    return sorted(telling_attributes, key=lambda telling: -telling.auroc)


def group_name(group: Group, known: KnownScores, attributes) -> str:
    """'Red Hair (0.97)', the attribute that a group tells best (`best_attributes`), or '' below an AUROC of NAMED."""
    (name,), (auroc,) = best_attributes(activation(known, group).cpu().numpy()[:, None], attributes)
    return f"{name.replace('_', ' ')} ({auroc:.2f})" if name and auroc >= NAMED else ""


def best_groups(groups: list[Group], known: KnownScores, attributes) -> dict[str, tuple[int, Telling]]:
    """The group that tells each attribute best, by number, where one tells it by NAMED at least."""
    best: dict[str, tuple[int, Telling]] = {}
    for number, group in enumerate(groups):
        for telling in tellings(group, known, attributes):
            others = best.get(telling.attribute)
            if telling.auroc >= NAMED and (others is None or telling.auroc > others[1].auroc):
                best[telling.attribute] = (number, telling)
    return best
