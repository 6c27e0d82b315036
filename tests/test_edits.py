"""Setting scores, guided regeneration, what single scores say, and how faithfulness is measured: known answers."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_models import residual_model

from analysis.edits import HIDDEN, NEAREST, PUSH, Gesture, correlated, edit, encode_and_invert, guided, joint_change, regenerate, says
from analysis.measures import faithfulness
from analysis.measures.cards import choose
from train.data import faces
from train.errors import UserError
from train.images import to_tensor


def gaussian_scores(n: int = 20000) -> torch.Tensor:
    """Three scores: the second is .8 of the first plus noise, the third is on its own."""
    g = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, n, generator=g)
    return torch.stack([a, 0.8 * a + 0.6 * b, c], dim=1)


def test_joint_moves_the_others_by_their_regression_and_keep_leaves_them():
    known, s = gaussian_scores(), torch.zeros(2, 3)
    moved = Gesture(known, others="joint").set(s, [0], torch.tensor([1.0]))
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.8, 0.0]]).expand(2, 3), atol=0.02, rtol=0)
    moved = joint_change(s, [0, 2], torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), known)
    torch.testing.assert_close(moved[:, 1], torch.tensor([0.8, -0.8]), atol=0.02, rtol=0)
    kept = Gesture(known).set(s, [1], torch.tensor([[2.0], [3.0]]))
    assert kept.tolist() == [[0, 2, 0], [0, 3, 0]] and not s.any()
    assert joint_change(s, [0], torch.full((2, 1), 1e3), known)[:, 1].max() == known[:, 1].max()  # no further than scores go


def test_joint_follows_scores_that_rise_and_fall_again_and_falls_back_to_the_line_where_little_is_known():
    a, _, c = gaussian_scores().T
    known, s = torch.stack([a, a.square(), c], dim=1), torch.zeros(3, 3)
    s[2, 0] = -1
    moved = joint_change(s, [0], torch.tensor([[1.0], [-1.0], [2.0]]), known) - s
    torch.testing.assert_close(moved[:, 1], torch.tensor([1.0, 1.0, 0.0]), atol=0.1, rtol=0)  # no line could
    assert moved[:, 2].abs().max() < 0.1
    few = gaussian_scores(NEAREST)
    slope = torch.cov(few.T)[0, 1] / few[:, 0].var()
    assert joint_change(torch.zeros(1, 3), [0], torch.tensor([[1.0]]), few)[0, 1].item() == pytest.approx(slope.item(), rel=2e-3)


def test_release_hides_what_is_correlated_and_nothing_else():
    known = gaussian_scores()
    assert correlated(known, [0]).tolist() == [False, True, False]
    assert correlated(known, [0, 1]).tolist() == [False, False, False]
    edited = Gesture(known, others="release").set(torch.zeros(1, 3), [0], torch.tensor([1.0]))
    assert edited[0, 0] == 1 and edited[0, 1].isnan() and edited[0, 2].item() == pytest.approx(0, abs=0.02)  # the third moves with nothing


def test_guidance_is_linear_in_the_two_denoisers_within_the_range_of_images_and_0_is_the_plain_edit():
    model = residual_model()
    torch.nn.init.normal_(model.unet.last.weight, 0, 1.0)
    own, edited = torch.rand(2, 2, 5)
    z, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        here, there = (model.denoise(z, sigma, s) for s in (own, edited))
        pushed, push = guided(model, edited, own, 3.0)(z, sigma), 3 * (there - here)
        linear = there + push
        inside = (linear.abs() <= 1) & (push.abs() <= PUSH)
        assert 0 < inside.float().mean() < 1 and (push.abs() > PUSH).any()
        assert ((pushed - there).abs() <= PUSH + 1e-6).all()
        torch.testing.assert_close(pushed[inside], linear[inside])
        assert (pushed.abs() <= there.abs().clamp(min=1) + 1e-6).all()
        torch.testing.assert_close(guided(model, edited, own, 0.0)(z, sigma), there)
    with pytest.raises(UserError, match="use keep or joint"):
        guided(residual_model(masked=False), torch.full((2, 5), HIDDEN), own, 1.0)


def test_several_edits_of_every_image_equal_one_by_one():
    model, x0 = residual_model(), torch.rand(3, 3, 16, 16) * 2 - 1
    encoding = encode_and_invert(model, x0, 4)
    gesture = Gesture(encoding.scores, 4, 2.0)
    edits = [gesture.set(encoding.scores, [k], 1.0) for k in (0, 3)]
    together = edit(model, encoding, torch.cat(edits), gesture, batch=4)
    alone = torch.cat([edit(model, encoding, s, gesture) for s in edits])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    unedited = edit(model, encoding, encoding.scores, gesture)  # guidance towards nowhere
    torch.testing.assert_close(unedited, regenerate(model, encoding.noise, encoding.scores, 4), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("masked", [True, False])
def test_what_a_score_says(masked):
    model, known = residual_model(masked), torch.rand(100, 5)
    values = torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    told = says(model, [1, 4], values, known, (3, 16, 16))
    assert told.shape == (2, 2, 3, 16, 16)
    s = torch.full((1, 5), HIDDEN) if masked else joint_change(known.mean(0)[None], [4], 0.8 - known.mean(0)[None, [4]], known)
    s[0, 4] = 0.8
    with torch.no_grad():
        torch.testing.assert_close(told[1, 1], model.estimate(s)[0])


def test_cards_leave_out_what_says_the_same_and_put_flat_areas_last():
    told = torch.zeros(4, 2, 1, 2, 2)
    told[0, 1, 0, 0, 0] = told[1, 1, 0, 0, 0] = told[2, 1, 0, 1, 1] = told[3, 1, 0, 0, 1] = 1
    assert choose(told, np.array([1.0, 2.0, 0.5, 3.0]), np.array([False, False, False, True]), 3) == [1, 2, 3]


def test_candidates_and_region_measures():
    scores = np.array([[0.1, 0.9], [0.2, 0.8], [0.8, 0.5], [0.9, 0.6]])
    attributes = pd.DataFrame({"A": [0, 0, 1, 1], "B": [1, 1, 0, 0]})
    best = faithfulness.best_candidates(scores, attributes)
    assert [(c.prototype, c.direction) for c in best] == [(0, 1), (0, -1)]
    assert faithfulness.single_of(best, scores, attributes).tolist() == [1, 1]
    regions = np.zeros((2, 4, 4), bool)
    regions[:, :2] = True
    exact = faithfulness.region_measures(regions[0].astype(float), regions)
    assert exact == {"region": pytest.approx(1), "inside": pytest.approx(1), "inside_chance": pytest.approx(0.5)}
    nothing = faithfulness.region_measures(np.ones((4, 4)), regions)
    assert nothing["region"] == 0 and nothing["inside"] == pytest.approx(nothing["inside_chance"])


def test_a_prototype_that_is_its_attribute_moves_and_hits_on_every_pair():
    """An encoder whose first prototype is a white square's own patch, on pairs with and without that square."""
    model = residual_model()
    rng = np.random.default_rng(0)
    absent = rng.integers(0, 60, (6, 16, 16, 3), dtype=np.uint8)
    present, region = absent.copy(), np.zeros((6, 16, 16), bool)
    for i, (y, x) in enumerate(rng.integers(0, 12, (6, 2))):
        present[i, y : y + 4, x : x + 4] = 255
        region[i, y : y + 4, x : x + 4] = True
    z = model.encoder.embed(to_tensor(present)).detach()
    z = torch.nn.functional.normalize(z, dim=1)
    middle = [z[i, :, (y.min() + 2) // 2 - 1 or 0, (x.min() + 2) // 2 - 1 or 0] for i, (y, x) in enumerate(np.nonzero(r) for r in region)]
    model.encoder.prototypes.data[0] = torch.stack(middle).mean(0)
    model.encoder.prototypes.data[1:] = z.mean((0, 2, 3))
    model.encoder.temperature = 1e-3
    found = faithfulness.pair_measures(model, faithfulness.Pairs(absent, present, region), faithfulness.Candidate("White", 0, 1), 0.5)
    assert found["pair"] == 1 and found["hit"] == 1 and 0 < found["hit_chance"] < 0.7
    wrong = faithfulness.pair_measures(model, faithfulness.Pairs(absent, present, region), faithfulness.Candidate("White", 0, -1), 0.5)
    assert wrong["pair"] == 0


def test_counterfactual_pairs_are_those_of_single_faces():
    pairs = faces.counterfactual_pairs(32, 5, 2)
    assert set(pairs) == set(faces.ATTRIBUTES)
    absent, present, region = faces.counterfactual(faces.draw_options(5, 1), "Beard", 32)
    for part, expected in zip(pairs["Beard"], (absent, present, region)):
        np.testing.assert_array_equal(part[1], expected)
