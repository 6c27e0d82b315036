"""Ties without labels: a toy model with one tie, the parts on known answers, and the script on a tiny run."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.cross_decomposition import CCA

from analysis.measures.scores import KnownScores
from analysis.measures.ties import (
    Axis,
    Pair,
    alike,
    by_masks,
    canonical,
    corners,
    correlations,
    exceptions,
    extremes,
    generated_effects,
    held_out,
    overlap,
    pairs_of_units,
    rank_ties,
    split_of,
    units,
)
from models.schedule import karras_sigmas

SHAPE = (1, 2, 12)


class Toy:
    """Images of six blocks of 2x2 pixels, their means the scores. Hidden ones are drawn as the noise has it, but the
    fourth as `tie` times the first, where that is given."""

    masked, decoder, best_sampling = True, None, ("heun", 6)
    encoder = SimpleNamespace(width=6)
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


@pytest.fixture(scope="module")
def scores():
    return 0.3 * torch.randn(400, 6, generator=torch.Generator().manual_seed(0))


def every_pair(scores, shared=None, same=None) -> list[Pair]:
    """Of prototypes that are a unit each."""
    m = scores.shape[1]
    shared, same = (torch.zeros(m, m) if given is None else given for given in (shared, same))
    return pairs_of_units(scores, np.arange(m), correlations(scores), shared, same)


def ranking(tie: float, scores, **near):
    model, known = Toy(tie), KnownScores(scores)
    table = by_masks(model, every_pair(scores, **near), known, SHAPE)
    candidates = table[table["ranked"]].head(5)
    return rank_ties(candidates, generated_effects(model, candidates["pair"], scores, 16, SHAPE, 0))


@pytest.mark.parametrize("tie", [0.8, -0.8])
def test_a_known_tie_is_ranked_first_and_alone(scores, tie):
    ranked = ranking(tie, scores)
    row = ranked.iloc[0]
    assert {row["a"], row["b"]} == {0, 3} and ranked["sure"].tolist()[0] and row["generated_error"] < 0.1
    assert row["masked"] == pytest.approx(tie, abs=0.1) and row["generated"] == pytest.approx(tie, abs=0.1)
    assert abs(row["data"]) < 0.15 and row["excess"] == pytest.approx(0.8, abs=0.2)  # the data have none
    assert ranked["strength"][1] < 0.1


def test_a_model_without_ties_has_none(scores):
    assert not ranking(0.0, scores)["sure"].any()


def test_trivial_ties_are_left_out_or_come_late(scores):
    near = torch.zeros(6, 6)
    near[0, 3] = near[3, 0] = 0.5
    pairs = {(row.a, row.b) for row in ranking(0.8, scores, shared=near).itertuples()}
    assert not pairs & {(0, 3), (3, 0)}
    halved, whole = ranking(0.8, scores, same=near), ranking(0.8, scores)
    assert halved["strength"][0] == pytest.approx(whole["strength"][0] / 2)
    assert halved["error"][0] == pytest.approx(whole["error"][0] / 2)


def test_what_never_comes_apart_is_not_ranked():
    draw = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    coin = (draw[:, 0] > 0).float()
    swapped = torch.where(torch.arange(1000) % 5 == 0, 1 - coin, coin)  # in a fifth of the images: .4 of chance
    noise = 0.05 * draw[:, 1]
    assert exceptions(coin + 0.05 * draw[:, 2], coin + noise) == 0
    assert exceptions(coin + 0.05 * draw[:, 2], swapped + noise) == pytest.approx(0.4, abs=0.15)
    assert exceptions(draw[:, 0], draw[:, 1]) > 0.5
    forced, free = every_pair(torch.stack([coin, coin + noise, swapped], dim=1))[:2]
    assert not forced.ranked and free.ranked


def test_canonical_axes_are_those_of_another_implementation():
    draw = torch.randn(3000, 7, generator=torch.Generator().manual_seed(3)).double()
    draw[:, 3:5] += 0.7 * draw[:, 0:2]
    standard = ((draw - draw.mean(0)) / draw.std(0)).numpy()
    x, y = standard[:, :3], standard[:, 3:]
    a, b = canonical(x, y)
    one, other = (part[:, 0] for part in CCA(1).fit(x, y).transform(x, y))
    assert abs(np.corrcoef(x @ a, one)[0, 1]) > 0.98 and abs(np.corrcoef(y @ b, other)[0, 1]) > 0.98
    assert held_out(x, y) == pytest.approx(np.corrcoef(one, other)[0, 1], abs=0.05)
    assert abs(held_out(x, standard[:, 5:])) < 0.1


def test_an_axis_rises_with_its_first_prototype():
    draw = torch.randn(500, 3, generator=torch.Generator().manual_seed(4))
    scores = torch.stack([0.1 * draw[:, 0], -draw[:, 0] + 0.1 * draw[:, 1], draw[:, 2], -draw[:, 0]], dim=1)
    (pair,) = pairs_of_units(scores, np.array([0, 0, 0, 1]), correlations(scores), torch.zeros(4, 4), torch.zeros(4, 4))
    assert pair.a.members[0] in (0, 1) and pair.a.members[2] == 2 and pair.b.members == [3]
    axis = pair.a.of(scores)
    assert torch.corrcoef(torch.stack([axis, scores[:, pair.a.members[0]]]))[0, 1] > 0.9
    sign = 1 if pair.a.members[0] == 1 else -1
    assert sign * pair.correlation > 0.9


def test_data_of_a_pair_by_hand():
    scores = torch.arange(100.0)[:, None].repeat(1, 3) / 100
    scores[:, 1] = 1 - scores[:, 0]
    scores[:, 2] = torch.tensor([0.0, 1.0]).repeat(50)
    ends = extremes(scores)
    torch.testing.assert_close(ends.values[:, 0], torch.tensor([0.045, 0.945]))
    assert sorted(ends.rows[0, :, 1].tolist()) == list(range(90, 100))
    pair = Pair(Axis([0], [1.0]), Axis([1], [1.0]), 0, 1, -1, 0, 0, 0)
    gap, data, wasserstein = split_of(scores, pair)
    assert (gap, data, wasserstein) == (pytest.approx(0.9), pytest.approx(-1), pytest.approx(1))
    assert split_of(scores, pair._replace(b=Axis([2], [1.0])))[2] == 0


def test_units_are_what_goes_together_and_is_near():
    line = torch.randn(200, generator=torch.Generator().manual_seed(1))
    noise = 0.3 * torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    scores = line[:, None] + noise
    scores[:, 3] = noise[:, 3]  # near the others, but on its own
    related, near = correlations(scores), torch.eye(4)
    near[0, 1] = near[1, 0] = near[0, 3] = near[3, 0] = 0.9
    apart = units(related, near)
    assert apart[0] == apart[1] and len(set(apart)) == 3
    near[1, 2] = near[2, 1] = 0.9
    assert len({*units(related, near)[:3]}) == 1 and units(related[:1, :1], near[:1, :1]).tolist() == [0]


def test_correlations_heed_ranks():
    line = torch.arange(1.0, 101)
    related = correlations(torch.stack([line, -(line**9), torch.zeros(100)], dim=1))
    assert related[0, 1] == pytest.approx(-1) and related[0, 2] == 0


def test_places_overlap():
    maps = torch.zeros(3, 4, 4)
    maps[0, :2], maps[1, 1:3], maps[2, 3] = 1 / 8, 1 / 8, 1 / 4
    torch.testing.assert_close(overlap(maps)[0], torch.tensor([1, 0.5, 0]))


def test_the_same_change_at_another_place_is_alike_mirrored_displaced_and_reversed_too():
    expected, maps = torch.zeros(3, 2, 1, 16, 16), torch.zeros(3, 16, 16)
    expected[0, 1, 0, 0:2, 0] = 1  # the left column of a place
    expected[1, 0, 0, 9:11, 15] = 0.5  # a right column, a pixel lower in its place, dark
    expected[2, 1, 0, 12, 0:2] = 1  # a row
    maps[0, :3, :3], maps[1, 8:11, 13:], maps[2, 11:14, :3] = 1 / 9, 1 / 9, 1 / 9
    found = alike(expected, maps, 3)
    torch.testing.assert_close(found, found.T)
    assert found[0, 1] == pytest.approx(1) and found.diagonal() == pytest.approx([1, 1, 1])
    assert found[0, 2] == pytest.approx(0.5**0.5)  # one pixel of two, displaced so that it is alone


def test_a_mirrored_change_is_alike_and_next_to_nothing_is_not():
    expected, maps = torch.zeros(3, 2, 1, 16, 16), torch.zeros(3, 16, 16)
    shape = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    expected[0, 1, 0, 0:3, 0:3], expected[1, 1, 0, 8:11, 8:11] = shape, shape.flip(1)
    maps[0, 0:3, 0:3], maps[1, 8:11, 8:11], maps[2, 6:9, 1:4] = 1 / 9, 1 / 9, 1 / 9
    expected[2, 1, 0, 6:9, 1:4] = 1  # a square; three pixels lower a trace of the shape
    expected[2, 1, 0, 9:12, 1:4] = 1e-3 * shape
    found = alike(expected, maps, 3)
    assert found[0, 1] == pytest.approx(1) and found[0, 2] < 0.9


def naive_exceptions(x, y):
    """Of N values each, as the docstring says it."""
    n, found = round(0.1 * len(x)), []
    for given, other in ((x, y), (y, x)):
        order, low, high = np.argsort(given), np.sort(other)[:n].mean(), np.sort(other)[-n:].mean()
        near = 0.25 * (high - low)
        for rows, contrary in ((order[:n], other > high - near), (order[-n:], other < low + near)):
            found.append(contrary[rows].mean() / max(contrary.mean(), 0.02))
    return min(found)


def test_exceptions_are_the_fewest_of_both_ends_both_ways():
    rng = np.random.default_rng(0)
    x = rng.random(2000)
    y = np.where(rng.random(2000) < 0.3, rng.random(2000), x**3)  # given y, the contrary end of x is never found
    z = np.where(rng.random(2000) < 0.5, rng.normal(size=2000), 3 * x)
    for one, other in ((x, y), (x, z), (y, z)):
        for a, b in ((one, other), (other, one), (-one, -other), (-other, -one)):
            found = exceptions(torch.from_numpy(a), torch.from_numpy(b))
            assert found == pytest.approx(naive_exceptions(a, b), abs=1e-6)


def test_correlation_is_of_images_that_chose_no_axis():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 8))
    a, b = canonical(x, y)
    assert np.corrcoef(x @ a, y @ b)[0, 1] > 0.5 and abs(held_out(x, y)) < 0.3
    assert all(np.isfinite(weights).all() for weights in canonical(x[:, [0, 0]], y))  # one score twice


@pytest.mark.parametrize(("correlation", "joined"), [(0.2, True), (0.1, False)])
def test_two_prototypes_are_one_unit_from_a_known_correlation_on(correlation, joined):
    related = torch.tensor([[1.0, correlation], [correlation, 1.0]])
    assert (len(set(units(related, torch.ones(2, 2)))) == 1) == joined


def test_a_tie_is_the_smaller_one_of_both_effects_and_sure_where_they_agree():
    table = pd.DataFrame({"masked": [0.5, 0.5, 0.2, 0.5], "data": [0.0] * 4, "alike": [0.0, 0.0, 0.5, 0.0]})
    spread = torch.tensor([-0.1, 0.1] * 8)  # deviation 0.1033, of the mean a quarter of it
    ranked = rank_ties(table, [mean + spread for mean in (0.3, -0.4, 0.6, 0.05)])
    assert ranked["tie"].tolist() == pytest.approx([0.3, 0.2, 0.05, 0.0], abs=1e-6)
    assert ranked["strength"].tolist() == pytest.approx([0.3, 0.1, 0.05, 0.0], abs=1e-6)
    assert ranked["generated_error"].tolist() == pytest.approx([0.1033 / 4] * 4, abs=1e-4)
    assert ranked["sure"].tolist() == [True, True, False, False]  # 0.05 is 1.94 errors, p = 0.053


def test_corners_are_filled_from_their_own_images_alone():
    values = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 1.0], [0.9, 1.0], [0.6, 0.1]])
    found = {(c.high_a, c.high_b): c for c in corners(values, 3)}
    assert found[1, 0].count == 1 and found[1, 0].nearest == [4] and found[0, 1].nearest == []
    assert found[0, 0].nearest == [0, 1] and found[1, 1].nearest == [2, 3]


def test_corner_cases_by_hand():
    values = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0.9], [0, 0.1]])
    found = corners(values, most=1)
    assert [case.count for case in found] == [2, 0, 1, 2]
    assert [case.nearest for case in found] == [[2], [], [1], [0]]


def test_ties_script(many):
    done = many.run("analysis/diagnosis/ties.py", "--draws", 4, "--figures", 1)
    folder = many.records / "ties" / "tiny_v0"
    assert "6 prototypes in" in done.stdout and "Traceback" not in done.stderr
    numbers = json.loads((folder / "ties.json").read_text())
    count = len(numbers["units"])
    assert sorted(k for unit in numbers["units"] for k in unit) == list(range(6))
    assert len(pd.read_csv(folder / "pairs.csv")) == numbers["pairs"] == count * (count - 1) // 2
    ranked = pd.read_csv(folder / "ties.csv")
    assert (folder / "tie_0.png").is_file() == bool(len(ranked)) and len(numbers["ties"]) == len(ranked)
    for tie in numbers["ties"]:
        assert tie["members_a"][0] == tie["a"] and len(tie["weights_b"]) == len(tie["members_b"])
    if len(ranked):
        cells = ranked[["high_high", "high_low", "low_high", "low_low"]]
        assert (cells.sum(axis=1) == 120).all()  # every training image is in one of the four


def test_ties_script_says_in_one_line_what_it_cannot_do(trained):
    done = trained.run("analysis/diagnosis/ties.py", check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: tiny/0: ties need 100 training images")
    assert not (trained.records / "ties").exists()
