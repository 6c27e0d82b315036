"""Ties that a model has learnt between units of prototypes, told without labels.

A unit is what tells of one thing: prototypes whose scores go together and that look at the same place, or bring about
the same change at another. Of every two units those axes are taken that go together most in the data (canonical
correlation; Hotelling 1936). The model is then asked what becomes of the one axis where the other unit alone is given,
once as it is in the tenth of the images lowest on its axis and once as in the highest. By masks: the expected image
E[x0 | unit, all else hidden] is encoded again. By generation: so are images from random x_T. Effects are shares of what
lies between the lowest and the highest tenth of the axis in the data.

What the images force is not ranked: units that look at the same pixels, and those that never come apart in the images.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import false_discovery_control, norm, rankdata
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from analysis.edits import expected_together
from analysis.measures.cards import match_all
from analysis.measures.scores import KnownScores, hide_all
from models.patronus import Patronus
from models.samplers import SeededNoise, sample
from train.data.dataset import ImageSet

TENTH = 0.1  # of the known images: those of the lowest and of the highest values
LEVEL = 0.05  # share of false ones among the ties called sure (Benjamini and Hochberg 1995)
JOINED = 0.15  # mean of |correlation| x likeness or overlap, from which prototypes are one unit
APART = 0.1  # overlap above which a tie is forced: both look at the same pixels
EXCEPTIONS = 0.1  # share of the exceptions that chance would give, below which two units never come apart
POLE = 0.25  # of the gap: what is so near to the mean of an end counts as of that end
SHIFT = 3  # pixels by which two changes may be displaced
RIDGE = 0.1  # of canonical correlations, in the unit of one score's variance
RAREST = 0.02  # share of the images that an end has at least, where exceptions are counted
CASES = {"high_high": (1, 1), "high_low": (1, 0), "low_high": (0, 1), "low_low": (0, 0)}  # a, b
COLUMNS = ["a", "b", "unit_a", "unit_b", "masked", "data", "alike", "overlap", "exceptions", "correlation"]
COLUMNS += ["wasserstein", "ranked", "pair"]  # of `by_masks`


class Extremes(NamedTuple):
    """The lowest and the highest tenth of known scores or axes."""

    rows: Tensor  # (2, n, m): the images
    values: Tensor  # (2, m): their means

    @property
    def gap(self) -> Tensor:
        """What an effect on one of them is a share of: (m,), at least .02."""
        return (self.values[1] - self.values[0]).clamp(min=0.02)


def extremes(scores: Tensor) -> Extremes:
    """Of scores (N, m)."""
    count, order = max(round(TENTH * len(scores)), 1), scores.argsort(dim=0, stable=True)
    rows = torch.stack([order[:count], order[-count:]])
    return Extremes(rows, torch.stack([scores.gather(0, end).mean(0) for end in rows]))


def places(model: Patronus, images: ImageSet, ends: Extremes) -> Tensor:
    """Where each prototype looks: share of its best patches, in the images of its highest scores, that cover each
    pixel, summing to 1: (m, H, W)."""
    side = images.pixels.shape[1]
    high = torch.zeros(len(images), ends.rows.shape[2], dtype=torch.bool)
    high.scatter_(0, ends.rows[1].cpu(), True)
    maps = torch.zeros(high.shape[1], side, side)
    boxes = match_all(model, images)[1]
    for i, k in high.nonzero().tolist():
        top, left, bottom, right = boxes[i, k].tolist()
        maps[k, top:bottom, left:right] += 1
    return maps / maps.sum((1, 2), keepdim=True).clamp(min=1e-12)


def overlap(maps: Tensor) -> Tensor:
    """What two places (m, H, W), each summing to 1, have in common: (m, m) in [0, 1]."""
    flat = maps.flatten(1)
    return torch.stack([torch.minimum(one, flat).sum(1) for one in flat])


def alike(expected: Tensor, maps: Tensor, size: int) -> Tensor:
    """How far two prototypes bring about the same change, each at its own place: the largest |cosine| of what their
    high score changes in the expected image, (m, 2, C, H, W), within `size` pixels around their place (m, H, W), over
    displacements of up to SHIFT pixels, as it is or mirrored: (m, m) in [0, 1], symmetric."""
    size, changes = min(size, *maps.shape[1:]), (expected[:, 1] - expected[:, 0]).cpu()
    crops, around = [], []
    for change, covered in zip(changes, F.avg_pool2d(maps[:, None], size, 1)[:, 0]):
        top, left = divmod(int(covered.argmax()), covered.shape[1])
        crops.append(change[:, top : top + size, left : left + size])
        around.append(F.pad(change, (SHIFT,) * 4)[:, top : top + size + 2 * SHIFT, left : left + size + 2 * SHIFT])
    crops, around = torch.stack(crops), torch.stack(around)
    square = torch.ones(1, 1, size, size)
    length = F.conv2d(around.square().sum(1, keepdim=True), square).clamp(min=1e-12).sqrt()
    length = torch.maximum(length, length.amax((2, 3), keepdim=True) / 2)  # where nearly nothing changes, nothing is
    one = F.normalize(crops.flatten(1), dim=1).view_as(crops)
    both = [(F.conv2d(around, kernel) / length).abs().amax((2, 3)) for kernel in (one, one.flip(3))]
    found = torch.maximum(*both)
    return torch.maximum(found, found.T).clamp(max=1)


def correlations(scores: Tensor) -> Tensor:
    """Of scores (N, m), or of their ranks where that is larger: (m, m)."""
    ranks = torch.from_numpy(rankdata(scores.cpu().numpy(), axis=0))
    plain, ranked = (torch.corrcoef(values.T.double()).nan_to_num(0) for values in (scores.cpu(), ranks))
    return torch.where(ranked.abs() > plain.abs(), ranked, plain).float()


def units(related: Tensor, near: Tensor) -> np.ndarray:
    """The unit of each prototype, numbers (m,): agglomerative clustering, by the mean of |correlation| x nearness.
    related (m, m): `correlations`; near (m, m) in [0, 1]: the larger one of likeness and overlap."""
    if len(related) < 2:
        return np.zeros(len(related), int)
    common = (related.abs() * near).clamp(0, 1).fill_diagonal_(1).double().numpy()
    distance = squareform(1 - (common + common.T) / 2, checks=False)
    return fcluster(linkage(distance, "average"), 1 - JOINED, "distance") - 1


class Axis(NamedTuple):
    """A direction in the scores of one unit; the prototype that goes with it most comes first, and rises along it."""

    members: list[int]
    weights: list[float]

    def of(self, scores: Tensor) -> Tensor:
        """(N, m) -> (N,)."""
        return scores[:, self.members] @ torch.tensor(self.weights).to(scores)


class Pair(NamedTuple):
    """Two units and the axes by which they go together most. correlation: of the axes, on images that did not choose
    them; overlap, alike: of their prototypes, weighted by squared correlation; exceptions: `exceptions`."""

    a: Axis
    b: Axis
    unit_a: int
    unit_b: int
    correlation: float
    overlap: float
    alike: float
    exceptions: float

    @property
    def ranked(self) -> bool:
        """Whether a tie of the two would not be forced by the images."""
        return self.overlap <= APART and self.exceptions >= EXCEPTIONS

    def values(self, scores: Tensor) -> Tensor:
        """Both axes: (N, m) -> (N, 2)."""
        return torch.stack([self.a.of(scores), self.b.of(scores)], dim=1)

    @property
    def turned(self) -> "Pair":
        return self._replace(a=self.b, b=self.a, unit_a=self.unit_b, unit_b=self.unit_a)


def _whitener(x: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(x.T @ x / len(x) + RIDGE * np.eye(x.shape[1]))
    return vectors / np.sqrt(values) @ vectors.T


def canonical(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (p,), (q,) of the two combinations of standardised (N, p) and (N, q) that correlate most."""
    one, other = _whitener(x), _whitener(y)
    left, _, right = np.linalg.svd(one @ (x.T @ y / len(x)) @ other)
    return one @ left[:, 0], other @ right[0]


def held_out(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of the canonical combinations on the half of the images that did not choose them: the mean of both
    halves."""
    parts, found = (slice(0, None, 2), slice(1, None, 2)), []
    for here, there in (parts, parts[::-1]):
        a, b = canonical(x[here], y[here])
        found.append(np.corrcoef(x[there] @ a, y[there] @ b)[0, 1])
    return float(np.nan_to_num(np.mean(found)))


def exceptions(x: Tensor, y: Tensor) -> float:
    """How often two values (N,) that go together come apart: of the images at an end of the one, the share at the
    contrary end of the other, divided by that of all images. 0 is never, 1 as if they were independent; the least of
    both ends, both ways."""
    found = []
    for given, other in ((x, y), (y, x)):
        rows, ends = extremes(given[:, None]).rows[:, :, 0], extremes(other[:, None])
        (low, high), near = ends.values[:, 0], POLE * (ends.values[1] - ends.values[0])
        for of, contrary in zip(rows, (other > high - near, other < low + near)):
            found.append(contrary[of].float().mean() / contrary.float().mean().clamp(min=RAREST))
    return float(torch.stack(found).min())


def _axis(scores: Tensor, members: np.ndarray, weights: np.ndarray) -> Axis:
    """Of standardised weights; sorted, and turned so that the first member rises along it."""
    own = scores[:, members].double()
    weights = torch.from_numpy(weights) / own.std(0).clamp(min=0.02)
    values = torch.cat([own.T, (own @ weights)[None]])
    loading = torch.corrcoef(values)[-1, :-1].nan_to_num(0)
    order = loading.abs().argsort(descending=True, stable=True)
    sign = -1 if loading[order[0]] < 0 else 1
    return Axis([int(members[i]) for i in order], [float(sign * weights[i]) for i in order])


def pairs_of_units(scores: Tensor, unit: np.ndarray, related: Tensor, shared: Tensor, same: Tensor) -> list[Pair]:
    """Every two units. scores (N, m); unit (m,); related, shared, same: `correlations`, `overlap`, `alike` (m, m)."""
    standard = ((scores - scores.mean(0)) / scores.std(0).clamp(min=0.02)).double().numpy()
    members, pairs = [np.flatnonzero(unit == number) for number in range(unit.max() + 1)], []
    for i, j in combinations(range(len(members)), 2):
        x, y, block = standard[:, members[i]], standard[:, members[j]], np.ix_(members[i], members[j])
        weight = related.numpy()[block] ** 2
        overlapping, similar = (float((weight * of.numpy()[block]).sum() / weight.sum()) for of in (shared, same))
        a, b = (_axis(scores, members[k], w) for k, w in zip((i, j), canonical(x, y)))
        one, other = a.of(scores), b.of(scores)
        sign = 1 if torch.corrcoef(torch.stack([one, other]))[0, 1] >= 0 else -1
        apart = exceptions(one, sign * other)
        pairs.append(Pair(a, b, i, j, sign * held_out(x, y), overlapping, similar, apart))
    return pairs


def end_values(scores: Tensor, axis: Axis) -> Tensor:
    """Mean scores of its prototypes in the lowest and in the highest tenth of an axis: (2, K), of scores (N, m)."""
    rows = extremes(axis.of(scores)[:, None]).rows[:, :, 0]
    return torch.stack([scores[end][:, axis.members].mean(0) for end in rows])


def split_of(scores: Tensor, pair: Pair) -> tuple[float, float, float]:
    """What the data say of b's axis where a's is low and high: the gap of b's axis; the difference of its means and of
    its distributions (Wasserstein), as shares of the gap. scores (N, m)."""
    x, y = pair.values(scores).T
    low, high = (y[end].sort().values for end in extremes(x[:, None]).rows[:, :, 0])
    gap = float(extremes(y[:, None]).gap)
    return gap, float((high - low).mean()) / gap, float((high - low).abs().mean()) / gap


@torch.no_grad()
def masked_effect(model: Patronus, pair: Pair, known: KnownScores, shape) -> float:
    """What becomes of b's axis, as a share of its gap, in the image expected where a alone is given low and high."""
    expected = expected_together(model, pair.a.members, end_values(known.scores, pair.a), known, shape)
    low, high = pair.b.of(model.score(expected.clamp(-1, 1)).float()).tolist()
    return (high - low) / split_of(known.scores, pair)[0]


@torch.no_grad()
def conditional_images(model: Patronus, members: list[int], values: Tensor, count: int, shape, seed: int) -> Tensor:
    """Images in which some scores are given, values (K,), and all else is hidden, from random x_T: (count, C, H, W) in
    [-1, 1]."""
    sampler, steps = model.best_sampling
    noise, sigmas = SeededNoise(range(seed, seed + count), shape, values.device), model.sigmas(steps)
    s = hide_all(values.new_empty(count, model.encoder.width))
    s[:, members] = values
    return sample(sampler, model.denoiser(s), sigmas[0].float() * noise(), sigmas, noise).clamp(-1, 1)


@torch.no_grad()
def generated_effects(model: Patronus, pairs, scores: Tensor, count: int, shape, seed: int) -> list[Tensor]:
    """The same of every pair in `count` images from random x_T: differences (count,), both ends from the same noise.
    scores (N, m)."""
    found = []
    for pair in tqdm(pairs, desc="generating", unit="pair", leave=False):
        low, high = (
            pair.b.of(model.score(conditional_images(model, pair.a.members, end, count, shape, seed)).float())
            for end in end_values(scores, pair.a)
        )
        found.append(((high - low) / split_of(scores, pair)[0]).cpu())
    return found


def by_masks(model: Patronus, pairs: list[Pair], known: KnownScores, shape) -> pd.DataFrame:
    """One row a pair, in the direction in which masks tell more, the strongest first; `pair` holds it."""
    rows = []
    for pair in tqdm(pairs, desc="asking", unit="pair", leave=False):
        effects = [(masked_effect(model, one, known, shape), one) for one in (pair, pair.turned)]
        masked, pair = max(effects, key=lambda effect: abs(effect[0]))
        _, data, wasserstein = split_of(known.scores, pair)
        rows.append(
            {"a": pair.a.members[0], "b": pair.b.members[0], "unit_a": pair.unit_a, "unit_b": pair.unit_b}
            | {"masked": masked, "data": data, "alike": pair.alike, "overlap": pair.overlap}
            | {"exceptions": pair.exceptions, "correlation": pair.correlation, "wasserstein": wasserstein}
            | {"ranked": pair.ranked, "pair": pair}
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    order = (table["masked"].abs() * (1 - table["alike"])).sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True).astype({"ranked": bool})


def rank_ties(table: pd.DataFrame, differences: list[Tensor]) -> pd.DataFrame:
    """The candidates, the strongest first. A tie is the smaller one of masked and generated, 0 where their signs
    differ; strength is the tie x (1 - alike), with its standard error; sure: more than chance makes of all of these.

    table: rows of `by_masks`; differences: `generated_effects` of each.
    """
    ranked = table.copy()
    ranked["generated"] = [float(values.mean()) for values in differences]
    ranked["generated_error"] = [float(values.std() / len(values) ** 0.5) for values in differences]
    agree = ranked["masked"] * ranked["generated"] > 0
    ranked["tie"] = np.where(agree, ranked[["masked", "generated"]].abs().min(axis=1), 0.0)
    ranked["strength"] = ranked["tie"] * (1 - ranked["alike"])
    ranked["error"] = ranked["generated_error"] * (1 - ranked["alike"])
    ranked["excess"] = ranked["generated"].abs() - ranked["data"].abs()
    chance = 2 * norm.sf(ranked["generated"].abs() / ranked["generated_error"].clip(lower=1e-9))
    ranked["sure"] = agree & (false_discovery_control(chance) < LEVEL if len(ranked) else False)
    return ranked.sort_values("strength", ascending=False, kind="stable", ignore_index=True)


class Corner(NamedTuple):
    """Images in which two values are high (1) or low (0)."""

    high_a: int
    high_b: int
    count: int  # of all known images
    nearest: list[int]  # rows, the nearest first


def corners(values: Tensor, most: int) -> list[Corner]:
    """The four cases of two values of every known image (N, 2); one is high above the middle of its low and high
    tenth."""
    ends, cases = extremes(values), []
    high = values > ends.values.mean(0)
    for case in CASES.values():
        inside = (high == torch.tensor(case, device=high.device)).all(1)
        there = torch.stack([ends.values[end, k] for k, end in enumerate(case)])
        distance = ((values - there).abs() / ends.gap).amax(1)
        distance[~inside] = torch.inf
        count = int(inside.sum())
        cases.append(Corner(*case, count, distance.argsort(stable=True)[: min(most, count)].tolist()))
    return cases
