"""Which prototype stands for an attribute: by what it detects, and by what setting it does.

A candidate is an attribute with one prototype that is to stand for it, and its direction: +1 where
its score is high for the attribute, -1 where it is low. Every measure takes candidates, so that random prototypes can
be judged beside the best ones. Candidates are chosen on training and validation images, and judged on others.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor
from tqdm import tqdm

from analysis.edits import EditOptions
from analysis.measures.auroc import single_auroc
from analysis.measures.labels import labelled_data
from analysis.measures.readers import Reader
from models.patronus import Patronus
from train.data.dataset import ImageSet, load_split
from train.errors import UserError
from train.images import to_tensor
from train.runs import Run

SIDE_WEIGHT = 2.0  # of what else an edit changes, when prototypes are ranked by its effect
QUICK_SIGMA = 5.0  # noise level of the estimate by which effects are ranked where there is no decoder


class Candidate(NamedTuple):
    attribute: str
    prototype: int
    direction: int  # +1 or -1


def validation_images(run: Run, train: ImageSet, count: int) -> ImageSet:
    """The first `count` images of the validation split, or of the training images where it has fewer."""
    try:
        images = load_split(labelled_data(run), "val")
    except UserError:  # there is none
        images = train
    return (images if len(images) >= count else train).subset(np.arange(min(count, len(train))))


def best_candidates(scores: np.ndarray, attributes) -> list[Candidate]:
    """The prototype that tells each attribute best by AUROC, in either direction; scores (N, m), N rows of
    attributes."""
    candidates = []
    for name in attributes.columns:
        auroc = single_auroc(scores, attributes[name].to_numpy(float))
        k = int(np.abs(auroc - 0.5).argmax())
        candidates.append(Candidate(name, k, 1 if auroc[k] >= 0.5 else -1))
    return candidates


def random_candidates(candidates: list[Candidate], count: int, rng: np.random.Generator) -> list[Candidate]:
    """The null: for each attribute a random prototype and direction, of `count` prototypes."""
    return [Candidate(c.attribute, int(rng.integers(count)), int(rng.choice([-1, 1]))) for c in candidates]


def single_of(candidates: list[Candidate], scores: np.ndarray, attributes) -> np.ndarray:
    """AUROC of each candidate's prototype in its own direction: (A,)."""
    auroc = [single_auroc(scores[:, [c.prototype]], attributes[c.attribute].to_numpy(float))[0] for c in candidates]
    return np.array([a if c.direction > 0 else 1 - a for a, c in zip(auroc, candidates)])


@torch.no_grad()
def quick_edit(model: Patronus, x0: Tensor, s: Tensor, edited: Tensor) -> Tensor:
    """An edit without sampling: images (B, C, H, W) and the difference of what the scores (B, m) before and after say
    of them, in [-1, 1].

    By the decoder, or by one estimate of the denoiser through much noise. It ranks prototypes; it is no picture to
    show.
    """
    if model.decoder is not None:
        change = model.estimate(edited) - model.estimate(s)
    else:
        sigma = x0.new_full((len(x0),), QUICK_SIGMA)
        z = x0 + QUICK_SIGMA * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0)
        change = model.denoise(z, sigma, edited) - model.denoise(z, sigma, s)
    return (x0 + change).clamp(-1, 1)


class Effects(NamedTuple):
    """What setting each prototype high (index 1) and low (0) does: shares of images, (m, 2, A) each.

    appears: of those without an attribute in which it is seen afterwards; vanishes: of those with it in which it is
    not; changes: of all in which the reader's answer differs.
    """

    appears: np.ndarray
    vanishes: np.ndarray
    changes: np.ndarray


def setting_effects(model: Patronus, reader: Reader, images: ImageSet, options: EditOptions) -> Effects:
    """Every prototype set high and low on every image, quickly (`quick_edit`), and read."""
    x0 = to_tensor(images.pixels, model.encoder.prototypes.device)
    s, m = model.score(x0).detach(), len(options.known.limits)
    before = reader(x0) > 0  # (n, A)
    parts = np.zeros((3, m, 2, before.shape[1]))
    for k in tqdm(range(m), desc="ranking by effect", unit="prototype", leave=False):
        for end, value in enumerate(options.known.limits[k].tolist()):
            after = reader(quick_edit(model, x0, s, options.set(s, [k], value))) > 0
            parts[0, k, end] = (after & ~before).sum(0) / np.maximum((~before).sum(0), 1)
            parts[1, k, end] = (before & ~after).sum(0) / np.maximum(before.sum(0), 1)
            parts[2, k, end] = (before != after).mean(0)
    return Effects(*parts)


def effect_values(effects: Effects, column: int, others: list[int]) -> np.ndarray:
    """How well setting each prototype, in each direction (high for the attribute: 1, low: 0), sets one attribute and
    nothing else: (m, 2).

    Share in which it appears, plus half of that in which it vanishes when set the other way, less SIDE_WEIGHT times the
    share of others changed.
    """
    side = effects.changes[:, :, others].mean(2) if others else 0.0
    return effects.appears[:, :, column] + 0.5 * effects.vanishes[:, ::-1, column] - SIDE_WEIGHT * side


def best_setters(effects: Effects, names: list[str], others: dict[str, list[int]]) -> list[Candidate]:
    """The prototype and direction whose setting brings each attribute about best."""
    chosen = []
    for column, name in enumerate(names):
        value = effect_values(effects, column, others[name])
        k, end = np.unravel_index(value.argmax(), value.shape)
        chosen.append(Candidate(name, int(k), 1 if end else -1))
    return chosen


def rankings_agree(effects: Effects, scores: np.ndarray, attributes, others: dict[str, list[int]]) -> dict[str, float]:
    """Kendall's tau, in [-1, 1], of two rankings of all prototypes for each attribute: by AUROC and by the effect of
    setting, both in the better direction. Detecting is not steering (arXiv 2510.03659: .30 over sparse
    autoencoders)."""
    agreement = {}
    for column, name in enumerate(attributes.columns):
        auroc = single_auroc(scores, attributes[name].to_numpy(float))
        agreement[name] = float(kendalltau(np.abs(auroc - 0.5), effect_values(effects, column, others[name]).max(1))[0])
    return agreement
