"""Parts of images against a prototype that looks at one place and is as high as it is bright there."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis.measures.candidates import Candidate
from analysis.measures.counterfactuals import Pairs
from analysis.measures.parts import dual_perturbation, part_measures
from models.prototype_encoder import Match
from models.samplers import SeededNoise

PLACE = (slice(0, 4), slice(0, 2))  # rows and columns that the first prototype looks at
ELSEWHERE = (slice(8, 12), slice(8, 12))
COUNT = 4


def boxed(rows, columns) -> list[int]:
    return [rows.start, columns.start, rows.stop, columns.stop]


def model_of(steady: bool = True) -> SimpleNamespace:
    """Where it is not steady, its patch goes elsewhere as soon as there is noise in its place."""

    def score(x):
        return torch.stack([x[(slice(None), 0, *PLACE)].mean((1, 2)), torch.zeros(len(x))], dim=1)

    def match(x):
        noisy = x[(slice(None), 0, *PLACE)].flatten(1).std(1) > 0.01
        boxes = torch.tensor([boxed(*PLACE), boxed(*ELSEWHERE)]).expand(len(x), 2, 4).clone()
        if not steady:
            boxes[noisy, 0] = torch.tensor(boxed(*ELSEWHERE))
        return Match(score(x), boxes)

    return SimpleNamespace(score=score, encoder=SimpleNamespace(prototypes=torch.zeros(2, 3), match=match))


def pairs_of(place, absent: int, present: list[int]) -> Pairs:
    """Images that are black but for a place, whose grey levels are given."""
    images, region = np.zeros((2, COUNT, 16, 16, 1), np.uint8), np.zeros((COUNT, 16, 16), bool)
    images[(0, slice(None), *place)], region[(slice(None), *place)] = absent, True
    for image, level in zip(images[1], present):
        image[place] = level
    return Pairs(*images, region)


PAIRS = {
    "seen": pairs_of(PLACE, 0, [255, 155, 255, 155]),
    "half": pairs_of((slice(0, 2), slice(0, 2)), 100, [0] * COUNT),  # half of the place, which gets darker
    "unseen": pairs_of(ELSEWHERE, 0, [255] * COUNT),
}
SEEN = Candidate("seen", 0, 1)


def test_a_prototype_that_looks_at_its_part_alone():
    heat = np.zeros((16, 16))
    heat[PLACE] = 1
    found = part_measures(model_of(), PAIRS, SEEN, heat)
    assert found["deletion"] == pytest.approx(1) and found["consistent"] == 1 and found["stable"] == 1
    assert part_measures(model_of(), PAIRS, SEEN, heat[::-1])["deletion"] != found["deletion"]
    assert part_measures(model_of(), PAIRS, Candidate("seen", 1, 1), heat)["consistent"] == 1  # at the other part
    assert part_measures(model_of(), {"seen": PAIRS["seen"]}, Candidate("seen", 1, 1), heat)["consistent"] == 0
    assert part_measures(model_of(steady=False), PAIRS, SEEN, heat)["stable"] == 0


@pytest.mark.parametrize("direction", [1, -1])
def test_noise_within_the_patch_counts_and_elsewhere_does_not(direction):
    pairs = PAIRS["seen"] if direction > 0 else Pairs(PAIRS["seen"].present, PAIRS["seen"].absent, PAIRS["seen"].region)
    found = dual_perturbation(model_of(), pairs, Candidate("seen", 0, direction))
    noise = SeededNoise(range(COUNT), (1, 16, 16))().clamp(-1, 1)[(slice(None), 0, *PLACE)].mean((1, 2))
    scores = torch.tensor([255.0, 155.0, 255.0, 155.0]) / 127.5 - 1
    assert found["perturbed_outside"] == 0
    assert found["perturbed_inside"] == pytest.approx(((scores - noise).mean() / scores.std()).item(), rel=1e-5)
