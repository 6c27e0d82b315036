"""The measures of edits, parts and groups: known answers."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from test_models import residual_model

from analysis.drawing.faithfulness import draw
from analysis.evaluation.faithfulness import learnable
from analysis.measures import edit_metrics as metrics
from analysis.measures.candidates import Effects, best_setters, effect_values, quick_edit, rankings_agree
from analysis.measures.faithfulness import others_of
from analysis.measures.groups import (
    Group,
    belonging,
    best_states,
    find_groups,
    find_states,
    likeness,
    state_names,
    telling_groups,
)
from analysis.measures.scores import KnownScores
from analysis.reporting.explorer import Explorer
from train.data.table import HAIR, SOURCES

BEFORE = np.array([[-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
AFTER = np.array([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])


def test_shares_of_changed_attributes():
    assert metrics.steerability(AFTER, 0, True) == 1 and metrics.steerability(AFTER, 2, False) == 0.5
    assert metrics.side_changes(BEFORE, AFTER, [1, 2]) == 0.25 and np.isnan(metrics.side_changes(BEFORE, AFTER, []))
    assert metrics.mnac(BEFORE, AFTER) == 1.5  # the first image changes one attribute, the second two


def test_an_edit_must_leave_alone_what_the_labels_do_not_exclude():
    subject = np.repeat(["brick", "grass", "sand"], 100)
    labels = pd.get_dummies(pd.DataFrame({"subject": subject})).astype(float)
    labels["Bright"] = np.arange(300) % 2
    labels[["rare", "odd"]] = 0.0
    labels.loc[:29, "rare"] = labels.loc[100:129, "odd"] = 1.0  # by chance three have both, so that none says nothing
    labels.loc[::50, "odd"] = np.nan
    others = others_of(labels, SOURCES["folder"])
    assert others["subject_brick"] == [3, 4, 5] and others["Bright"] == [0, 1, 2, 4, 5]
    assert others["rare"] == [0, 3, 5]  # on bricks alone, where ten on grass and ten on sand were to be expected
    hair = pd.DataFrame(np.eye(5), columns=[*HAIR, "Smiling"])
    assert others_of(hair, SOURCES["faces"])["Red_Hair"] == [4]
    assert others_of(hair, SOURCES["folder"])["Red_Hair"] == [0, 1, 2, 4]
    digits = pd.DataFrame(np.eye(2), columns=["Class_0", "Class_1"])
    assert others_of(digits, SOURCES["mnist"]) == {"Class_0": [], "Class_1": []}


def test_correlation_difference_is_0_for_what_has_the_true_correlations():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 100000))
    change = np.stack([a, 0.6 * a + 0.8 * b, b, np.zeros(100000)], 1)
    truth = np.array([1, 0.6, 0, 0])
    assert metrics.correlation_difference(change, 0, truth) == pytest.approx(0, abs=0.02)
    assert metrics.correlation_difference(change, 0, np.array([1, 0, 0, 0])) == pytest.approx(0.6, abs=0.02)
    assert metrics.correlation_difference(change, 0, np.zeros(4)) == pytest.approx(0.6, abs=0.02)  # itself left out


def test_cout_of_an_edit_that_one_pixel_decides_and_of_one_that_all_pixels_make():
    x0, edited = -torch.ones(2, 1, 10, 5), -torch.ones(2, 1, 10, 5)
    edited[:, 0, 0, 0] = 1
    few = metrics.cout(lambda x: 100 * x[:, :, 0, 0].numpy(), x0, edited, 0, True)
    assert few == pytest.approx(1 - 2 / 100)  # there after the first of 50 steps, half of which counts
    assert metrics.cout(lambda x: -100 * x[:, :, 0, 0].numpy(), x0, edited, 0, False) == pytest.approx(few)
    every = metrics.cout(lambda x: 100 * x.mean((2, 3)).numpy(), x0, torch.ones_like(x0), 0, True)
    assert every == pytest.approx(0, abs=1e-3)  # there after half of the pixels
    assert metrics.cout(lambda x: 100 * x[:, :, 0, 0].numpy(), x0, x0, 0, True) == pytest.approx(-1)  # never there


def test_single_deletion_is_1_where_importance_tells_the_drop_and_0_where_it_tells_the_opposite():
    drop = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
    assert metrics.single_deletion(drop**3, drop) == 1 and metrics.single_deletion(-drop, drop) == 0
    assert np.isnan(metrics.single_deletion(np.ones((2, 3)), drop))
    assert metrics.single_deletion(np.vstack([drop, np.ones(3)]), np.vstack([drop, drop[:1]])) == 1  # one says nothing


def test_boxes_meet_regions_as_a_loop_finds():
    rng = np.random.default_rng(1)
    regions, boxes = rng.random((6, 9, 8)) > 0.9, np.zeros((6, 5, 4), int)
    boxes[..., :2] = rng.integers(0, 6, (6, 5, 2))
    boxes[..., 2:] = boxes[..., :2] + rng.integers(1, 3, (6, 5, 2))
    slow = [[regions[i, a:c, b:d].any() for a, b, c, d in boxes[i]] for i in range(6)]
    np.testing.assert_array_equal(metrics.boxes_meet(regions, boxes), slow)


def test_consistency_and_stability():
    always, never = np.ones((10, 1), bool), np.zeros((10, 1), bool)
    mostly = np.arange(10)[:, None] < 7
    parts = [np.hstack([never, mostly]), np.hstack([always, never])]
    assert metrics.consistency(parts).tolist() == [True, False]
    assert metrics.consistency([np.arange(5)[:, None] < 4]).tolist() == [True]  # 80 % are enough
    before, after = np.stack(parts), np.stack([np.hstack([never, mostly]), np.hstack([always, mostly])])
    assert metrics.stability(before, after).tolist() == [1, pytest.approx(0.3)]


def two_factors(n: int = 4000) -> tuple[KnownScores, torch.Tensor, pd.DataFrame]:
    """Prototypes 0, 2, 4 tell one attribute (2 against it), 1 and 3 another, 5 neither; those of one factor speak of
    one half of the image."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, n, generator=g) < 0.4).float()
    scores = torch.stack([a, b, 1 - a, b, a, torch.rand(n, generator=g)], 1) + 0.1 * torch.randn(n, 6, generator=g)
    expected = torch.zeros(6, 2, 1, 4, 4)
    expected[[0, 2, 4], 1, :, :2] = 1
    expected[[1, 3], 1, :, 2:] = 1
    expected[5, 1] = 1
    return KnownScores(scores), expected, pd.DataFrame({"A": a.numpy(), "B": b.numpy()})


def test_groups_are_what_tells_one_thing_at_one_place():
    known, expected, attributes = two_factors()
    groups = find_groups(known, expected)
    assert sorted(map(sorted, (g.members for g in groups))) == [[0, 2, 4], [1, 3]]
    first = next(g for g in groups if 0 in g.members)
    best = best_states(groups, known, attributes)
    assert groups[best["A"].group] is first and min(state.auroc for state in best.values()) > 0.95
    present, absent = (dict(zip(first.members, first.states[j].tolist())) for j in best["A"][1:3])
    assert present == pytest.approx({0: 1, 2: 0, 4: 1}, abs=0.02)
    assert absent == pytest.approx({0: 0, 2: 1, 4: 0}, abs=0.02)
    assert any(name.startswith("A (") for name in state_names(first, known, attributes))
    lines = telling_groups(groups, known, attributes)
    assert len(lines) == 2 and all(f"group {n} (" in line for n, line in enumerate(lines))
    told = lines[groups.index(first)]
    assert f"state {best['A'].present} A (" in told and f"({', '.join(map(str, first.members))})" in told
    alike = likeness(known, expected)
    assert alike[0, 1] < 0.1 < alike[0, 2] and np.allclose(alike, alike.T)


def test_states_are_the_colours_that_several_prototypes_tell_together():
    g = torch.Generator().manual_seed(3)
    colours = torch.tensor([[0.1, 0.9, 0.9], [0.5, 0.1, 0.9], [0.8, 0.8, 0.1]])
    colour = torch.randint(3, (3000,), generator=g)
    known = KnownScores(colours[colour] + 0.05 * torch.randn(3000, 3, generator=g))
    states = find_states(known, [0, 1, 2])
    torch.testing.assert_close(states, colours, atol=0.01, rtol=0)  # as many, from low to high of the first
    belongs = belonging(known, Group([0, 1, 2], states))
    assert belongs.argmax(1).eq(colour).float().mean() > 0.99 and (belongs > 0).sum(1).eq(1).all()
    attributes = pd.DataFrame({f"colour_{c}": (colour == c).int().numpy() for c in range(3)})
    best = best_states([Group([0, 1, 2], states)], known, attributes)
    assert [best[f"colour_{c}"].present for c in range(3)] == [0, 1, 2]


def test_states_of_images_in_order_of_kind():
    g = torch.Generator().manual_seed(4)
    kinds = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).repeat_interleave(torch.tensor([2900, 100]), dim=0)
    known = KnownScores(kinds + 0.01 * torch.randn(3000, 2, generator=g))
    torch.testing.assert_close(find_states(known, [0, 1]), kinds[[0, -1]], atol=0.01, rtol=0)
    rare = KnownScores(torch.cat([0.01 * torch.randn(2000, 2, generator=g), torch.tensor([[5.0, 5.0]])]))
    assert find_states(rare, [0, 1]).isfinite().all()  # a cluster of one image


def test_scores_that_are_all_the_same_have_one_state():
    assert find_states(KnownScores(torch.ones(50, 2)), [0, 1]).tolist() == [[1, 1]]


def test_the_best_setter_sets_its_attribute_and_nothing_else():
    shape = (3, 2, 2)  # prototypes, low and high, attributes
    appears, vanishes, changes = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    appears[0, 1, 0], changes[0, 1, 1] = 1, 0.4  # sets A, and B with it
    appears[1, 0, 0], vanishes[1, 1, 0] = 0.9, 0.8  # set low it brings A about, set high it takes it away
    appears[2, 1, 1] = 0.5
    effects = Effects(appears, vanishes, changes)
    chosen = best_setters(effects, ["A", "B"], {"A": [1], "B": [0]})
    assert [(c.prototype, c.direction) for c in chosen] == [(1, -1), (2, 1)]
    assert effect_values(effects, 0, [1])[1, 0] == pytest.approx(1.3)
    scores = np.array([[0.0, 1.0, 0.5], [0.1, 0.9, 0.5], [0.9, 0.2, 0.5], [1.0, 0.0, 0.5]])
    labels = pd.DataFrame({"A": [0, 0, 1, 1], "B": [0, 1, 0, 1]})
    assert -1 <= rankings_agree(effects, scores, labels, {"A": [1], "B": [0]})["A"] <= 1


def test_a_quick_edit_to_the_own_scores_is_the_image():
    model, x0 = residual_model(), torch.rand(2, 3, 16, 16) * 2 - 1
    s = model.score(x0).detach()
    with torch.no_grad():
        torch.testing.assert_close(quick_edit(model, x0, s, s), x0)
        expected = (x0 + model.estimate(s + 0.3) - model.estimate(s)).clamp(-1, 1)
        torch.testing.assert_close(quick_edit(model, x0, s, s + 0.3), expected)


def test_the_page_names_states_of_groups_and_sets_all_their_members():
    known, expected, attributes = two_factors()
    explorer = object.__new__(Explorer)
    explorer.known, explorer.groups = known, find_groups(known, expected)
    explorer.state_names = [state_names(group, known, attributes) for group in explorer.groups]
    label, choice = next(found for found in explorer.state_choices() if ": B (" in found[0])
    number, state = choice.split("=")
    assert label.startswith(f"group {number} state {state}: B (")
    assert explorer.state_settings(choice) == pytest.approx({1: 1, 3: 1}, abs=0.05)


def test_read_outs_are_learnt_where_training_images_have_both_classes():
    attributes = pd.DataFrame({"both": [0.0, 1, np.nan], "one": [1.0, 1, 1], "unknown": [np.nan] * 3})
    assert learnable(attributes) == ["both"]


@pytest.mark.parametrize("count", [1, 13])
def test_the_figure_has_room_for_its_bars_and_its_legend(count, tmp_path):
    names = ("single", "pair", "hit", "region", "appears", "side", "effectiveness")
    table = pd.DataFrame({name: [0.5] * count for name in names}, index=[f"Attribute_{i}" for i in range(count)])
    table["prototype"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of axes that collapse
        draw(table, table.mean(), (np.ones((count, 4, 4)), {}), tmp_path / "figure")
