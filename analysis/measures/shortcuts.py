"""Does raising one attribute's prototypes move another attribute? Edits, nulls, and when to call it a shortcut."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from analysis.edits import edit, encode_and_invert, regenerate
from analysis.measures.auroc import single_auroc
from analysis.measures.readers import Reader
from models.patronus import Patronus
from models.samplers import SeededNoise
from train.images import to_uint8

LEAST_EFFECT = 0.1  # of the difference between having an attribute and not: twice the most that unbiased models do
LEVEL = 0.05  # of the corrected p-values
GENERATION_SHARE = 0.2  # of LEVEL: hundreds of images are generated, so that little of it is enough there
POWER = 0.8  # with which an effect counts as one that could have been found
FEWEST = 5  # images in each of the four cells of a pair
BATCH = 64  # images read together
EXAMPLES = 4  # images of each attribute of a shortcut


def class_gap(scores: np.ndarray, labels: np.ndarray, top: int | None) -> tuple[np.ndarray, np.ndarray]:
    """What an attribute's top prototypes differ by between its two classes, 0 for others; and all prototypes by falling
    |AUROC - 1/2|: (m,) each.

    top: how many; None takes those whose AUROC is more than three standard errors off one half (Hanley and McNeil 1982,
        at AUROC 1/2).
    """
    known = ~np.isnan(labels)
    s, y = scores[known], labels[known] > 0
    auroc = single_auroc(s, y.astype(float))
    order = np.argsort(-np.abs(auroc - 0.5), kind="stable")
    error = np.sqrt((len(y) + 1) / (12 * y.sum() * (~y).sum()))
    chosen = order[:top] if top else order[np.abs(auroc[order] - 0.5) > 3 * error]
    gap = np.zeros(s.shape[1], dtype=np.float32)
    gap[chosen] = (s[y].mean(0) - s[~y].mean(0))[chosen]
    return gap, order


class Edits:
    """Images with their x_T, whose scores can be moved and whose results are read by every reader.

    Every other score is kept: were it moved along as in the data, the data's correlations would pass for the model's.
    """

    def __init__(self, model: Patronus, readers: dict[str, Reader], x0: Tensor, steps: int, guidance: float):
        self.model, self.readers = model, readers
        self.encoding = encode_and_invert(model, x0, steps, title="inverting")
        self.steps, self.guidance = steps, guidance

    def moved(self, shift: Tensor) -> Tensor:
        """The images with `shift` (m,) added to their scores: (n, C, H, W)."""
        return edit(self.model, self.encoding, self.encoding.scores + shift, self.steps, self.guidance).clamp(-1, 1)

    def effect(self, gap: Tensor) -> dict[str, np.ndarray]:
        """What half of `gap` (m,) more, against half of it less, does to each attribute's evidence: (n, A) a reader."""
        up, down = self.moved(gap / 2), self.moved(-gap / 2)
        return {name: reader(up) - reader(down) for name, reader in self.readers.items()}


class Example(NamedTuple):
    """Images that an attribute of a shortcut moves most, uint8 (n, H, W, C): as they are, regenerated under their own
    scores, with it lowered and raised; what it moves; its best prototype, and that one's boxes (n, 4) in the raised."""

    attribute: str
    moved: str
    prototype: int
    original: np.ndarray
    own: np.ndarray
    lowered: np.ndarray
    raised: np.ndarray
    boxes: list

    @property
    def pictures(self) -> np.ndarray:
        """As they are, lowered and raised: (n, 3, H, W, C)."""
        return np.stack([self.original, self.lowered, self.raised], axis=1)


def edit_examples(edits: Edits, pixels: np.ndarray, shortcuts: list, gaps, prototypes, strength) -> list[Example]:
    """One a raised attribute of the shortcuts, rows of a table; pixels: of the images in `edits`.

    gaps[A] (m,), prototypes[A]: the class gap and the best prototype of an attribute; strength[A, B] (n,): by how much
    raising A moves B in each image.
    """
    examples = []
    for name in dict.fromkeys(row.raised for row in shortcuts):
        rows, gap = [row for row in shortcuts if row.raised == name], as_tensor(gaps[name], edits.encoding.scores)
        order = np.argsort(-strength[name, rows[0].moved] * np.sign(rows[0].edit))[:EXAMPLES]
        own, lowered, raised = (edits.moved(shift * gap)[order] for shift in (0, -1, 1))
        moved = ", ".join(("+" if row.edit > 0 else "-") + row.moved for row in rows)
        boxes = edits.model.encoder.match(raised).boxes[:, prototypes[name]].tolist()
        images = (pixels[order], *map(to_uint8, (own, lowered, raised)))
        examples.append(Example(name, moved, prototypes[name], *images, boxes))
    return examples


def gap_size(gap: np.ndarray, deviation: np.ndarray) -> float:
    """How large a change of scores (m,) is, in deviations (m,)."""
    return float(np.linalg.norm(gap / deviation))


def random_gap(gap: np.ndarray, deviation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As large a change, in deviations, of as many prototypes, but of random ones: the null of an edit. All (m,)."""
    return (rng.permutation(gap / deviation) * deviation).astype(np.float32)


def generated_evidence(
    model: Patronus, readers: dict[str, Reader], scores: Tensor, shape, steps: int, seed: int
) -> dict[str, np.ndarray]:
    """Evidence of attributes in images from real, unedited scores (n, m) and random x_T: (n, A) a reader."""
    device = scores.device
    noise = model.sigmas(steps)[0].float() * SeededNoise(range(seed, seed + len(scores)), shape, device)()
    images = regenerate(model, noise, scores, steps, title="generating").clamp(-1, 1)
    parts = images.split(BATCH)
    return {name: np.concatenate([reader(part) for part in parts]) for name, reader in readers.items()}


def generated_effect(change: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """How A moves what generation does to the evidence of B: the coefficient of A in the regression of change (n,) on A
    and B (n,).

    B itself is in the regression because whatever the model cannot draw returns to the mean. Returns (coefficient,
    standard error, p).
    """
    x = np.stack([np.ones(len(a)), a, b], axis=1)
    coefficients = np.linalg.lstsq(x, change, rcond=None)[0]
    freedom = len(a) - 3
    variance = np.square(change - x @ coefficients).sum() / freedom
    error = np.sqrt(variance * np.linalg.inv(x.T @ x)[1, 1])
    return coefficients[1], error, 2 * student.sf(abs(coefficients[1]) / max(error, 1e-12), freedom)


class EditEffect(NamedTuple):
    mean: float
    error: float  # standard, over images
    p: float  # the larger of the two: against no effect, over images, and against edits of random prototypes
    spread: float  # of the effects of random prototypes


def edit_effect(effects: np.ndarray, nulls: np.ndarray) -> EditEffect:
    """Effects of one edit on one attribute (n images,) against those of edits of random prototypes, means over images
    (R,)."""
    n, r = len(effects), len(nulls)
    mean, error = effects.mean(), effects.std(ddof=1) / np.sqrt(n)
    spread = np.sqrt(np.square(nulls).mean())
    p = max(2 * student.sf(abs(mean) / max(error, 1e-12), n - 1), 2 * student.sf(abs(mean) / max(spread, 1e-12), r))
    return EditEffect(float(mean), float(error), float(p), float(spread))


def holm(p: np.ndarray) -> np.ndarray:
    """P-values corrected for their number (Holm 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def detectable(edit: EditEffect, images: int, nulls: int, generated_error: float, generated: int, pairs: int) -> float:
    """The least effect, of edits and of generation alike, that is named with probability POWER, were it the only one.

    Each of the two must reach LEAST_EFFECT and its level in `judge`, and does so with probability sqrt(POWER) (normal
    approximation of the power of a t-test, Cohen 1988). images, nulls: of the edit; generated: images.
    """
    luck, alone, among = norm.ppf(POWER**0.5), (1 - GENERATION_SHARE) * LEVEL, GENERATION_SHARE * LEVEL / pairs / 2
    by_edits = max(LEAST_EFFECT, student.isf(alone, images - 1) * edit.error, student.isf(alone, nulls) * edit.spread)
    by_generation = max(LEAST_EFFECT, student.isf(among, generated - 3) * generated_error)
    return float(max(by_edits + luck * edit.error, by_generation + luck * generated_error))


def small(table: pd.DataFrame, effect: str) -> pd.Series:
    """Where the confidence interval of an effect lies within LEAST_EFFECT on either side of 0."""
    return (table[f"{effect}_low"] > -LEAST_EFFECT) & (table[f"{effect}_high"] < LEAST_EFFECT)


def tellable(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether each combination of two attributes occurs often enough for the one to be told from the other; NaN is
    unknown."""
    return all(((a == x) & (b == y)).sum() >= FEWEST for x in (0, 1) for y in (0, 1))


def corrected(table: pd.DataFrame) -> np.ndarray:
    """The p-value, over all pairs, that generation and edits both move B, from edit, generated and their p: (n,).

    Two tests in turn. Generation is corrected for all pairs, at GENERATION_SHARE of the level. Edits are asked about
    the pairs that this leaves, in the direction that generation told, and corrected for their number, at the rest of
    the level. What passes the first test says nothing of chance in the second, whose noise is another, so a false pair
    is named with probability LEVEL at most.
    """
    generation = holm(table["generated_p"].to_numpy()) / GENERATION_SHARE
    agree, two_sided = np.sign(table["edit"]) == np.sign(table["generated"]), table["edit_p"]
    one_sided = np.where(agree, two_sided / 2, 1 - two_sided / 2)
    edits, passed = np.ones(len(table)), generation < LEVEL
    edits[passed] = holm(one_sided[passed]) / (1 - GENERATION_SHARE)
    return np.minimum(np.maximum(generation, edits), 1)


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """Add corrected p-values, whether it is a shortcut, and the verdict to one row a pair with edit, generated, their p
    and the limits of their confidence intervals.

    A shortcut needs both: the edit of A moves B, and images generated from real scores turn out with the wrong B
    because of A. Edits alone leave what images can be, and then move much; generation alone shows also what the model
    cannot draw. The verdict is 'found', 'not found' where one of the two is shown to be smaller than LEAST_EFFECT, and
    'cannot tell' where neither is.
    """
    table["p"] = corrected(table)
    least = table[["edit", "generated"]].abs().min(axis=1)
    table["shortcut"] = (table["p"] < LEVEL) & (least >= LEAST_EFFECT)
    ruled_out = small(table, "edit") | small(table, "generated")
    table["verdict"] = np.where(table["shortcut"], "found", np.where(ruled_out, "not found", "cannot tell"))
    return table


def as_tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)
