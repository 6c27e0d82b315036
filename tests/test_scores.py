"""Counterfactual scores on synthetic scores whose answer is known: clusters, alternatives that exclude each other, a
line."""

import numpy as np
import pytest
import torch

from analysis.measures.auroc import single_auroc
from analysis.measures.readouts import read_out
from analysis.measures.scores import (
    NEAREST,
    OTHERS,
    KnownScores,
    correlated,
    keep,
    positions,
    quantiles,
    regress,
    show_only,
    transport,
)


def gaussian_scores(n: int = 20000) -> torch.Tensor:
    """Three scores: the second is .8 of the first plus noise, the third is on its own."""
    g = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, n, generator=g)
    return torch.stack([a, 0.8 * a + 0.6 * b, c], dim=1)


def coloured(n: int = 6000) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of images of one of four colours, one prototype a colour that is .9 for it and .1 for others, then two
    that know nothing of it; and the colours."""
    g = torch.Generator().manual_seed(1)
    colour = torch.randint(4, (n,), generator=g)
    s = torch.full((n, 6), 0.1)
    s[torch.arange(n), colour] = 0.9
    s[:, 4:] = torch.rand(n, 2, generator=g)
    s[:, :4] += 0.02 * torch.randn(n, 4, generator=g)
    return s, colour


def test_a_colour_takes_the_place_of_the_one_that_was_there_and_nothing_else_changes():
    scores, colour = coloured()
    s = scores[:400]
    edited = transport(KnownScores(scores), s, [2], torch.full((400, 1), 0.9))
    assert edited[:, :4].argmax(1).eq(2).all()
    others = edited[:, [0, 1, 3]]
    assert others.max() < 0.2  # black, brown, blond alike are gone: alternatives exclude each other
    assert (edited - s)[:, 4:].abs().max() < 0.1 and (edited - s)[:, 4:].abs().mean() < 0.02  # chance; deviation .29
    regressed = regress(KnownScores(scores), s, [2], torch.full((400, 1), 0.9))
    assert regressed[colour[:400] == 0, 0].median() > 0.5  # which the mean change of all images cannot do


def test_two_clusters_are_exchanged():
    g = torch.Generator().manual_seed(2)
    cluster = torch.rand(5000, generator=g) < 0.5
    scores = torch.stack([cluster.float(), 1 - cluster.float(), 2 * cluster.float() + 5], 1)
    scores = torch.cat([scores + 0.05 * torch.randn(5000, 3, generator=g), torch.randn(5000, 1, generator=g)], dim=1)
    own = scores[~cluster][:50]
    edited = transport(KnownScores(scores), own, [0], torch.full((50, 1), 1.0))
    torch.testing.assert_close(edited[:, 1:3], torch.tensor([0.0, 7.0]).expand(50, 2), atol=0.25, rtol=0)
    assert torch.equal(edited[:, 3], own[:, 3])


def test_along_a_line_the_others_follow_and_keep_their_deviation():
    known = KnownScores(gaussian_scores())
    s = torch.tensor([[0.0, 0.3, 0.2], [-1.0, -0.8, -1.0]])
    edited = transport(known, s, [0], torch.tensor([[1.0], [1.0]]))
    torch.testing.assert_close(edited[:, 1], torch.tensor([0.3 + 0.8, -0.8 + 1.6]), atol=0.15, rtol=0)
    assert torch.equal(edited[:, [0, 2]], torch.tensor([[1.0, 0.2], [1.0, -1.0]]))


@pytest.mark.parametrize("way", ["transport", "keep", "joint"])
def test_an_edit_to_the_own_scores_changes_nothing_even_outside_of_the_known_range(way):
    scores, _ = coloured(500)
    s = torch.cat([scores[:3], torch.full((1, 6), 1.7), torch.full((1, 6), -2.0)])
    for prototypes in ([0], [2, 5]):
        edited = OTHERS[way](KnownScores(scores), s, prototypes, s[:, prototypes])
        torch.testing.assert_close(edited, s, atol=1e-5, rtol=0)


def test_edited_scores_stay_within_the_range_of_the_known_unless_they_were_outside():
    scores = gaussian_scores(2000)
    s = torch.tensor([[0.0, 99.0, 0.0], [2.5, 2.0, 0.0]])
    for way in (transport, regress):
        edited = way(KnownScores(scores), s, [0], torch.full((2, 1), 1e3))
        assert edited[0, 1] <= 99 and edited[1, 1] <= scores[:, 1].max() and edited[:, 0].tolist() == [1e3, 1e3]


def test_several_prototypes_at_once():
    scores, _ = coloured()
    s = scores[:100]
    edited = transport(KnownScores(scores), s, [1, 4], torch.tensor([0.9, 0.5]).expand(100, 2))
    assert edited[:, :4].argmax(1).eq(1).all() and edited[:, [0, 2, 3]].max() < 0.35
    assert (edited - s)[:, 5].abs().max() < 0.1 and (edited[:, 4] == 0.5).all()


def test_few_known_images_tell_nothing_of_the_others():
    g = torch.Generator().manual_seed(3)
    scores, s = torch.randn(20, 5, generator=g), torch.randn(4, 5, generator=g)
    edited = transport(KnownScores(scores), s, [1], torch.full((4, 1), 2.0))
    assert torch.equal(
        edited, keep(KnownScores(scores), s, [1], torch.full((4, 1), 2.0))
    )  # all 20 are neighbours, of either value


def test_regress_moves_the_others_by_their_regression_and_keep_leaves_them():
    known, s = KnownScores(gaussian_scores()), torch.zeros(2, 3)
    moved = regress(known, s, [0], torch.ones(2, 1))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.8, 0.0]]).expand(2, 3), atol=0.02, rtol=0)
    moved = regress(known, s, [0, 2], torch.tensor([[1.0, 1.0], [-1.0, 0.0]]))
    torch.testing.assert_close(moved[:, 1], torch.tensor([0.8, -0.8]), atol=0.02, rtol=0)
    assert keep(known, s, [1], torch.tensor([[2.0], [3.0]])).tolist() == [[0, 2, 0], [0, 3, 0]] and not s.any()


def test_regress_follows_scores_that_rise_and_fall_again_and_falls_back_to_the_line_where_little_is_known():
    a, _, c = gaussian_scores().T
    known, s = KnownScores(torch.stack([a, a.square(), c], dim=1)), torch.zeros(3, 3)
    s[2, 0] = -1
    moved = regress(known, s, [0], torch.tensor([[1.0], [-1.0], [1.0]])) - s
    torch.testing.assert_close(moved[:, 1], torch.tensor([1.0, 1.0, 0.0]), atol=0.1, rtol=0)  # no line could
    assert moved[:, 2].abs().max() < 0.1
    few = gaussian_scores(NEAREST)
    slope = torch.cov(few.T)[0, 1] / few[:, 0].var()
    moved = regress(KnownScores(few), torch.zeros(1, 3), [0], torch.ones(1, 1))
    assert moved[0, 1].item() == pytest.approx(slope.item(), rel=2e-3)


def test_release_hides_what_is_correlated_and_nothing_else():
    scores = gaussian_scores()
    assert correlated(scores, [0]).tolist() == [False, True, False]
    assert correlated(scores, [0, 1]).tolist() == [False, False, False]
    edited = OTHERS["release"](KnownScores(scores), torch.zeros(1, 3), [0], torch.ones(1, 1))
    assert edited[0, 0] == 1 and edited[0, 1].isnan() and edited[0, 2].item() == pytest.approx(0, abs=0.02)


def test_positions_ranks_and_quantiles():
    known = KnownScores(torch.tensor([[3.0], [1.0], [2.0], [2.0]]))
    assert known.ranks[:, 0].tolist() == [0.875, 0.125, 0.375, 0.625]
    values = torch.tensor([[0.0], [1.0], [2.0], [2.5], [9.0]])
    assert positions(known, [0], values)[:, 0].tolist() == [0, 0.125, 0.5, 0.75, 1]
    column = torch.arange(101.0)
    torch.testing.assert_close(quantiles(torch.stack([column, -column], 1)), torch.tensor([[1.0, 99.0], [-99.0, -1.0]]))


def test_show_only_hides_all_others():
    shown = show_only(torch.tensor([[1.0, 2.0, 3.0]]), [0, 2])
    assert shown[0, [0, 2]].tolist() == [1, 3] and shown[0, 1].isnan()


def colours(count: int = 3000):
    """Scores of images of three colours that exclude one another, three, two and one sixth of the images, and of
    something else; the one in the middle is at no end of the first score. -> (N, 3), labels of the middle one (N,)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [0.6, 1.0], [1.2, 0.0]])
    which = torch.tensor([0, 1, 0, 1, 0, 2]).repeat(count // 6)
    told = centres[which] + 0.05 * torch.randn(count, 2, generator=generator)
    return torch.cat([told, torch.randn(count, 1, generator=generator)], dim=1), (which == 1).double().numpy()


def test_a_read_out_sets_what_no_single_score_tells_and_leaves_the_rest():
    scores, middle = colours()
    known = KnownScores(scores)
    told = read_out(known, middle)
    values = told.of(scores)
    assert single_auroc(values[:, None].numpy(), middle)[0] == 1
    own = scores[:30]
    there, away = told.set(own, 1), told.set(own, 0)
    torch.testing.assert_close(there[:, :2], torch.tensor([0.6, 1.0]).expand(30, 2), atol=0.2, rtol=0)
    assert (there[:, 2] - own[:, 2]).abs().mean() < 0.1 and (told.of(away) < 0).all()
    assert told.missing(1)(there).max() < 0.1 < told.missing(1)(own[middle[:30] == 0]).min()
    assert told.missing(0)(away).max() < 0.1 < told.missing(0)(own[middle[:30] == 1]).min()
    assert told.value(99) == pytest.approx(values.max().item(), abs=1e-5)  # as far as it was seen


def test_a_read_out_leaves_out_images_whose_label_is_unknown():
    scores, middle = colours()
    some = np.where(np.arange(len(middle)) % 5 == 0, np.nan, middle)
    rows = ~np.isnan(some)
    told, fewer = read_out(KnownScores(scores), some), read_out(KnownScores(scores), middle)
    assert np.corrcoef(told.of(scores), fewer.of(scores))[0, 1] > 0.99 and rows.sum() == 2400
    assert told.present == pytest.approx(fewer.present, abs=0.2)


def test_an_edit_away_takes_one_of_the_alternatives_where_that_is_asked():
    generator = torch.Generator().manual_seed(0)
    with_it, other = torch.arange(1000) % 5 < 2, torch.arange(1000) % 2 == 0
    told = torch.where(with_it, -0.1, other.float()) + 0.03 * torch.randn(1000, generator=generator)
    known = KnownScores(torch.stack([with_it + 0.01 * torch.randn(1000, generator=generator), told], dim=1))
    own, none = known.scores[with_it][:50], torch.zeros(50, 1)
    mixed, chosen = (transport(known, own, [0], none, choose=choose)[:, 1] for choose in (False, True))
    assert ((mixed > 0.2) & (mixed < 0.8)).all()  # between the two, as no known image is
    assert (torch.minimum(chosen.abs(), (chosen - 1).abs()) < 0.1).float().mean() > 0.8
    assert 5 < (chosen > 0.5).sum() < 45  # either, by what the image had
    back = transport(known, known.scores[~with_it][:50], [0], torch.ones(50, 1), choose=True)[:, 1]
    assert (back + 0.1).abs().max() < 0.1


def test_a_read_out_reaches_what_is_commanded():
    scores, middle = colours()
    told = read_out(KnownScores(scores), middle)
    for amount in (0.0, 0.5, 1.0):
        reached = told.of(told.set(scores[:60], amount))
        assert (reached - told.value(amount)).abs().median() < 0.02


def test_one_more_score_beside_the_known_ones():
    scores = torch.randn(50, 4)
    both = KnownScores(scores[:, :3]).beside(scores[:, 3])
    assert torch.equal(both.scores, scores) and torch.equal(both.ranks, KnownScores(scores).ranks)
