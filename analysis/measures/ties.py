"""Ties that a model has learnt between prototypes, told without labels.

Of an ordered pair a, b the model is asked twice what s_b becomes where s_a alone is given, once high and once low. By
masks: the expected image E[x0 | s_a, all else hidden] is encoded again. By generation: so are images from random x_T.
Effects are told as shares of what lies between the lowest and the highest tenth of s_b in the data, and stand beside
what the data say of the same split.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import connected_components
from scipy.stats import norm
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from analysis.measures.scores import hide_all
from models.patronus import Patronus
from models.samplers import SeededNoise, sample
from train.data.dataset import ImageSet
from train.images import to_tensor

TENTH = 0.1  # of the known images: those of the lowest and of the highest scores
LEVEL = 0.05  # that any tie is named in a model without one, over all pairs
TOGETHER = 0.3  # |correlation| from which prototypes of one place are one unit
SAME_PLACE = 0.4  # overlap of two places, from which prototypes are of one place
APART = 0.1  # overlap above which a tie is forced: both look at the same pixels
QUANTILES = 50  # of which a Wasserstein distance is the mean difference
CASES = {"high_high": (1, 1), "high_low": (1, 0), "low_high": (0, 1), "low_low": (0, 0)}  # a, b
RIDGE = 0.01  # of the linear probe, in the unit of one score's variance


class Extremes(NamedTuple):
    """The lowest and the highest tenth of known scores."""

    rows: Tensor  # (2, n, m): the images
    values: Tensor  # (2, m): their mean scores

    @property
    def gap(self) -> Tensor:
        """What an effect on a prototype is a share of: (m,), at least .02."""
        return (self.values[1] - self.values[0]).clamp(min=0.02)


def extremes(scores: Tensor) -> Extremes:
    """Of scores (N, m)."""
    count, order = max(round(TENTH * len(scores)), 1), scores.argsort(dim=0, stable=True)
    rows = torch.stack([order[:count], order[-count:]])
    return Extremes(rows, torch.stack([scores.gather(0, end).mean(0) for end in rows]))


def split_by(scores: Tensor, ends: Extremes) -> Tensor:
    """Quantiles of every score among the images in which another is low and high: (m, 2, QUANTILES, m), of scores (N,
    m)."""
    return torch.stack(
        [torch.stack([_quantiles(scores[ends.rows[end, :, a]]) for end in (0, 1)]) for a in range(scores.shape[1])]
    )


def _quantiles(scores: Tensor) -> Tensor:
    """(n, m) -> (QUANTILES, m)."""
    return torch.quantile(scores, (torch.arange(QUANTILES) + 0.5).to(scores) / QUANTILES, dim=0)


@torch.no_grad()
def expected_scores(model: Patronus, expected: Tensor) -> Tensor:
    """By masks: scores of the images that are expected where s_a alone has its low and its high value, (m, 2, C, H, W)
    -> (m, 2, m)."""
    return torch.stack([model.score(pair.clamp(-1, 1)).float().cpu() for pair in expected])


@torch.no_grad()
def conditional_images(model: Patronus, prototype: int, value: float, count: int, shape, seed: int, device) -> Tensor:
    """Images in which one score is given and all else is hidden, from random x_T: (count, C, H, W) in [-1, 1]."""
    sampler, steps = model.best_sampling
    noise, sigmas = SeededNoise(range(seed, seed + count), shape, device), model.sigmas(steps)
    s = hide_all(torch.empty(count, model.encoder.width, device=device))
    s[:, prototype] = value
    return sample(sampler, model.denoiser(s), sigmas[0].float() * noise(), sigmas, noise).clamp(-1, 1)


@torch.no_grad()
def generated_scores(model: Patronus, values: Tensor, count: int, shape, seed: int) -> Tensor:
    """By generation: scores of `count` images where s_a alone has its low and its high value, (m, 2, count, m).

    Both ends begin with the same noise, so that their differences are paired. values (2, m).
    """
    device, scores = values.device, []
    for a in tqdm(range(values.shape[1]), desc="generating", unit="prototype", leave=False):
        ends = (conditional_images(model, a, values[end, a].item(), count, shape, seed, device) for end in (0, 1))
        scores.append(torch.stack([model.score(images).float().cpu() for images in ends]))
    return torch.stack(scores)


def _correlation(scores: Tensor) -> Tensor:
    return torch.corrcoef(scores.T).nan_to_num(0)


def probe(scores: Tensor) -> Tensor:
    """Coefficients (m, m) of every standardised score a in the ridge regression of score b on all others."""
    correlation = _correlation(scores.double()).fill_diagonal_(1)
    inverse = torch.linalg.inv(correlation + RIDGE * torch.eye(len(correlation), dtype=torch.double))
    return (-inverse / inverse.diagonal()).float().fill_diagonal_(0)


def pairs_table(scores: Tensor, ends: Extremes, expected: Tensor, generated: Tensor) -> pd.DataFrame:
    """One row an ordered pair. Effects of a on b, each a share of b's gap: masked, generated with its standard error,
    data; excess: |generated| - |data|; apart: mean Wasserstein distance of generated s_b from the data's, split by a.
    sure: generated and masked agree in sign, and no chance would do as much over all pairs. Baselines, of the data
    alone: correlation, probe, wasserstein (of s_b where a is low from where a is high).

    scores (N, m), expected (m, 2, m), generated (m, 2, n, m).
    """
    m, gap = scores.shape[1], ends.gap
    split = split_by(scores, ends)
    generated_split = torch.stack([torch.stack([*map(_quantiles, pair)]) for pair in generated])
    paired = (generated[:, 1] - generated[:, 0]) / gap  # (m, n, m)
    columns = {
        "masked": (expected[:, 1] - expected[:, 0]) / gap,
        "generated": paired.mean(1),
        "generated_error": paired.std(1) / paired.shape[1] ** 0.5,
        "data": (split[:, 1] - split[:, 0]).mean(1) / gap,
        "apart": (generated_split - split).abs().mean((1, 2)) / gap,
        "correlation": _correlation(scores),
        "probe": probe(scores),
        "wasserstein": (split[:, 1] - split[:, 0]).abs().mean(1) / gap,
    }
    a, b = (~torch.eye(m, dtype=torch.bool)).nonzero(as_tuple=True)
    table = pd.DataFrame({"a": a, "b": b} | {name: values[a, b].numpy() for name, values in columns.items()})
    table["excess"] = table["generated"].abs() - table["data"].abs()
    table["tie"] = np.where(
        table["masked"] * table["generated"] > 0, table[["masked", "generated"]].abs().min(axis=1), 0.0
    )
    least = norm.isf(LEVEL / 2 / len(table)) * table["generated_error"]
    table["sure"] = (table["tie"] > 0) & (table["generated"].abs() > least)
    return table


def places(model: Patronus, images: ImageSet, ends: Extremes, batch: int = 256) -> Tensor:
    """Where each prototype looks: share of its best patches, in the images of its highest scores, that cover each
    pixel, summing to 1: (m, H, W)."""
    device, side = model.encoder.prototypes.device, images.pixels.shape[1]
    high = torch.zeros(len(images), ends.rows.shape[2], dtype=torch.bool)
    high.scatter_(0, ends.rows[1].cpu(), True)
    maps = torch.zeros(high.shape[1], side, side)
    for start in tqdm(range(0, len(images), batch), desc="placing", unit="batch", leave=False):
        boxes = model.encoder.match(to_tensor(images.pixels[start : start + batch], device)).boxes.cpu()
        for i, k in high[start : start + batch].nonzero().tolist():
            top, left, bottom, right = boxes[i, k].tolist()
            maps[k, top:bottom, left:right] += 1
    return maps / maps.sum((1, 2), keepdim=True).clamp(min=1e-12)


def overlap(maps: Tensor) -> Tensor:
    """What two places (m, H, W), each summing to 1, have in common: (m, m) in [0, 1]."""
    flat = maps.flatten(1)
    return torch.stack([torch.minimum(one, flat).sum(1) for one in flat])


def alike(expected: Tensor, maps: Tensor, size: int) -> Tensor:
    """How far two prototypes bring about the same change, each at its own place: |cosine| of what their high score
    changes in the expected image, (m, 2, C, H, W), within `size` pixels around their place (m, H, W), as it is or
    mirrored: (m, m) in [0, 1]."""
    size, crops = min(size, *maps.shape[1:]), []
    for change, covered in zip(expected[:, 1] - expected[:, 0], F.avg_pool2d(maps[:, None], size, 1)[:, 0]):
        top, left = divmod(int(covered.argmax()), covered.shape[1])
        crops.append(change[:, top : top + size, left : left + size])
    crops = torch.stack(crops).cpu()
    one, mirrored = (F.normalize(crop.flatten(1), dim=1) for crop in (crops, crops.flip(3)))
    return torch.maximum((one @ one.T).abs(), (one @ mirrored.T).abs()).clamp(max=1)


def units(scores: Tensor, shared: Tensor) -> np.ndarray:
    """The unit of each prototype, numbers (m,): prototypes of one place whose scores go together, and those joined by
    others. scores (N, m), shared (m, m)."""
    joined = (_correlation(scores).abs() > TOGETHER) & (shared > SAME_PLACE)
    return connected_components(joined.numpy(), directed=False)[1]


def rank_ties(table: pd.DataFrame, shared: Tensor, same: Tensor, unit: np.ndarray) -> pd.DataFrame:
    """The strongest sure ordered pair of every two units, the strongest first: strength is the tie times 1 - alike.

    Trivial ties are left out, where both look at the same pixels or are of one unit, or come late: what changes in the
    same way at two places is most often one thing, as two eyes. shared: `overlap`; same: `alike` (m, m); unit (m,).
    """
    a, b = table["a"].to_numpy(), table["b"].to_numpy()
    ranked = table.assign(overlap=shared.numpy()[a, b], alike=same.numpy()[a, b], unit_a=unit[a], unit_b=unit[b])
    ranked["strength"] = ranked["tie"] * (1 - ranked["alike"])
    ranked = ranked[ranked["sure"] & (ranked["unit_a"] != ranked["unit_b"]) & (ranked["overlap"] <= APART)]
    ranked = ranked.sort_values("strength", ascending=False, kind="stable")
    both = [tuple(sorted(pair)) for pair in zip(ranked["unit_a"], ranked["unit_b"])]
    ranked = ranked[~pd.Series(both, index=ranked.index, dtype=object).duplicated()]
    return ranked.drop(columns="sure").reset_index(drop=True)


class Corner(NamedTuple):
    """Images in which two scores are high (1) or low (0)."""

    high_a: int
    high_b: int
    count: int  # of all known images
    nearest: list[int]  # rows, the nearest first


def corners(scores: Tensor, ends: Extremes, a: int, b: int, most: int) -> list[Corner]:
    """The four cases of two prototypes in known scores (N, m); a score is high above the middle of its low and high
    value."""
    high, cases = scores[:, [a, b]] > ends.values[:, [a, b]].mean(0), []
    for case in CASES.values():
        inside = (high == torch.tensor(case, device=high.device)).all(1)
        there = torch.stack([ends.values[end, k] for end, k in zip(case, (a, b))])
        distance = ((scores[:, [a, b]] - there).abs() / ends.gap[[a, b]]).amax(1)
        distance[~inside] = torch.inf
        count = int(inside.sum())
        cases.append(Corner(*case, count, distance.argsort(stable=True)[: min(most, count)].tolist()))
    return cases
