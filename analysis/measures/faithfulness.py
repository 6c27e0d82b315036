"""Is a prototype, or a group of them, what it is said to be? Every measure of one candidate, and the null of random
prototypes."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.edits import Edit, EditOptions, Encoding, edit, edit_until_reached, encode_and_invert, regenerate
from analysis.measures import edit_metrics as metrics
from analysis.measures.candidates import Candidate, random_candidates, single_of
from analysis.measures.counterfactuals import Pairs, pair_measures
from analysis.measures.parts import part_measures
from analysis.measures.readers import Reader
from analysis.measures.readouts import ReadOut
from analysis.measures.regions import expected_maps, map_measures, region_measures
from models.patronus import Patronus
from train.data.dataset import ImageSet
from train.data.table import Source
from train.images import to_tensor
from train.runs import Run

NULLS = 3  # random prototypes an attribute
REPEATED = 12  # images of measures that edit or invert again
EXPECTED = 10  # images with two attributes, were they independent, from which on none means that they cannot meet
PREVIOUS = {"guidance": (1.0,), "others": "joint", "places": None}  # the way that minimality is compared with


def others_of(labels: pd.DataFrame, source: Source) -> dict[str, list[int]]:
    """For each attribute the columns of those that an edit of it must leave alone: all but itself and those that
    exclude it.

    labels: (N, A), NaN where unknown. Two exclude each other where the source says so, or where no image has both
    although EXPECTED or more would if they were independent.
    """
    has = (labels.to_numpy(float) == 1).astype(float)
    never, count = has.T @ has == 0, has.sum(0)
    apart = never & (np.outer(count, count) >= EXPECTED * len(has))
    group = source.exclusive or tuple(name for name in labels if name.startswith("Class_"))
    in_group = labels.columns.isin(group)
    apart |= np.outer(in_group, in_group) | np.eye(len(count), dtype=bool)
    return {name: np.flatnonzero(~row).tolist() for name, row in zip(labels, apart)}


def images_for_edits(name: str, pairs: dict[str, Pairs], test: ImageSet, count: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (n, H, W, C) that lack and that have an attribute: counterfactuals, or test images."""
    if name in pairs:
        return pairs[name].absent[:count], pairs[name].present[:count]
    column = test.attributes[name].to_numpy(float)
    return tuple(np.array(test.pixels[np.flatnonzero(column == value)[:count]]) for value in (0, 1))


def effectiveness(commanded: list[np.ndarray], reached: list[np.ndarray]) -> float:
    """Rise of the scores in the edited images / rise commanded, over all edits; falls count alike. Best 1 (the axiom of
    Monteiro et al. 2023, for scores)."""
    commanded, reached = np.concatenate(commanded), np.concatenate(reached)
    return float((np.sign(commanded) * reached).sum() / max(np.abs(commanded).sum(), 1e-9))


class SetScores(NamedTuple):
    """Images (n, C, H, W) before an edit, their encoding, and the edit."""

    x0: Tensor
    encoding: Encoding
    result: Edit

    def rises(self, prototypes: list[int], values: list[float]) -> tuple[np.ndarray, np.ndarray]:
        """Rises of the scores commanded and found, (n K,) each."""
        own = self.encoding.scores[:, prototypes]
        commanded = torch.tensor(values).to(own) - own
        return commanded.cpu().numpy().ravel(), (self.result.scores[:, prototypes] - own).cpu().numpy().ravel()


def set_scores(
    model: Patronus, pixels: np.ndarray, prototypes: list[int], values: list[float], options: EditOptions
) -> SetScores:
    """Images uint8 (n, H, W, C) with prototypes set to values, regenerated from their own x_T."""
    x0 = to_tensor(pixels, model.encoder.prototypes.device)
    encoding = encode_and_invert(model, x0, options.steps)
    edited = options.set(encoding.scores, prototypes, torch.tensor(values))
    return SetScores(x0, encoding, edit_until_reached(model, encoding, edited, prototypes, options))


def set_attribute(model: Patronus, pixels: np.ndarray, told: ReadOut, amount: float, options: EditOptions) -> SetScores:
    """Images uint8 (n, H, W, C) with a read-out of all scores at an amount (0 absent, 1 present), regenerated from
    their own x_T."""
    x0 = to_tensor(pixels, model.encoder.prototypes.device)
    encoding = encode_and_invert(model, x0, options.steps)
    edited, missing = told.set(encoding.scores, amount), told.missing(amount)
    return SetScores(x0, encoding, edit_until_reached(model, encoding, edited, [], options, missing_beside=missing))


def effectiveness_by_prototype(
    model: Patronus, pixels: np.ndarray, prototypes: list[int], options: EditOptions
) -> dict[int, float]:
    """What needs no labels: each prototype raised to its high score, the share of the rise that is found."""
    shares = {}
    for k in prototypes:
        value = [options.known.limits[k, 1].item()]
        shares[k] = effectiveness(
            *([part] for part in set_scores(model, pixels, [k], value, options).rises([k], value))
        )
    return shares


class Judge(NamedTuple):
    """What every candidate is judged with; reader is None where nothing is to be edited.

    options: how scores are set; its known scores are of the training images. scores (N, m), test: of images that no
        choice was made on.
    others: for each attribute the columns of the reader's evidence that an edit of it must leave alone.
    sigma_min: the lowest noise level of information.
    """

    run: Run
    model: Patronus
    options: EditOptions
    scores: Tensor
    test: ImageSet
    names: list[str]
    others: dict[str, list[int]]
    pairs: dict[str, Pairs]
    reader: Reader | None
    count: int
    sigma_min: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        data = self.run.config.data
        return data.channels, data.image_size, data.image_size

    def detection(self, candidate: Candidate, maps: bool = True) -> dict:
        """Whether the prototype tells the attribute, and where, as far as there are counterfactuals."""
        name, k = candidate.attribute, candidate.prototype
        if name not in self.pairs:
            return {}
        pairs = self.pairs[name]
        row = pair_measures(self.model, pairs, candidate, self.scores[:, k].std().item())
        expected = expected_maps(self.model, [k], self.options.known, self.shape)[0]
        row |= region_measures(expected, pairs.region)
        row |= part_measures(self.model, self.pairs, candidate, expected)
        if maps:
            row |= map_measures(self.model, pairs, candidate, self.options.known, self.sigma_min)
        return row

    def set_single(self, candidate: Candidate) -> dict:
        """Edits by one prototype, set high and low."""
        low, high = ([value] for value in self.options.known.limits[candidate.prototype].tolist())
        present, absent = (high, low) if candidate.direction > 0 else (low, high)
        return self.edits(candidate.attribute, [candidate.prototype], present, absent)

    def edits(self, name: str, prototypes: list[int], present: list[float], absent: list[float]) -> dict:
        """Prototypes set so that an attribute should appear (present), and so that it should vanish (absent)."""
        column, row, commanded, reached = self.names.index(name), {}, [np.zeros(0)], [np.zeros(0)]
        lacking, having = images_for_edits(name, self.pairs, self.test, self.count)
        for up, pixels, other, values in ((True, lacking, having, present), (False, having, lacking, absent)):
            if not len(pixels):
                continue
            edited = set_scores(self.model, pixels, prototypes, values, self.options)
            rise, rise_reached = edited.rises(prototypes, values)
            commanded, reached = [*commanded, rise], [*reached, rise_reached]
            before, after = self.reader(edited.x0), self.reader(edited.result.images)
            row |= self._seen(before, after, name, up)
            if not up:
                continue
            row |= self._changes(edited, before, after, column)
            row |= self._axioms(edited, prototypes)
            if name in self.pairs:
                row |= self._minimality(edited, other, prototypes, values)
        return row | {"effectiveness": effectiveness(commanded, reached)}

    def set_attribute(self, name: str, told: ReadOut) -> dict:
        """Edits by all scores together: what they tell of an attribute set to present, and to absent."""
        lacking, having = images_for_edits(name, self.pairs, self.test, self.count)
        row, commanded, reached = {}, [np.zeros(0)], [np.zeros(0)]
        for amount, pixels, other in ((1.0, lacking, having), (0.0, having, lacking)):
            if not len(pixels):
                continue
            edited = set_attribute(self.model, pixels, told, amount, self.options)
            own, found = (told.of(s).cpu().numpy() for s in (edited.encoding.scores, edited.result.scores))
            commanded, reached = [*commanded, told.value(amount) - own], [*reached, found - own]
            row |= self._seen(self.reader(edited.x0), self.reader(edited.result.images), name, amount == 1)
            if amount == 1:
                row["guided"] = float((edited.result.guidance > 0).float().mean())
            if amount == 1 and name in self.pairs:
                target = to_tensor(other, edited.x0.device)
                row["distance"] = metrics.squared_distance(edited.result.images, target)
                row["distance_none"] = metrics.squared_distance(edited.x0, target)
        return row | {"effectiveness": effectiveness(commanded, reached)}

    def _seen(self, before: np.ndarray, after: np.ndarray, name: str, up: bool) -> dict:
        """Whether what was commanded is seen, and what else changed; evidence before and after, (n, A) each."""
        seen = metrics.steerability(after, self.names.index(name), up)
        side = metrics.side_changes(before, after, self.others[name])
        return {"appears": seen, "side": side} if up else {"vanishes": seen, "side_vanishes": side}

    def _changes(self, edited: SetScores, before: np.ndarray, after: np.ndarray, column: int) -> dict:
        """What the reader sees of an edit that should bring an attribute about; its evidence before and after (n,
        A)."""
        labels = self.test.attributes[self.names].to_numpy(float)
        data = np.nan_to_num(np.atleast_2d(np.corrcoef(labels.T))[column])
        truth = np.eye(len(self.names))[column]  # of exact counterfactuals nothing else changes
        pictures = (edited.x0[:REPEATED], edited.result.images[:REPEATED])
        return {
            "mnac": metrics.mnac(before, after),
            "cd_data": metrics.correlation_difference(after - before, column, data),
            "cd_truth": metrics.correlation_difference(after - before, column, truth),
            "cout": metrics.cout(self.reader, *pictures, column, True),
            "guided": float((edited.result.guidance > 0).float().mean()),
            "unreached": float((~edited.result.reached).float().mean()),
        }

    def _minimality(self, edited: SetScores, truth: np.ndarray, prototypes: list[int], values: list[float]) -> dict:
        """Squared distances to the true counterfactuals, of the edit, of no edit, and of the edit by the previous way
        of setting scores."""
        target = to_tensor(truth, edited.x0.device)
        part = Encoding(edited.encoding.scores[:REPEATED], edited.encoding.noise[:REPEATED])
        options = self.options._replace(**PREVIOUS)
        s = options.set(part.scores, prototypes, torch.tensor(values))
        previous = edit(self.model, part, s, options.steps, options.guidance[0]).clamp(-1, 1)
        return {
            "distance": metrics.squared_distance(edited.result.images, target),
            "distance_none": metrics.squared_distance(edited.x0, target),
            "distance_joint": metrics.squared_distance(previous, target[:REPEATED]),
        }

    def _axioms(self, edited: SetScores, prototypes: list[int]) -> dict:
        """Composition and reversibility (Monteiro et al. 2023): squared distances to the image, lower is better, 0 to
        4.

        composition: after encoding, inverting and regenerating twice under the own scores. reversibility: after the
        edit, encoded and inverted anew, and the prototypes set back to the image's own scores.
        """
        steps, x0 = self.options.steps, edited.x0[:REPEATED]
        own, noise = edited.encoding.scores[:REPEATED], edited.encoding.noise[:REPEATED]
        once = regenerate(self.model, noise, own, steps).clamp(-1, 1)
        again = encode_and_invert(self.model, once, steps)
        twice = regenerate(self.model, again.noise, again.scores, steps).clamp(-1, 1)
        there = encode_and_invert(self.model, edited.result.images[:REPEATED], steps)
        back = self.options.set(there.scores, prototypes, own[:, prototypes])
        returned = edit(self.model, there, back, steps).clamp(-1, 1)
        return {
            "composition": metrics.squared_distance(twice, x0),
            "reversibility": metrics.squared_distance(returned, x0),
        }


def pairs_of_commands(judge: Judge, candidates: list[Candidate]) -> dict[str, float]:
    """Two attributes commanded at once, each with the next that does not exclude it: share of images without the first
    that show both."""
    shares, limits = {}, judge.options.known.limits
    for first, second in zip(candidates, [*candidates[1:], candidates[0]]):
        i, j = judge.names.index(first.attribute), judge.names.index(second.attribute)
        if j not in judge.others[first.attribute] or first.prototype == second.prototype:
            continue
        pixels = images_for_edits(first.attribute, judge.pairs, judge.test, judge.count)[0][:REPEATED]
        values = [limits[c.prototype, 1 if c.direction > 0 else 0].item() for c in (first, second)]
        edited = set_scores(judge.model, pixels, [first.prototype, second.prototype], values, judge.options)
        seen = judge.reader(edited.result.images) > 0
        shares[f"{first.attribute}+{second.attribute}"] = float((seen[:, i] & seen[:, j]).mean())
    return shares


def against_random(judge: Judge, candidates: list[Candidate], attributes: pd.DataFrame, seed: int) -> pd.Series:
    """Means over attributes and sets of random prototypes of every measure (of the first set for edits and maps of
    single images)."""
    rng, means = np.random.default_rng(seed), []
    fewer = judge._replace(count=max(judge.count // 4, 2))
    for number in tqdm(range(NULLS), desc="random prototypes", unit="set", leave=False):
        drawn, rows = random_candidates(candidates, judge.scores.shape[1], rng), []
        for candidate in drawn:
            row = judge.detection(candidate, maps=number == 0)
            rows.append(row | (fewer.set_single(candidate) if number == 0 and judge.reader is not None else {}))
        table = pd.DataFrame(rows)
        table["single"] = single_of(drawn, judge.scores.numpy(), attributes)
        means.append(table.mean())
    return pd.DataFrame(means).mean()
