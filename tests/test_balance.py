"""The remedy of a shortcut: exchanged scores on known answers, what a classifier learns of them, and the script."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import DEVICE, Bench, draw_images

from analysis.measures import balance as balance_measures
from analysis.measures.balance import accuracies, draw_pairs, exchanged, goes_with, lacking
from train.data.dataset import ImageSet


def tied_scores():
    """Four scores: hair, more of the hair, smile (tied to the hair), and something else."""
    draw = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    hair = draw[:, 0]
    return torch.stack([hair, hair + 0.2 * draw[:, 1], hair + 0.7 * draw[:, 2], draw[:, 3]], dim=1)


def test_what_goes_with_a_prototype_is_nearer_to_it_than_to_the_other():
    scores = tied_scores()
    assert goes_with(scores, 0, 2) == [0, 1] and goes_with(scores, 2, 0) == [2]


def test_exchanged_scores_are_independent_and_keep_what_belongs_together():
    scores = tied_scores()
    members, pairs = goes_with(scores, 0, 2), draw_pairs(0, range(4000), len(scores))
    s = exchanged(scores, pairs, members)
    correlation = torch.corrcoef(s.T)
    assert torch.corrcoef(scores.T)[0, 2] > 0.7 and abs(correlation[0, 2]) < 0.05 and correlation[0, 1] > 0.95
    assert torch.equal(s[5, :2], scores[pairs[5, 1], :2]) and torch.equal(s[5, 2:], scores[pairs[5, 0], 2:])


def test_pairs_do_not_depend_on_the_other_images():
    assert (draw_pairs(3, [7, 2], 50) == draw_pairs(3, range(10), 50)[[7, 2]]).all()
    assert (draw_pairs(3, range(10), 50) != draw_pairs(4, range(10), 50)).any()


def test_cells_that_a_set_lacks():
    tied = np.repeat([[0, 0], [1, 1], [0, 1]], [45, 45, 10], axis=0)  # 25 of each would be independent
    test = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert lacking(tied, test).tolist() == [False, True, True, False]
    assert not lacking(np.tile(test, (10, 1)), test).any()


def squares(labels) -> ImageSet:
    """Images whose ground is bright where the first label holds, with a mark at the left where the second does."""
    pixels = np.random.default_rng(0).integers(0, 60, (len(labels), 16, 16, 1), dtype=np.uint8)
    pixels += (120 * labels[:, 0]).astype(np.uint8)[:, None, None, None]
    pixels[:, 6:9, 2:5] += (30 * labels[:, 1]).astype(np.uint8)[:, None, None, None]
    return ImageSet(pixels, [str(i) for i in range(len(labels))], pd.DataFrame(index=range(len(labels))), None)


def test_a_classifier_of_tied_images_takes_the_shortcut_and_one_of_independent_ones_does_not(monkeypatch):
    monkeypatch.setattr(balance_measures, "SEEN", 1200)
    rng = np.random.default_rng(0)
    free, first = rng.integers(0, 2, (600, 2)), rng.integers(0, 2, 600)
    tied, test = np.stack([first, first], axis=1), rng.integers(0, 2, (200, 2))
    sets = {"tied": (squares(tied), tied.astype(float)), "free": (squares(free[:500]), free[:500].astype(float))}
    rare = lacking(tied, test)
    table = accuracies(sets, squares(test), test, rare, torch.device(DEVICE)).set_index("trained_on")
    assert (rare == (test[:, 0] != test[:, 1])).all() and (table["images"] == 500).all()  # as many of each
    assert table.loc["tied", "lacking_1"] < 0.3 and table.loc["free", "lacking_1"] > 0.9
    assert table["others_1"].min() > 0.9


@pytest.fixture(scope="module")
def biased(tmp_path_factory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("biased"))
    bench.images = draw_images(bench.home / "many", 500, 16)
    bench.config = bench.write_config({"data.where": "Bright == Left"})
    bench.train()
    return bench


def balance(bench, *args, check=True):
    return bench.run("analysis/diagnosis/balance.py", "--total_gen_num", 200, "--steps", 1, *args, check=check)


def test_every_balanced_image_tells_where_it_comes_from(biased):
    done = balance(biased, "--balance", "0,1")
    folder = biased.records / "FID" / "balanced_tiny_0" / "run_0"
    table, settings = pd.read_csv(folder.with_suffix(".csv")), json.loads(folder.with_suffix(".json").read_text())
    assert len(table) == len(list(folder.glob("*.png"))) == 200 and settings["balance"] == [0, 1]
    assert ((table["a_set"] == table["a_found"]) & (table["b_set"] == table["b_found"]) == table["kept"]).all()
    attributes = pd.read_csv(biased.images / "metadata.csv").set_index("img_filename")
    for role in ("source", "donor"):
        rows = attributes.loc[[f"{name}.png" if not name.endswith(".png") else name for name in table[role]]]
        assert (rows["split"] == "train").all() and (rows["Bright"] == rows["Left"]).all()
    assert f"{table['kept'].sum()} of 200 kept" in done.stdout
    (folder / "000007.png").unlink()
    again = balance(biased, "--balance", "0,1", "--run", 0)
    assert "(1 of them new)" in again.stdout and table.equals(pd.read_csv(folder.with_suffix(".csv")))


def test_the_measure_ends_in_a_table_or_says_that_too_few_images_are_kept(biased):
    done = balance(biased, "--balance", "0,1", "--measure", "Bright,Left", check=False)
    if done.returncode == 0:
        assert "unbiased" in done.stdout and "lacking Left" in done.stdout
    else:
        assert done.stderr.strip().startswith("error: only") or "error: only" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--balance", "0"], "must be two different prototypes"),
        (["--balance", "2,2"], "must be two different prototypes"),
        (["--balance", "0,x"], "--balance 0,x: must be numbers"),
        (["--balance", "0,99"], "there is no prototype 99; the run has 0 to 5"),
        (["--balance", "0,1", "--measure", "Bright,Nose"], "it has Bright, Left"),
        (["--balance", "0,1", "--measure", "Bright"], "must be two attributes"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(biased, options, said):
    before = sorted(biased.records.rglob("*"))
    done = balance(biased, *options, check=False)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert sorted(biased.records.rglob("*")) == before


def test_an_unbiased_set_lacks_nothing_to_measure(many):
    done = balance(many, "--balance", "0,1", "--measure", "Bright,Left", check=False)
    assert done.returncode == 2 and "lie in cells that the training images lack" in done.stderr
    assert not (many.records / "FID").exists()
