"""Ties without labels: a toy model with one tie, the parts on known answers, and the script on a tiny run."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from analysis.edits import expected_images
from analysis.measures.scores import KnownScores
from analysis.measures.ties import (
    RIDGE,
    alike,
    corners,
    expected_scores,
    extremes,
    generated_scores,
    overlap,
    pairs_table,
    probe,
    rank_ties,
    units,
)
from models.schedule import karras_sigmas

SHAPE = (1, 2, 12)


class Toy:
    """Images of six blocks of 2x2 pixels, their means the scores. Hidden ones are drawn as the noise has it, but the
    fourth as `tie` times the first, where that is given."""

    masked, decoder, best_sampling = True, None, ("heun", 6)
    encoder = SimpleNamespace(prototypes=torch.zeros(6, 1), width=6)
    sigma_max = 20.0

    def __init__(self, tie: float):
        self.tie = tie

    def score(self, x):
        return x.view(len(x), 2, 6, 2).mean((1, 3))

    def sigmas(self, steps):
        return karras_sigmas(steps, sigma_max=self.sigma_max)

    def denoise(self, z, sigma, s):
        free = self.score(z) / (1 + sigma.view(-1, 1) ** 2).sqrt() * 0.3
        tied = free.clone()
        tied[:, 3] = torch.where(s[:, 0].isnan(), free[:, 3], self.tie * s[:, 0] + 0.3 * free[:, 3])
        return torch.where(s.isnan(), tied, s).repeat_interleave(2, 1)[:, None, None].expand(-1, 1, 2, -1)

    def denoiser(self, s):
        return lambda z, sigma: self.denoise(z, sigma, s)


def toy_table(tie: float, scores):
    model, ends = Toy(tie), extremes(scores)
    expected = expected_images(model, range(6), ends.values.T, KnownScores(scores), SHAPE)
    made = generated_scores(model, ends.values, 16, SHAPE, 0)
    return pairs_table(scores, ends, expected_scores(model, expected), made)


@pytest.fixture(scope="module")
def scores():
    return 0.3 * torch.randn(400, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tie", [0.8, -0.8])
def test_a_known_tie_is_ranked_first_and_alone(scores, tie):
    table = toy_table(tie, scores)
    ranked = rank_ties(table, torch.eye(6), torch.eye(6), np.arange(6))
    assert ranked[["a", "b"]].to_numpy().tolist() == [[0, 3]]
    row = ranked.iloc[0]
    assert row["masked"] == pytest.approx(tie, abs=0.1) and row["generated"] == pytest.approx(tie, abs=0.1)
    assert abs(row["data"]) < 0.1 and row["excess"] == pytest.approx(0.8, abs=0.15)  # the data have none


def test_a_model_without_ties_has_none(scores):
    assert not toy_table(0.0, scores)["sure"].any()


def test_trivial_ties_are_left_out_or_come_late(scores):
    table, none, apart = toy_table(0.8, scores), torch.zeros(6, 6), np.arange(6)
    together = none.clone()
    together[0, 3] = together[3, 0] = 0.5
    assert not len(rank_ties(table, together, none, apart))
    assert not len(rank_ties(table, none, none, np.array([0, 1, 2, 0, 4, 5])))
    halved, whole = rank_ties(table, none, together, apart), rank_ties(table, none, none, apart)
    assert halved["strength"][0] == pytest.approx(whole["strength"][0] / 2)


def test_data_of_a_pair_by_hand():
    scores = torch.arange(100.0)[:, None].repeat(1, 3) / 100
    scores[:, 1] = 1 - scores[:, 0]
    scores[:, 2] = torch.tensor([0.0, 1.0]).repeat(50)
    ends = extremes(scores)
    torch.testing.assert_close(ends.values[:, 0], torch.tensor([0.045, 0.945]))
    assert sorted(ends.rows[0, :, 1].tolist()) == list(range(90, 100))
    table = pairs_table(scores, ends, torch.zeros(3, 2, 3), torch.zeros(3, 2, 4, 3)).set_index(["a", "b"])
    assert table.loc[(0, 1), "data"] == pytest.approx(-1, abs=1e-5)
    assert table.loc[(0, 1), "wasserstein"] == pytest.approx(1, abs=0.02)
    assert table.loc[(0, 2), "wasserstein"] == 0 and table.loc[(0, 1), "correlation"] == pytest.approx(-1)
    assert (table["tie"] == 0).all() and not table["sure"].any()


def test_probe_is_ridge_regression(scores):
    mixed = scores.clone()
    mixed[:, 2] += mixed[:, 0] - 0.5 * mixed[:, 1]
    standard = ((mixed - mixed.mean(0)) / mixed.std(0)).double().numpy()
    ridge = Ridge(alpha=RIDGE * (len(mixed) - 1), fit_intercept=False).fit(np.delete(standard, 2, 1), standard[:, 2])
    found = probe(mixed)[:, 2].numpy()
    np.testing.assert_allclose(np.delete(found, 2), ridge.coef_, atol=1e-4)
    assert found[2] == 0


def test_units_are_chains_of_what_goes_together_in_one_place():
    line = torch.randn(200, generator=torch.Generator().manual_seed(1))
    noise = 0.3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    scores = line[:, None] + noise
    scores[:, 3] = noise[:, 3]  # at the place of the others, but on its own
    shared = torch.eye(4)
    shared[0, 1] = shared[1, 0] = shared[0, 3] = shared[3, 0] = 0.9
    apart = units(scores, shared)
    assert apart[0] == apart[1] and len(set(apart)) == 3
    shared[1, 2] = shared[2, 1] = 0.9
    assert len({*units(scores, shared)[:3]}) == 1


def test_places_overlap():
    maps = torch.zeros(3, 4, 4)
    maps[0, :2], maps[1, 1:3], maps[2, 3] = 1 / 8, 1 / 8, 1 / 4
    torch.testing.assert_close(overlap(maps)[0], torch.tensor([1, 0.5, 0]))


def test_the_same_change_at_another_place_is_alike_mirrored_and_reversed_too():
    expected, maps = torch.zeros(3, 2, 1, 8, 8), torch.zeros(3, 8, 8)
    expected[0, 1, 0, 0, 0], expected[1, 0, 0, 5, 7] = 1, 0.5  # left column of a place, right column of another
    expected[2, 1, 0, 4, 0] = 1  # its lower row
    maps[0, :2, :2], maps[1, 5:7, 6:], maps[2, 3:5, :2] = 0.25, 0.25, 0.25
    torch.testing.assert_close(alike(expected, maps, 2), torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]]))


def test_corner_cases_by_hand():
    scores = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0.9], [0, 0.1]])
    ends = extremes(scores)
    found = corners(scores, ends, 0, 1, most=1)
    assert [case.count for case in found] == [2, 0, 1, 2]
    assert [case.nearest for case in found] == [[2], [], [1], [0]]


def test_ties_script(many):
    done = many.run("analysis/diagnosis/ties.py", "--draws", 4, "--figures", 1)
    folder = many.records / "ties" / "tiny_v0"
    assert "30 ordered pairs" in done.stdout and "Traceback" not in done.stderr
    assert len(pd.read_csv(folder / "pairs.csv")) == 30 and (folder / "ties.json").is_file()
    ranked = pd.read_csv(folder / "ties.csv")
    assert (folder / "tie_0.png").is_file() == bool(len(ranked))
    if len(ranked):
        cells = ranked[["high_high", "high_low", "low_high", "low_low"]]
        assert (cells.sum(axis=1) == 120).all()  # every training image is in one of the four


def test_ties_script_says_in_one_line_what_it_cannot_do(trained):
    done = trained.run("analysis/diagnosis/ties.py", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: tiny/0: ties need 100 training images")
    assert not (trained.records / "ties").exists()
