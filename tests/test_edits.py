"""Guided regeneration, as little guidance as it takes, expected images, and what candidates are judged by: known
answers."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_models import residual_model

from analysis.edits import (
    PUSH,
    EditOptions,
    edit,
    edit_until_reached,
    encode_and_invert,
    expected_images,
    guided,
    inside,
    places,
    regenerate,
    shortfall,
)
from analysis.measures.candidates import Candidate, best_candidates, single_of
from analysis.measures.cards import choose
from analysis.measures.counterfactuals import Pairs, pair_measures
from analysis.measures.regions import region_measures
from analysis.measures.scores import KnownScores, regress
from models.patronus import HIDDEN
from train.data.drawings import FACES
from train.errors import UserError
from train.images import to_tensor


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
    with pytest.raises(UserError, match="use transport, joint or keep"):
        guided(residual_model(masked=False), torch.full((2, 5), HIDDEN), own, 1.0)


def test_several_edits_of_every_image_equal_one_by_one():
    model, x0 = residual_model(), torch.rand(3, 3, 16, 16) * 2 - 1
    encoding = encode_and_invert(model, x0, 4)
    options = EditOptions(KnownScores(encoding.scores), 4, others="keep")
    edits = [options.set(encoding.scores, [k], 1.0) for k in (0, 3)]
    together = edit(model, encoding, torch.cat(edits), 4, 2.0, batch=4)
    alone = torch.cat([edit(model, encoding, s, 4, 2.0) for s in edits])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    unedited = edit(model, encoding, encoding.scores, 4, 2.0)  # guidance towards nowhere
    torch.testing.assert_close(unedited, regenerate(model, encoding.noise, encoding.scores, 4), atol=1e-4, rtol=1e-4)


def test_a_plain_edit_calls_the_network_once_a_step(monkeypatch):
    model, x0 = residual_model(), torch.rand(2, 3, 16, 16) * 2 - 1
    encoding, calls = encode_and_invert(model, x0, 4), []
    inner = model._denoise
    monkeypatch.setattr(model, "_denoise", lambda *args: calls.append(1) or inner(*args))
    edit(model, encoding, encoding.scores + 0.1, 4)
    assert len(calls) == 7  # 4 Heun steps, the last of which is one of Euler
    edit(model, encoding, encoding.scores + 0.1, 4, 1.0)
    assert len(calls) == 7 + 14


def test_what_is_missing_of_commanded_scores():
    known = KnownScores(
        torch.linspace(0, 2, 201)[:, None].repeat(1, 3)
    )  # the range from the 1 % to the 99 % quantile is 1.96
    own, edited = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 1.0]])
    found = torch.tensor([[1.5, 0.2, 9.0]])
    assert shortfall(found, edited, own, [0], known).item() == pytest.approx(0.5 / 1.96)
    assert shortfall(found, edited, own, [0, 1], known).item() == pytest.approx(0.35 / 1.96)
    assert shortfall(found, edited, own, [1], known).item() == pytest.approx(0.2 / 1.96)
    assert shortfall(found, edited, own, [2], known).item() == 0  # nothing was commanded
    more = torch.tensor([[3.0, -1.0, 0.0]])  # what is more than commanded is not missing
    assert shortfall(more, edited, own, [0, 1], known).item() == 0


def test_as_little_guidance_as_it_takes_image_by_image(monkeypatch):
    """A model whose found score is twice the strength of the guidance, of the first image only: the second is there at
    once."""
    from analysis import edits

    model, x0 = residual_model(), torch.rand(3, 3, 16, 16) * 2 - 1
    encoding, tried = encode_and_invert(model, x0, 3), []

    def edited_images(model, part, s, steps, strength, title=None):
        tried.append((strength, len(s)))
        need = s[:, 1]  # the strength that an image needs
        return (strength >= need).float()[:, None, None, None].expand(-1, 3, 16, 16) * 0.5 + 0.1 * strength

    monkeypatch.setattr(edits, "edit", edited_images)
    monkeypatch.setattr(model, "score", lambda x: x.mean((1, 2, 3))[:, None].repeat(1, 5))
    commanded = torch.zeros(3, 5)
    commanded[:, 0], commanded[:, 1] = 0.5, torch.tensor([0.5, 0.0, 9.0])
    options = EditOptions(KnownScores(torch.rand(50, 5)), 3, (0.0, 0.5, 1.0, 2.0))
    own = encoding._replace(scores=torch.zeros(3, 5))
    result = edit_until_reached(model, own, commanded, [0], options)
    assert tried == [(0.0, 3), (0.5, 2), (1.0, 1), (2.0, 1)]
    assert result.reached.tolist() == [True, True, False]
    assert result.guidance.tolist() == [0.5, 0.0, 2.0]  # the third is left where it came nearest
    assert torch.equal(result.scores, result.images.mean((1, 2, 3))[:, None].repeat(1, 5))


def test_scores_follow_as_far_as_they_speak_of_the_place_of_what_is_set(monkeypatch):
    """Prototype 0 rules a square of 3 pixels, 1 the same and as much elsewhere, 2 the last column, 3 nothing; 4 is a
    template. In the data 2 goes along with 0."""
    model, scores = residual_model(), torch.rand(200, 5)
    scores[:, 2] = scores[:, 0]
    says = torch.zeros(5, 1, 16, 16)
    says[:2, :, 6:9, 6:9] = says[1, :, :3, :3] = says[2, :, :, 15] = says[4, :, 0, 0] = 1
    model.encoder.prototypes = torch.nn.Parameter(model.encoder.prototypes[:4].detach())
    monkeypatch.setattr(model, "estimate", lambda s: torch.tensordot(s, says, 1))
    known = KnownScores(scores)
    spoken = places(model, known)
    torch.testing.assert_close(spoken.sum((1, 2)), torch.ones(5))
    assert spoken[0, 6:9, 6:9].sum() == pytest.approx(1) and spoken[2, :, 15].sum() == pytest.approx(1)
    torch.testing.assert_close(spoken[3:], torch.full((2, 16, 16), 1 / 256))  # nothing, or the whole image
    share = inside(spoken, [0])
    assert share[0] == 1 and share[1] == pytest.approx((0.5 - 0.2) / 0.4) and share[2:].tolist() == [0, 0, 0]
    assert inside(spoken, [0, 2])[:3].tolist() == pytest.approx([1, 0.75, 1])
    assert inside(spoken, [4]).tolist() == pytest.approx([1] * 5)

    s = torch.full((2, 5), 0.5)
    options = EditOptions(known, others="joint")
    moved, kept = (options._replace(places=where).set(s, [0], 0.9) for where in (None, spoken))
    assert (moved[:, 2] > 0.85).all() and torch.equal(kept[:, 2:], s[:, 2:]) and (kept[:, 0] == 0.9).all()
    torch.testing.assert_close(kept[:, 1] - 0.5, 0.75 * (moved[:, 1] - 0.5))
    released = options._replace(places=spoken, others="release").set(s, [0], 0.9)
    assert not released.isnan().any()  # prototype 2 speaks elsewhere, so it is not hidden either
    model.decoder = None
    assert places(model, known) is None


@pytest.mark.parametrize("masked", [True, False])
def test_the_image_expected_of_a_score(masked):
    model, scores = residual_model(masked), torch.rand(100, 5)
    known, values = KnownScores(scores), torch.tensor([[0.1, 0.9], [0.2, 0.8]])
    expected = expected_images(model, [1, 4], values, known, (3, 16, 16))
    assert expected.shape == (2, 2, 3, 16, 16)
    s = torch.full((1, 5), HIDDEN) if masked else regress(known, scores.mean(0)[None], [4], torch.tensor([[0.8]]))
    s[0, 4] = 0.8
    with torch.no_grad():
        torch.testing.assert_close(expected[1, 1], model.estimate(s)[0])


def test_cards_leave_out_what_speaks_alike_and_put_flat_areas_last():
    expected = torch.zeros(4, 2, 1, 2, 2)
    expected[0, 1, 0, 0, 0] = expected[1, 1, 0, 0, 0] = expected[2, 1, 0, 1, 1] = expected[3, 1, 0, 0, 1] = 1
    assert choose(expected, np.array([1.0, 2.0, 0.5, 3.0]), np.array([False, False, False, True]), 3) == [1, 2, 3]


def test_candidates_and_region_measures():
    scores = np.array([[0.1, 0.9], [0.2, 0.8], [0.8, 0.5], [0.9, 0.6]])
    attributes = pd.DataFrame({"A": [0, 0, 1, 1], "B": [1, 1, 0, 0]})
    best = best_candidates(scores, attributes)
    assert [(c.prototype, c.direction) for c in best] == [(0, 1), (0, -1)]
    assert single_of(best, scores, attributes).tolist() == [1, 1]
    regions = np.zeros((2, 4, 4), bool)
    regions[:, :2] = True
    exact = region_measures(regions[0].astype(float), regions)
    assert exact == {"region": pytest.approx(1), "inside": pytest.approx(1), "inside_chance": pytest.approx(0.5)}
    nothing = region_measures(np.ones((4, 4)), regions)
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
    middle = [
        z[i, :, (y.min() + 2) // 2 - 1 or 0, (x.min() + 2) // 2 - 1 or 0]
        for i, (y, x) in enumerate(np.nonzero(r) for r in region)
    ]
    model.encoder.prototypes.data[0] = torch.stack(middle).mean(0)
    model.encoder.prototypes.data[1:] = z.mean((0, 2, 3))
    model.encoder.temperature = 1e-3
    found = pair_measures(model, Pairs(absent, present, region), Candidate("White", 0, 1), 0.5)
    assert found["pair"] == 1 and found["hit"] == 1 and 0 < found["hit_chance"] < 0.7
    wrong = pair_measures(model, Pairs(absent, present, region), Candidate("White", 0, -1), 0.5)
    assert wrong["pair"] == 0


def test_counterfactual_pairs_are_those_of_single_faces():
    pairs = FACES.counterfactual_pairs(32, 5, 2)
    assert set(pairs) == set(FACES.names)
    absent, present, region = FACES.counterfactual(FACES.draw_options(5, 1), "Beard", 32)
    for part, expected in zip(pairs["Beard"], (absent, present, region)):
        np.testing.assert_array_equal(part[1], expected)
