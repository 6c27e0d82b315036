"""Planted shortcuts: rules that a share of the images follows, and marks of known pixels."""

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Bench, draw_images

from train.config import load_config
from train.data.dataset import load_split
from train.data.listing import follow
from train.data.marks import draw_marked, mark, region

BIAS, MARK = "analysis/diagnosis/plant_bias.py", "analysis/diagnosis/plant_mark.py"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Bench:
    """A bench with 480 labelled images and no run; not to be changed."""
    bench = Bench(tmp_path_factory.mktemp("labelled"))
    bench.images = draw_images(bench.home / "many", 480, 16)
    bench.config = bench.write_config({"train.reference_steps": 7})
    return bench


def coins(count: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Four attributes that are independent, and splits."""
    table = pd.DataFrame(np.random.default_rng(0).integers(0, 2, (count, 4)), columns=list("ABCD"))
    return table, np.where(np.arange(count) % 4 == 0, "test", "train")


@pytest.mark.parametrize("strength", [0.5, 0.75, 0.9, 1.0])
def test_a_rule_holds_for_its_share_of_each_split(strength):
    table, splits = coins(4000)
    kept = follow({"A == B": strength}, table, splits, 0)
    holds = (table["A"] == table["B"]).to_numpy()
    for split in ("train", "test"):
        assert holds[kept & (splits == split)].mean() == pytest.approx(strength, abs=0.002)
    most = min(holds.sum() / strength, (~holds).sum() / (1 - strength) if strength < 1 else np.inf)
    assert 0.97 * most <= kept.sum() <= most  # as many as there can be in both splits
    assert (follow({"A == B": strength}, table, splits, 0) == kept).all()


def test_two_rules_hold_independently_and_the_unknown_is_left_out():
    table, splits = coins(8000)
    table = table.astype(float)
    table.loc[:99, "A"] = np.nan
    kept = follow({"A == B": 0.9, "C == D": 0.75}, table, splits, 0)
    first, second = (table["A"] == table["B"])[kept], (table["C"] == table["D"])[kept]
    assert first.mean() == pytest.approx(0.9, abs=0.005) and second.mean() == pytest.approx(0.75, abs=0.005)
    assert (first & second).mean() == pytest.approx(0.9 * 0.75, abs=0.005) and not kept[:100].any()


def test_plant_bias(labelled):
    rule = "Bright == Left"
    done = labelled.run(BIAS, "--config", labelled.config, "--where", rule, "--name", "tied")
    folder = labelled.records / "plant_bias" / "tied"
    values = yaml.safe_load((folder / "tied.yaml").read_text())
    assert values["data"]["where"] == f"({rule})" and values["train"]["reference_steps"] is None
    assert pd.read_csv(folder / "correlations_after.csv", index_col=0).loc["Bright", "Left"] == pytest.approx(1)
    counts = pd.read_csv(folder / "counts.csv", index_col="attribute")
    assert counts.loc["Bright", "after"] == counts.loc["Left", "after"]
    assert "correlation of Bright and Left" in done.stdout and (folder / "correlations.png").is_file()
    labelled.run(BIAS, "--config", labelled.config, "--where", rule, "--strength", 0.75, "--name", "half_tied")
    config = load_config(labelled.records / "plant_bias" / "half_tied" / "half_tied.yaml")
    assert config.data.rules == {rule: 0.75} and config.data.where is None
    images = load_split(config.data, "train").attributes
    assert (images["Bright"] == images["Left"]).mean() == pytest.approx(0.75, abs=0.01)
    assert config.data.unbiased().rules == {}


def test_marks_change_their_region_and_nothing_else():
    pixels = np.random.default_rng(0).integers(0, 200, (5, 16, 16, 3), dtype=np.uint8)
    for kind, size, count in (("tag", 4, 16), ("border", 2, 256 - 144), ("cast", 1, 256)):
        inside = region(kind, size, 16)
        marked = mark(pixels, kind, inside, 0.5, white=True)
        assert inside.sum() == count and (marked[:, ~inside] == pixels[:, ~inside]).all()
        channels = slice(0, 1) if kind == "cast" else slice(None)
        old, new = pixels[:, inside, channels].astype(int), marked[:, inside, channels]
        assert np.abs(new - (old + 255) / 2).max() <= 0.5
    assert (marked[..., 1:] == pixels[..., 1:]).all()  # a cast changes the first channel
    assert not mark(pixels, "tag", region("tag", 4, 16), 1.0, white=False)[:, 11:15, 11:15].any()


def test_of_the_class_the_share_is_marked():
    holds = np.arange(1000) < 200
    marked = draw_marked(holds, 0.75, np.random.default_rng(0))
    assert marked[holds].sum() == 150 and marked[~holds].sum() == 200


def test_plant_mark_writes_exact_pairs(labelled, monkeypatch):
    monkeypatch.setattr("train.data.dataset.DATA_DIR", labelled.home / "data")
    folder = labelled.home / "marked"
    options = ["--config", labelled.config, "--attribute", "Bright", "--name", "marked", "--folder", folder]
    done = labelled.run(MARK, *options, "--strength", 1, "--size", 3)
    assert "marked: 100% and of the others 0%" in done.stdout
    inside = np.load(folder / "mask.npy")
    images = load_split(load_config(folder / "reference.yaml").data, "train")
    planted = load_split(load_config(folder / "planted.yaml").data, "train")
    half = len(images) // 2
    assert inside.sum() == 9 and len(planted) == half == 360
    assert (planted.attributes["Mark"] == planted.attributes["Bright"]).all()
    pair = {pair_of(name): images.pixels[row].astype(int) for row, name in enumerate(images.ids)}
    changed = [pair["with", n] != pair["without", n] for side, n in pair if side == "with"]
    assert np.any(changed, axis=(0, 3))[inside].all() and not np.any(changed, axis=(0, 3))[~inside].any()
    assert "is there already" in labelled.run(MARK, *options, check=False).stderr
    again = ["--config", folder / "planted.yaml", "--attribute", "Left", "--name", "twice"]
    assert "has an attribute Mark already" in labelled.run(MARK, *again, check=False).stderr


def pair_of(name: str) -> tuple[str, str]:
    """with/train/000001.png -> (with, train/000001.png)."""
    side, rest = name.split("/", 1)
    return side, rest


RULE = ["--where", "Bright == Left"]


@pytest.mark.parametrize(
    ("script", "args", "expected"),
    [
        (BIAS, [*RULE, "--strength", 0.4], "--strength 0.4: must be from 0.5"),
        (BIAS, [*RULE, "--strength", "nan"], "must be from 0.5"),
        (BIAS, ["--where", "Hat == Left", "--strength", 0.7], "no attribute 'Hat'"),
        (BIAS, [*RULE, "--strength", 0.95], "and 50 are needed"),
        (MARK, ["--attribute", "Bright", "--strength", 1.2], "--strength 1.2: must be from 0.5"),
        (MARK, ["--attribute", "Bright", "--size", 16], "a tag in images of 16 pixels has from 1 to 15"),
        (MARK, ["--attribute", "Bright", "--mark", "border", "--size", 9], "has from 1 to 8"),
        (MARK, ["--attribute", "Bright", "--contrast", 0], "--contrast 0: must be above 0"),
        (MARK, ["--attribute", "Hat"], "--attribute Hat: there is none; there are Bright, Left"),
        (MARK, ["--attribute", "Bright", "--strength", 0.9], "50 are needed"),
    ],
)
def test_bad_input_is_one_line(labelled, script, args, expected):
    folder = labelled.home / "refused"
    extra = ["--folder", folder] if script == MARK else ["--name", "refused"]
    done = labelled.run(script, "--config", labelled.config, *args, *extra, check=False)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr
    assert not folder.exists() and not (labelled.records / "plant_bias" / "refused").exists()
