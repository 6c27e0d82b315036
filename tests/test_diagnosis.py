"""Shortcuts: the statistics on known answers, and a toy model with and without a planted one."""

import argparse
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DEVICE, Bench, draw_images
from scipy.stats import t as student
from sklearn.metrics import mutual_info_score

from analysis.diagnosis.diagnose import Asked, Evidence, Labelled, ask, pair_row
from analysis.drawing.shortcut_figures import draw_edits
from analysis.measures import readers
from analysis.measures.quality import mutual_bits
from analysis.measures.readers import class_gaps, classifier_reader, prototype_reader, read_set, reliability
from analysis.measures.shortcuts import (
    EditEffect,
    Edits,
    class_gap,
    corrected,
    detectable,
    edit_effect,
    edit_examples,
    generated_effect,
    generated_evidence,
    holm,
    judge,
    random_gap,
    tellable,
)
from analysis.schemas import EFFECTS
from models.schedule import karras_sigmas
from train.data.dataset import ImageSet
from train.errors import UserError


def test_mutual_information_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 500)
    labels = np.array([a, rng.integers(0, 2, 500), a, 1 - a, np.ones(500, int)])
    expected = [[mutual_info_score(x, y) / np.log(2) for y in labels] for x in labels]
    np.testing.assert_allclose(mutual_bits(labels), expected, atol=1e-9)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])).max() == 1


def test_generation_is_tested_among_all_pairs_and_edits_among_those_that_pass():
    table = pd.DataFrame({"generated": [0.3, 0.3, -0.3, 0.3], "generated_p": [1e-4, 1e-3, 1e-5, 0.2]})
    table = table.assign(edit=0.2, edit_p=[0.01, 0.06, 1e-9, 1e-9])
    # by generation 3e-4, 2e-3, 4e-5 and .2, five times that at a fifth of the level: three are below .05; by edits in
    # the direction of generation .005, .03 and 1, times 3, 2 and 1, at four fifths of the level
    np.testing.assert_allclose(corrected(table), [0.005 * 3 / 0.8, 0.03 * 2 / 0.8, 1, 1])


def test_false_pairs_are_named_in_one_of_twenty_diagnoses_at_most():
    rng, named = np.random.default_rng(0), []
    for _ in range(2000):
        p = rng.random((2, 20))
        p[0, :5], p[1, 5:10] = 1e-9, 1e-9  # five are true in generation alone, five in edits alone, ten in nothing
        table = pd.DataFrame({"generated_p": p[0], "edit_p": p[1], "generated": 1.0, "edit": rng.choice([-1.0, 1], 20)})
        named.append((corrected(table) < 0.05).any())
    assert 0.01 < np.mean(named) < 0.055


def test_generated_effect_is_a_regression_that_knows_b():
    rng = np.random.default_rng(0)
    b = rng.integers(0, 2, 400)
    a = np.where(rng.random(400) < 0.8, b, 1 - b)  # A goes with B
    change = -0.9 * b + 0.01 * rng.normal(size=400)  # B returns to the mean, A does nothing
    assert abs(generated_effect(change, a, b)[0]) < 0.01
    coefficient, error, p = generated_effect(change + 0.3 * a, a, b)
    assert coefficient == pytest.approx(0.3, abs=0.01) and error < 0.01 and p < 1e-10


def test_edit_effect_needs_images_and_nulls():
    effects = np.full(50, 0.4) + 0.01 * np.random.default_rng(0).normal(size=50)
    assert edit_effect(effects, np.full(20, 0.01)).p < 1e-6
    assert edit_effect(effects, np.array([0.4, -0.4] * 10)).p > 0.3  # random prototypes move it as much
    assert edit_effect(effects * np.array([1, -1] * 25), np.full(20, 0.001)).p > 0.3  # images disagree


def test_class_gap_keeps_what_tells_and_random_gap_keeps_its_size():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000).astype(float)
    scores = rng.normal(size=(1000, 6))
    scores[:, 2] += 2 * labels
    gap, order = class_gap(scores, np.append(labels[:-1], np.nan), None)
    assert order[0] == 2 and gap[2] == pytest.approx(2, abs=0.2) and np.count_nonzero(gap) <= 2
    assert np.count_nonzero(class_gap(scores, labels, 3)[0]) == 3
    deviation = scores.std(0)
    moved = random_gap(gap, deviation, rng)
    np.testing.assert_allclose(np.sort(moved / deviation), np.sort(gap / deviation), rtol=1e-5)


def test_pairs_that_exclude_each_other_cannot_be_told_apart():
    a = np.repeat([0, 1], 50)
    assert not tellable(a, 1 - a) and tellable(a, np.tile([0, 1], 50))
    assert not tellable(np.append(a[:54], [np.nan] * 46), np.tile([0, 1], 50))


class Drawer:
    """A toy: images of two pixels (hair, smile) that are their own scores. A biased one draws the smile from the hair
    alone."""

    def __init__(self, biased: bool):
        self.biased = biased

    def score(self, x):
        return x.flatten(1)

    def largest_map(self, side):
        return 2

    def sigmas(self, steps):
        return karras_sigmas(steps)

    def denoiser(self, s):
        """D(z, sigma) = what the scores say, whatever z."""
        drawn = torch.stack([s[:, 0], -s[:, 0] if self.biased else s[:, 1]], dim=1)[:, None, None]  # (B, 1, 1, 2)
        return lambda z, sigma: drawn


@pytest.mark.parametrize("biased", [True, False])
def test_a_planted_shortcut_is_named_and_nothing_else(biased):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (300, 2)).astype(float)
    x0 = torch.from_numpy(labels * 0.8 - 0.4 + 0.05 * rng.normal(size=labels.shape)).float()[
        :, None, None
    ]  # (N, 1, 1, 2)
    model, readers = Drawer(biased), {"pixels": lambda x: x.flatten(1).numpy()}
    scores = model.score(x0)
    edits = Edits(model, readers, x0[:40], 4, 0.0)
    effects = [edits.effect(torch.from_numpy(class_gap(scores.numpy(), y, None)[0]))["pixels"] for y in labels.T]
    generated = generated_evidence(model, readers, scores, x0.shape[1:], 4, 0)["pixels"]
    rows = []
    for i, j in ((0, 1), (1, 0)):
        edit = edit_effect(effects[i][:, j] / 0.8, np.array([0.01, -0.01] * 10))
        coefficient, error, p = generated_effect(
            (generated - x0.flatten(1).numpy())[:, j] / 0.8, labels[:, i], labels[:, j]
        )
        row = {"raised": i, "moved": j, "edit": edit.mean, "edit_p": edit.p, "generated": coefficient, "generated_p": p}
        for name, mean, deviation in (("edit", edit.mean, edit.error), ("generated", coefficient, error)):
            row |= {f"{name}_low": mean - 2 * deviation, f"{name}_high": mean + 2 * deviation}
        rows.append(row)
    table = judge(pd.DataFrame(rows))
    assert table["shortcut"].tolist() == [biased, False]
    assert table["verdict"].tolist() == ["found" if biased else "not found", "not found"]
    assert effects[0][:, 0].mean() == pytest.approx(0.8, abs=0.05)


def test_an_effect_that_could_have_been_found_is_found_in_eight_of_ten_diagnoses():
    rng, images, nulls, generated, pairs = np.random.default_rng(0), 40, 20, 200, 30
    edit_deviation, generated_error, spread = 0.6, 0.06, 0.01
    about = EditEffect(0.0, edit_deviation / images**0.5, 1.0, spread)
    effect = detectable(about, images, nulls, generated_error, generated, pairs)
    assert effect > 0.1
    named = []
    for true in 300 * [effect] + 100 * [0.0]:
        edit = edit_effect(true + edit_deviation * rng.normal(size=images), spread * rng.normal(size=nulls))
        made = true + generated_error * rng.normal()
        p = 2 * student.sf(abs(made) / generated_error, generated - 3)
        rows = pd.DataFrame({"edit": edit.mean, "edit_p": edit.p, "generated": made, "generated_p": p}, index=range(1))
        others = rows.assign(edit_p=1.0, generated_p=1.0).loc[[0] * (pairs - 1)]
        rows = pd.concat([rows, others], ignore_index=True)
        for name in ("edit", "generated"):
            rows[f"{name}_low"] = rows[f"{name}_high"] = rows[name]
        named.append(judge(rows)["shortcut"][0])
    assert 0.73 < np.mean(named[:300]) < 0.9 and np.mean(named[300:]) == 0


def test_what_is_neither_found_nor_shown_to_be_small_cannot_be_told():
    rows = {"edit": 0.25, "generated": 0.25, "edit_p": 0.3, "generated_p": 0.3}
    wide, narrow = {"low": -0.1, "high": 0.6}, {"low": 0.01, "high": 0.09}
    limits = [
        {f"edit_{k}": v for k, v in e.items()} | {f"generated_{k}": wide[k] for k in wide} for e in (wide, narrow)
    ]
    assert judge(pd.DataFrame([rows | one for one in limits]))["verdict"].tolist() == ["cannot tell", "not found"]


def test_readers_read():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (200, 2)).astype(float)
    pixels = rng.integers(0, 60, (200, 16, 16, 1), dtype=np.uint8)
    pixels[:, :8] += (120 * labels[:, 0]).astype(np.uint8)[:, None, None, None]
    pixels[:, 8:] += (120 * labels[:, 1]).astype(np.uint8)[:, None, None, None]
    images = ImageSet(pixels, [str(i) for i in range(200)], pd.DataFrame(labels, columns=["Top", "Bottom"]), None)
    with_gap = labels.copy()
    with_gap[:5, 0] = np.nan
    model = type(
        "Model",
        (),
        {"score": staticmethod(lambda x: torch.stack([x[:, :, :8].mean((1, 2, 3)), x[:, :, 8:].mean((1, 2, 3))], 1))},
    )()
    scores = model.score(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
    device = torch.device(DEVICE)
    for reader in (classifier_reader(images, with_gap, device), prototype_reader(model, scores, with_gap)):
        evidence = read_set(reader, images, device)
        assert reliability(evidence, labels).min() > 0.95 and class_gaps(evidence, labels).min() > 0


def test_the_same_labelled_images_train_a_classifier_once(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "DATA_DIR", tmp_path)
    rng, device = np.random.default_rng(0), torch.device(DEVICE)
    labels, pixels = rng.integers(0, 2, (80, 2)).astype(float), rng.integers(0, 256, (80, 16, 16, 1), dtype=np.uint8)
    images = ImageSet(pixels, [str(i) for i in range(80)], pd.DataFrame(labels), None)
    trained = []
    train = readers._train
    monkeypatch.setattr(readers, "_train", lambda *args: trained.append(train(*args)))

    def read(of: ImageSet, known: np.ndarray, seed: int = 0) -> np.ndarray:
        return read_set(classifier_reader(of, known, device, seed), images, device)

    first = read(images, labels)
    assert np.array_equal(read(images, labels), first) and len(trained) == 1
    [file] = (tmp_path / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:100])  # damaged: it is trained anew, to the same
    assert np.allclose(read(images, labels), first, atol=1e-5) and len(trained) == 2
    with monkeypatch.context() as read_only:
        read_only.setattr(readers, "DATA_DIR", file)  # below a file nothing can be written
        assert np.allclose(read(images, labels), first, atol=1e-5) and len(trained) == 3
    other = ImageSet(255 - pixels, images.ids, images.attributes, None)
    read(other, labels), read(images, 1 - labels), read(images, labels, seed=1)
    assert len(trained) == 6


LABELLED = np.random.default_rng(0).integers(0, 2, (400, 3)).astype(float)
LABELLED[:, 2] = 1 - LABELLED[:, 0]  # C is there where A is not
RARE = np.array([[1, 1], [1, 0], [0, 1], *[[0, 0]] * 7] * 12, float)  # 12 of each rare case among 120


def asked(labels: np.ndarray, generated: int):
    table = pd.DataFrame(labels, columns=list("ABC")[: labels.shape[1]])
    images = ImageSet(np.zeros((len(labels), 1)), [""] * len(labels), table, None)
    args = argparse.Namespace(num_samples=8, generated=generated)
    return ask(Labelled(None, images, images, list(table), []), args, np.random.default_rng(0))


def test_pairs_are_asked_about_where_labels_can_tell_them():
    question = asked(LABELLED, 200)
    assert question.pairs == [(0, 1), (1, 0), (1, 2), (2, 1)] and question.untellable == [(0, 2)]
    assert len(question.edited) == 8 and len(question.generated) == 200 == len(set(question.generated))


def test_what_could_have_been_found_counts_the_pairs_that_are_asked_about():
    images = ImageSet(np.zeros((400, 1)), [""] * 400, pd.DataFrame(LABELLED, columns=list("ABC")), None)
    labelled = Labelled(None, images, images, list("ABC"), [])
    rng, rows = np.random.default_rng(0), np.arange(400)
    effects = [rng.normal(size=(20, 3)) for _ in range(3)]
    before, after, nulls = rng.normal(size=(400, 3)), rng.normal(size=(400, 3)), 0.1 * rng.normal(size=(10, 3))
    seen = Evidence(before, after, np.ones(3), np.ones(3), effects, nulls, np.ones((3, 10)))
    question = Asked(rows[:20], rows, [(0, 1), (1, 0), (1, 2), (2, 1)], [(0, 2)])
    row = pair_row(labelled, question, seen, 0, 1)
    edit, error = (
        edit_effect(effects[0][:, 1], nulls[:, 1]),
        generated_effect((after - before)[:, 1], *LABELLED.T[:2])[1],
    )
    four, six = (detectable(edit, 20, 10, error, 400, pairs) for pairs in (4, 6))
    assert row["detectable"] == four < six and (row["raised"], row["moved"]) == ("A", "B")
    ratios = np.array([[3.0], [1], [1]]) * np.ones(10)  # an edit that is three times as large as every random one
    larger = pair_row(labelled, question, seen._replace(ratios=ratios), 0, 1)
    assert larger["edit_p"] == edit_effect(effects[0][:, 1], 3 * nulls[:, 1]).p > row["edit_p"]


@pytest.mark.parametrize(
    ("labels", "advice"), [(LABELLED[:, [0, 2]], "plant_mark.py"), (RARE, "raise --generated, to 120 at most")]
)
def test_what_helps_where_no_pair_can_be_told(labels, advice):
    with pytest.raises(UserError, match=advice):
        asked(labels, 20)
    assert labels is not RARE or asked(labels, 120).pairs == [(0, 1), (1, 0)]


def test_diagnose_script(tmp_path):
    bench = Bench(tmp_path)
    bench.images = draw_images(tmp_path / "many", 400, 16)
    table = pd.read_csv(bench.images / "metadata.csv")
    table["Dark"] = 1 - table["Bright"]
    table.to_csv(bench.images / "metadata.csv", index=False)
    bench.config = bench.write_config({"data.where": "Bright == Left"})
    bench.train()
    options = ["--num_samples", 8, "--generated", 60, "--nulls", 10, "--steps", 2]
    done = bench.run("analysis/diagnosis/diagnose.py", *options)
    assert "100 labelled test images" in done.stdout  # the run's own where keeps only half of them
    assert "cannot tell apart: Bright/Dark" in done.stdout
    folder = bench.records / "diagnose" / "tiny_v0"
    for name in ("effects.png", "ranking.csv", "diagnose.npz", "effects_classifier.csv", "effects_prototypes.csv"):
        assert (folder / name).is_file()
    effects = EFFECTS.read(folder, "classifier")
    pairs = {("Bright", "Left"), ("Left", "Bright"), ("Dark", "Left"), ("Left", "Dark")}
    assert set(zip(effects["raised"], effects["moved"])) == pairs
    found = bench.run("analysis/diagnosis/diagnose.py", "--no-classifier", *options)
    assert "read by the prototypes" in found.stdout


def test_classes_that_exclude_each_other_are_refused_before_anything_is_encoded(tmp_path):
    bench = Bench(tmp_path)
    bench.images = draw_images(tmp_path / "many", 240, 16)
    table = pd.read_csv(bench.images / "metadata.csv").drop(columns="Left")
    table.assign(Dark=1 - table["Bright"]).to_csv(bench.images / "metadata.csv", index=False)
    bench.config = bench.write_config({})
    bench.train()
    done = bench.run("analysis/diagnosis/diagnose.py", "--num_samples", 8, "--generated", 50, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "plant_mark.py" in done.stderr


def test_examples_are_the_images_that_a_shortcut_moves_most(tmp_path):
    """Raising A takes B away and adds C; the images are ordered by what happens to B, the first of its effects."""

    def moved(shift):
        return torch.full((6, 3, 8, 8), 0.5) * shift.sum() + torch.arange(6).view(6, 1, 1, 1) / 100

    match = SimpleNamespace(boxes=torch.tensor([[0, 0, 2, 2], [1, 2, 5, 6]]).expand(4, 2, 4))
    model = SimpleNamespace(encoder=SimpleNamespace(match=lambda images: match))
    edits = SimpleNamespace(model=model, moved=moved, encoding=SimpleNamespace(scores=torch.zeros(6, 2)))
    rows = [SimpleNamespace(raised="A", moved="B", edit=-0.5), SimpleNamespace(raised="A", moved="C", edit=0.4)]
    strength = {("A", "B"): np.array([0, -3, 1, -2, -1, 2.0]), ("A", "C"): np.arange(6.0)}
    pixels = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    gaps = {"A": np.array([1, 0], np.float32)}
    (example,) = edit_examples(edits, pixels, rows, gaps, {"A": 1}, strength)
    assert example.original[:, 0, 0, 0].tolist() == [1, 3, 4, 0] and example.moved == "-B, +C"
    assert example.boxes[0] == [1, 2, 5, 6] and example.pictures.shape == (4, 3, 8, 8, 3)
    levels = [images.mean() for images in (example.lowered, example.own, example.raised)]
    assert np.diff(levels) == pytest.approx([127.5 / 2] * 2, abs=1)
    assert draw_edits([example], tmp_path / "edits")[0].stat().st_size > 1000
