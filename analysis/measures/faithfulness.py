"""Is a prototype what it is said to be? Counterfactual pairs, edits of single prototypes, and what they say against the true region.

A candidate is an attribute with one prototype that is to stand for it, and the direction in which it speaks: +1 where its score is high for the
attribute, -1 where it is low. Every measure takes candidates, so that random prototypes can be judged beside the best ones.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from tqdm import tqdm

from analysis.edits import Gesture, edit, encode_and_invert, patch_box, says
from analysis.measures.auroc import single_auroc
from analysis.measures.information import image_maps
from analysis.measures.readers import Reader
from analysis.script import SIGMA_MIN
from models.patronus import Patronus
from train.data.dataset import ImageSet, load_split
from train.data.table import SOURCES, resolve
from train.images import to_tensor
from train.runs import Run

LOW, HIGH = 0.01, 0.99  # quantiles of the scores that count as low and high
FRESH = 1_000_003  # added to a run's data seed: faces that no run has seen
LEAST = 10  # test images with and without an attribute
NULLS = 3  # random prototypes an attribute
MAPPED, MAP_LEVELS = 40, 8  # images and noise levels of maps of single images


class Candidate(NamedTuple):
    attribute: str
    prototype: int
    direction: int  # +1 or -1


class Pairs(NamedTuple):
    """n images without and with one attribute and nothing else changed, uint8 (n, H, W, C), and the pixels that differ, bool (n, H, W)."""

    absent: np.ndarray
    present: np.ndarray
    region: np.ndarray


def labelled_splits(run: Run) -> tuple[ImageSet, ImageSet, list[str]]:
    """Training and test images with their labels, not restricted by `where`, and the names of usable attributes."""
    data = run.config.data
    data = data.model_copy(update={"where": None, "source": SOURCES[data.source].unrestricted or data.source})
    train, test = load_split(data, "train"), load_split(data, "test")
    known = [n for n in test.attributes if test.attributes[n].notna().all()]
    return train, test, [n for n in known if all((test.attributes[n] == value).sum() >= LEAST for value in (0, 1))]


def quantiles(known: Tensor) -> Tensor:
    """The low and the high score of every prototype, of known scores (N, m): (m, 2), low first."""
    limits = np.quantile(known.float().cpu().numpy(), [LOW, HIGH], axis=0)  # torch's takes 16 million values at most
    return torch.from_numpy(limits.T.astype(np.float32)).to(known.device)


def best_candidates(scores: np.ndarray, attributes) -> list[Candidate]:
    """The prototype that tells each attribute best by AUROC, in either direction; scores (N, m), N rows of attributes."""
    found = []
    for name in attributes.columns:
        auroc = single_auroc(scores, attributes[name].to_numpy(float))
        k = int(np.abs(auroc - 0.5).argmax())
        found.append(Candidate(name, k, 1 if auroc[k] >= 0.5 else -1))
    return found


def random_candidates(candidates: list[Candidate], count: int, rng: np.random.Generator) -> list[Candidate]:
    """The null: for each attribute a random prototype and direction, of `count` prototypes."""
    return [Candidate(c.attribute, int(rng.integers(count)), int(rng.choice([-1, 1]))) for c in candidates]


def single_of(candidates: list[Candidate], scores: np.ndarray, attributes) -> np.ndarray:
    """AUROC of each candidate's prototype in its own direction: (A,)."""
    auroc = [single_auroc(scores[:, [c.prototype]], attributes[c.attribute].to_numpy(float))[0] for c in candidates]
    return np.array([a if c.direction > 0 else 1 - a for a, c in zip(auroc, candidates)])


@torch.no_grad()
def pair_measures(model: Patronus, pairs: Pairs, candidate: Candidate, deviation: float) -> dict[str, float]:
    """On counterfactual pairs: how often and by how many deviations the prototype moves the right way (pair, pair_deviations), and how
    often the patch box of its best match, in the image where it is high, meets the pixels that the attribute rules (hit; hit_chance: of all
    cells)."""
    device, k = model.encoder.prototypes.device, candidate.prototype
    absent, present = (model.encoder.match(to_tensor(pixels).to(device)) for pixels in (pairs.absent, pairs.present))
    change = candidate.direction * (present.scores[:, k] - absent.scores[:, k]).cpu().numpy()
    match, side = present if candidate.direction > 0 else absent, pairs.region.shape[1]
    field = model.encoder.receptive_field
    cells = field.cells(side)
    boxes = [field.box(row, column, side, side) for row in range(cells) for column in range(cells)]
    hits, chance = [], []
    for i, region in enumerate(pairs.region):
        top, left, bottom, right = patch_box(model, match, i, k, side)
        hits.append(region[top:bottom, left:right].any())
        chance.append(np.mean([region[a:c, b:d].any() for a, b, c, d in boxes]))
    return {
        "pair": float((change > 0).mean()),
        "pair_deviations": float(change.mean() / max(deviation, 1e-9)),
        "hit": float(np.mean(hits)),
        "hit_chance": float(np.mean(chance)),
    }


def saying_map(model: Patronus, prototypes: list[int], known: Tensor, shape) -> np.ndarray:
    """Where prototypes speak: mean over channels of |E[x0 | s_k high] - E[x0 | s_k low]|, all else hidden: (K, H, W) in grey levels."""
    values = quantiles(known[:, prototypes])  # (K, 2)
    told = says(model, prototypes, values.to(model.encoder.prototypes.device), known, shape)  # (K, 2, C, H, W)
    return ((told[:, 0] - told[:, 1]).abs().mean(1) * 127.5).cpu().numpy()


def region_measures(saying: np.ndarray, regions: np.ndarray) -> dict[str, float]:
    """A map (H, W) against true regions (n, H, W): Pearson correlation with their mean, share of its mass inside, beside chance."""
    mean = regions.mean(0)
    flat = saying.std() < 1e-12 or mean.std() < 1e-12
    correlation = 0.0 if flat else float(np.corrcoef(saying.ravel(), mean.ravel())[0, 1])
    mass = saying / max(saying.sum(), 1e-12)
    return {"region": correlation, "inside": float((mass * mean).sum()), "inside_chance": float(mean.mean())}


def sensitivity_maps(model: Patronus, x0: Tensor, prototype: int) -> Tensor:
    """How a score depends on each pixel: |d s_k / d x|, summed over channels: (B, C, H, W) -> (B, H, W)."""
    with torch.enable_grad():
        x0 = x0.clone().requires_grad_(True)
        return torch.autograd.grad(model.score(x0)[:, prototype].sum(), x0)[0].abs().sum(1)


def map_measures(model: Patronus, pairs: Pairs, candidate: Candidate, known: Tensor) -> dict[str, float]:
    """Maps of single images, in which the prototype is high, against the region that the attribute rules in that very image.

    map: average precision of the pixels of the information beyond the others, map_inside: share of those bits inside; map_alone: of the information
    alone; map_box, map_gradient: of the patch box of the best match, of the score's gradient; map_chance: of any order of the pixels.
    """
    device, k = model.encoder.prototypes.device, candidate.prototype
    kept = pairs.region.any((1, 2))
    region = pairs.region[kept][:MAPPED]
    pixels = (pairs.present if candidate.direction > 0 else pairs.absent)[kept][:MAPPED]
    x0 = to_tensor(pixels).to(device)
    with torch.no_grad():
        match = model.encoder.match(x0)
    sigmas = np.geomspace(SIGMA_MIN, model.sigma_max, MAP_LEVELS)
    maps = {"map": image_maps(model, x0, match.scores, k, known, False, sigmas).sum(0)}
    if model.masked:
        maps["map_alone"] = image_maps(model, x0, match.scores, k, known, True, sigmas).sum(0)
    boxes = np.zeros(region.shape)
    for i, box in enumerate(boxes):
        top, left, bottom, right = patch_box(model, match, i, k, region.shape[1])
        box[top:bottom, left:right] = 1
    maps |= {"map_box": boxes, "map_gradient": sensitivity_maps(model, x0, k).cpu().numpy()}
    found = {name: np.mean([average_precision_score(r.ravel(), m.ravel()) for r, m in zip(region, lines)]) for name, lines in maps.items()}
    inside = [(m * r).sum() / max(m.sum(), 1e-12) for r, m in zip(region, maps["map"])]
    return {name: float(value) for name, value in found.items()} | {"map_inside": float(np.mean(inside)), "map_chance": float(region.mean())}


@torch.no_grad()
def set_one(model: Patronus, pixels: np.ndarray, prototype: int, value: float, gesture: Gesture) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Images (n, H, W, C) with one prototype set: the edited images (n, C, H, W), the rises of its score commanded and found (n,)."""
    x0 = to_tensor(pixels).to(model.encoder.prototypes.device)
    encoding = encode_and_invert(model, x0, gesture.steps)
    made = edit(model, encoding, gesture.set(encoding.scores, [prototype], value), gesture).clamp(-1, 1)
    own = encoding.scores[:, prototype]
    return made, (value - own).cpu().numpy(), (model.score(made)[:, prototype] - own).cpu().numpy()


def share_taken(commanded: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Rise of scores found / rise commanded, over all edits; falls count alike."""
    commanded, found = np.concatenate(commanded), np.concatenate(found)
    return float((np.sign(commanded) * found).sum() / max(np.abs(commanded).sum(), 1e-9))


def taken_alone(model: Patronus, pixels: np.ndarray, prototypes: list[int], gesture: Gesture) -> dict[int, float]:
    """What needs no labels: each prototype raised to its high score, the share of the rise that is found."""
    high = quantiles(gesture.known)[:, 1].tolist()
    return {k: share_taken(*([part] for part in set_one(model, pixels, k, high[k], gesture)[1:])) for k in prototypes}


@torch.no_grad()
def edit_measures(
    model: Patronus, reader: Reader, without: np.ndarray, having: np.ndarray, candidate: Candidate, column: int, others: list[int], gesture: Gesture
) -> dict[str, float]:
    """One prototype set so that its attribute should appear, and so that it should vanish; each image regenerated from its own x_T.

    without, having: uint8 (n, H, W, C), images that lack and have the attribute; column: of the attribute in the reader's evidence (> 0: seen);
    others: columns of attributes that an edit should leave alone. appears, vanishes: shares of images; side: share of (image, other attribute)
    that change, of the first edit; taken: rise of the score found in the results / rise commanded, of both.
    """
    k = candidate.prototype
    low, high = quantiles(gesture.known)[k].tolist()
    found, commanded, taken = {}, [np.zeros(0)], [np.zeros(0)]
    for name, pixels, up in (("appears", without, True), ("vanishes", having, False)):
        if not len(pixels):
            found[name] = np.nan
            continue
        value = high if up == (candidate.direction > 0) else low
        made, rise, got = set_one(model, pixels, k, value, gesture)
        before, after = reader(to_tensor(pixels).to(made.device)) > 0, reader(made) > 0  # (n, A)
        commanded, taken = [*commanded, rise], [*taken, got]
        found[name] = float((after[:, column] == up).mean())
        if up:
            found["side"] = float((before[:, others] != after[:, others]).mean()) if others else np.nan
    return found | {"taken": share_taken(commanded, taken)}


def exclusive_of(name: str, names: list[str], source) -> list[int]:
    """Columns of attributes that an edit of `name` must leave alone: all but itself and those of which an image has one at most."""
    group = source.exclusive or tuple(n for n in names if n.startswith("Class_"))
    return [i for i, n in enumerate(names) if n != name and not (n in group and name in group)]


def images_for_edits(name: str, pairs, test, count: int):
    """uint8 images that lack and that have an attribute: counterfactuals, or test images."""
    if name in pairs:
        return pairs[name].absent[:count], pairs[name].present[:count]
    column = test.attributes[name].to_numpy(float)
    return tuple(np.array(test.pixels[np.flatnonzero(column == value)[:count]]) for value in (0, 1))


def pairs_of(run: Run, names: list[str], count: int) -> dict:
    """Counterfactual pairs of fresh faces, for the attributes that can be changed alone; none for photographs."""
    data = run.config.data
    maker = SOURCES[data.source].counterfactuals
    made = resolve(maker)(data.image_size, data.seed + FRESH, count) if maker else {}
    return {name: Pairs(*parts) for name, parts in made.items() if name in names}


class Court(NamedTuple):
    """What every candidate is judged with; reader is None where nothing is to be edited."""

    run: Run
    model: Patronus
    scores: Tensor  # of the test set (N, m)
    test: ImageSet
    names: list[str]
    pairs: dict[str, Pairs]
    reader: Reader | None
    gesture: Gesture
    count: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        data = self.run.config.data
        return data.channels, data.image_size, data.image_size

    def judge(self, candidate: Candidate, edits: bool = True) -> dict:
        """Every measure of one candidate that the data allow."""
        name, k = candidate.attribute, candidate.prototype
        found = {"prototype": k, "direction": candidate.direction}
        if name in self.pairs:
            found |= pair_measures(self.model, self.pairs[name], candidate, self.scores[:, k].std().item())
            said = saying_map(self.model, [k], self.scores, self.shape)[0]
            found |= region_measures(said, self.pairs[name].region)
            if edits:
                found |= map_measures(self.model, self.pairs[name], candidate, self.scores)
        if edits and self.reader is not None:
            without, having = images_for_edits(name, self.pairs, self.test, self.count)
            others = exclusive_of(name, self.names, SOURCES[self.run.config.data.source])
            column = self.names.index(name)
            found |= edit_measures(self.model, self.reader, without, having, candidate, column, others, self.gesture)
        return found


def against_random(court: Court, candidates: list, attributes, seed: int):
    """Means over attributes and sets of random prototypes of every measure (of the first set for edits and maps of single images)."""
    rng, means = np.random.default_rng(seed), []
    for number in tqdm(range(NULLS), desc="random prototypes", unit="set", leave=False):
        drawn = random_candidates(candidates, court.scores.shape[1], rng)
        table = pd.DataFrame([court.judge(candidate, edits=number == 0) for candidate in drawn])
        table["single"] = single_of(drawn, court.scores.numpy(), attributes)
        means.append(table.drop(columns=["prototype", "direction"]).mean())
    return pd.DataFrame(means).mean()
