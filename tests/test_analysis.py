"""The arithmetic of the figures on known answers, and every figure script on a tiny run."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from benchmarks.information import plain
from conftest import DEVICE
from PIL import Image

from analysis import schemas
from analysis.edits import encode_and_invert, regenerate, slerp
from analysis.evaluation.consistency import alikeness
from analysis.manipulation.manipulate import Commands, parse_setting
from analysis.measures import emergence, information
from analysis.measures.counterfactuals import Pairs
from analysis.measures.emergence import half_rise, spectral_centroid, trace_scores, true_change
from analysis.measures.groups import Group
from analysis.measures.scores import most_probable
from analysis.schemas import BITS, EMERGENCE
from models.patronus import Patronus
from models.prototype_encoder import PrototypeEncoder
from models.unet import UNet
from train import runs
from train.data.dataset import load_split
from train.errors import UserError
from train.scores import encode

MANIPULATE = "analysis/manipulation/manipulate.py"
OWNERSHIP = "analysis/interpretability/ownership.py"
FAITHFULNESS = "analysis/evaluation/faithfulness.py"
ENCODE = "analysis/interpretability/encode.py"
TRACE = "analysis/interpretability/trace_emergence.py"
INFORMATION = "analysis/interpretability/information.py"
FIGURES = {
    MANIPULATE: [
        "manipulate/tiny_v0/manipulate.png",
        "manipulate/tiny_v0/manipulate.npz",
        "manipulate/tiny_v0/manipulate.json",
    ],
    "analysis/evaluation/interpolate.py": [
        "interpolate/tiny_v0/interpolate.png",
        "interpolate/tiny_v0/interpolate.npz",
    ],
    "analysis/evaluation/extrapolate.py": [
        "extrapolate/tiny_v0/extrapolate.png",
        "extrapolate/tiny_v0/extrapolate.npz",
    ],
    "analysis/evaluation/consistency.py": [
        "consistency/tiny_v0/consistency.png",
        "consistency/tiny_v0/consistency.npz",
    ],
    OWNERSHIP: ["ownership/tiny_v0/ownership.png", "ownership/tiny_v0/ownership.npz"],
    INFORMATION: [
        f"information_of_some/tiny_v0/{name}"
        for name in ("information.png", "information.pdf", "information.npz", "information.csv")
    ],
    TRACE: [
        f"trace_emergence/tiny_v0/{name}"
        for name in ("emergence.png", "strip.pdf", "emergence.gif", "emergence.npz", "emergence.csv")
    ],
}


def small_model() -> Patronus:
    torch.manual_seed(0)
    encoder = PrototypeEncoder(1, 4, [8, 8], [3, 3], [2, 1], [1, 0], normalise=True, scaled_init=True)
    return Patronus(encoder, UNet(1, 4, 8, [1, 2], 1, [False, False], 0.0)).eval()


def test_slerp_keeps_ends_and_length():
    a, b = torch.zeros(2, 2), torch.zeros(2, 2)
    a[0, 0], b[1, 1] = 3.0, 3.0
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    middle = slerp(a, b, 0.5)
    assert middle.norm().item() == pytest.approx(3.0) and middle[0, 0] == middle[1, 1]
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)


def test_batches_change_no_image():
    model, x0 = small_model(), torch.rand(5, 1, 16, 16) * 2 - 1
    whole, parts = encode_and_invert(model, x0, 4), encode_and_invert(model, x0, 4, batch=2)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=5e-3)  # x_T is of size 80
    one = regenerate(model, whole.noise, whole.scores, 4)
    torch.testing.assert_close(one, regenerate(model, whole.noise, whole.scores, 4, batch=2), rtol=1e-4, atol=1e-4)


def test_half_rise_of_known_curves():
    t = np.array([900.0, 600.0, 300.0, 0.0])
    assert half_rise(t, np.array([0.0, 0.25, 0.75, 1.0])) == pytest.approx(450)
    assert half_rise(t, np.array([0.0, 0.25, 0.85, 1.0])) == pytest.approx(600 - 300 * 0.25 / 0.6)
    assert half_rise(t, np.array([0.9, 1.0, 1.0, 1.0])) == 900
    assert np.isnan(half_rise(t, np.array([0.0, 0.1, 0.0, -1.0])))


def test_the_distance_of_counterfactuals():
    absent = np.zeros((3, 8, 8, 3), np.uint8)
    present = absent.copy()
    present[:, 2:4, 2:4] = 255  # 4 pixels of 3 channels, 2 apart each in [-1, 1]
    assert true_change(Pairs(absent, present, present[..., 0] > 0)) == pytest.approx(np.sqrt(4 * 3) * 2)
    present[0] = 255  # one that is far away moves the mean, not the median
    assert true_change(Pairs(absent, present, present[..., 0] > 0)) == pytest.approx(np.sqrt(4 * 3) * 2)


def test_spectral_centroid_of_a_wave_is_its_frequency():
    x = np.arange(32) / 32
    wave = np.tile(np.cos(2 * np.pi * 5 * x), (32, 1))
    assert spectral_centroid(wave) == pytest.approx(5) and spectral_centroid(wave.T) == pytest.approx(5)
    assert spectral_centroid(wave[:16]) == pytest.approx(5) and spectral_centroid(wave[:16].T) == pytest.approx(5)
    assert spectral_centroid(7 + np.cos(2 * np.pi * 3 * x)[:, None] * np.cos(2 * np.pi * 4 * x)) == pytest.approx(
        5
    )  # 3-4-5


def test_estimates_beyond_the_range_of_images_are_scored_as_images(monkeypatch):
    def edit(*_, trace, **__):
        trace(3.0, torch.full((1, 1, 2, 2), 7.0))

    monkeypatch.setattr(emergence, "edit", edit)
    run = SimpleNamespace(model=SimpleNamespace(score=lambda x: x.mean((1, 2, 3))[:, None]))
    traced = trace_scores(run, None, torch.zeros(1, 1), SimpleNamespace(steps=2, guidance=(0.0,)), 0)
    assert traced.scores.tolist() == [[[1.0]]] and traced.estimates.max() == 7 and traced.sigmas.tolist() == [3.0]


def test_patches_of_one_prototype_are_alike_where_they_are():
    vectors = torch.eye(3)[:, None].repeat(1, 4, 1)  # three prototypes, each the same patch in four images
    within, between = alikeness(vectors)
    np.testing.assert_allclose(within, 1, atol=1e-6)
    assert between == pytest.approx(-0.5)  # of three unit vectors about their mean


def test_settings_of_scores():
    scores = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    old = torch.tensor([1.0, 5.0])
    for text, expected in (
        ("1=max", [3, 3]),
        ("1=min", [1, 1]),
        ("1=mean", [2, 2]),
        ("1=0.5", [0.5, 0.5]),
        ("1=+0.5", [1.5, 5.5]),
        ("1=-1", [0, 4]),
    ):
        prototypes, change = parse_setting(text, scores, list)
        assert prototypes == [1] and change(old[:, None])[:, 0].tolist() == expected


def test_a_group_is_set_to_the_scores_of_a_state():
    groups = [Group([2, 0], torch.tensor([[0.1, 0.2], [0.5, 0.6]]))]
    members, change = parse_setting("group:0=state1", torch.rand(4, 3), lambda: groups)
    assert members == [2, 0] and torch.equal(change(torch.zeros(2, 2)), torch.tensor([[0.5, 0.6]] * 2))
    for text, expected in (("group:0=max", "can be set to state0, state1"), ("group:1=state0", "there is no group 1")):
        with pytest.raises(UserError, match=expected):
            parse_setting(text, torch.rand(4, 3), lambda: groups)


@pytest.mark.parametrize("script", FIGURES)
def test_figure_scripts_draw_something(trained, script):
    fewer = ["--prototypes", "0,1"]
    extra = {TRACE: ["--num_samples", 3, "--draws", 60, *fewer], INFORMATION: ["--num_samples", 60, *fewer]}
    extra |= {MANIPULATE: ["--images", "0,1"], "analysis/evaluation/consistency.py": fewer}
    extra = extra.get(script, [])
    steps = [] if script in (OWNERSHIP, INFORMATION) else ["--steps", 3]
    done = trained.run(script, *steps, *(["--frames", 3] if "polate" in script else []), *extra)
    assert "figure" in done.stdout or "curves" in done.stdout
    for name in FIGURES[script]:
        file = trained.records / name
        assert file.stat().st_size > 300, name
        assert file.suffix != ".png" or np.asarray(Image.open(file).convert("L")).std() > 5, name  # not blank


def test_several_attributes_are_set_and_the_worst_counts():
    along = [SimpleNamespace(set=lambda s, amount, k=k: s + amount * torch.eye(2)[k]) for k in (0, 1)]
    for k, told in enumerate(along):
        told.missing = lambda amount, k=k: lambda found: (amount - found[:, k]).clamp(min=0)
    commands = Commands([], [], [(along[0], 1.0, 3), (along[1], 0.5, 4)])
    assert commands.prototypes == [3, 4] and commands.set_prototypes == []
    torch.testing.assert_close(commands.scores(torch.zeros(1, 2), None, None), torch.tensor([[1.0, 0.5]]))
    found = torch.tensor([[0.75, 0.5], [1.0, 0.0], [2.0, 0.5]])
    assert (
        commands.missing(found).tolist() == [0.25, 0.5, 0] and Commands([], [], []).missing(found).tolist() == [0] * 3
    )


def test_an_edit_that_changes_nothing_is_the_reconstruction(trained):
    own_file = trained.images / "001.png"
    chosen = ["--image", own_file, "--images", "000.png,4"]
    trained.run(MANIPULATE, "--steps", 3, "--set", "2=+0", "--others", "keep", *chosen)
    folder = trained.records / "manipulate" / "tiny_v0"
    arrays = np.load(folder / "manipulate.npz")
    assert arrays["names"].tolist() == ["000.png", "012.png", "001.png"] and np.array_equal(
        arrays["edit"], arrays["reconstruction"]
    )
    entry = json.loads((folder / "manipulate.json").read_text())["images"]["001.png"]["prototype_2"]
    assert entry["own"] == entry["set"] and entry["score_in_edit"] == entry["score_in_reconstruction"]
    trained.run(MANIPULATE, "--steps", 3, "--attribute", "Bright=0.5")
    assert json.loads((folder / "manipulate.json").read_text())["attributes"] == ["Bright=0.5"]
    trained.run(MANIPULATE, "--steps", 3, "--sweep", 1, "--frames", 3)
    swept = np.load(folder / "sweep.npz")
    assert swept["images"].shape == (4, 3, 16, 16, 3) and np.all(np.diff(swept["values"]) > 0)


def test_interpolation_ends_at_the_reconstructions(trained):
    trained.run("analysis/evaluation/interpolate.py", "--steps", 3, "--frames", 3, "--images", "1,2")
    arrays = np.load(trained.records / "interpolate" / "tiny_v0" / "interpolate.npz")
    trained.run(MANIPULATE, "--steps", 3, "--set", "0=+0", "--images", "1,2")
    back = np.load(trained.records / "manipulate" / "tiny_v0" / "manipulate.npz")["reconstruction"]
    for kind, column, image in (("both", 0, 0), ("both", 2, 1), ("scores_only", 0, 0), ("noise_only", 0, 0)):
        assert np.abs(arrays[kind][column].astype(int) - back[image]).max() <= 1


def test_scores_of_own_images_are_a_table(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    run = runs.load_run("tiny", 0)
    for folder, images in ((None, load_split(run.config.data, "test")), (tmp_path / "own", None)):
        if folder:
            folder.mkdir()
            Image.open(trained.images / "001.png").convert("L").resize((40, 30)).save(folder / "grey.png")
        trained.run(ENCODE, *(["--folder", folder] if folder else []), "--outdir", tmp_path)
        table = pd.read_csv(tmp_path / "tiny_v0" / "scores.csv", index_col="image")
        arrays = np.load(tmp_path / "tiny_v0" / "scores.npz")
        assert list(table.index) == arrays["ids"].tolist() == (images.ids if images else ["grey.png"])
        columns = [f"s{k}" for k in range(arrays["scores"].shape[1])]
        np.testing.assert_allclose(table[columns], arrays["scores"], rtol=1e-6)
        if images:
            np.testing.assert_allclose(arrays["scores"], encode(run.model, images), atol=1e-5)
            assert list(table.columns[len(columns) :]) == list(images.attributes) and len(images.attributes.columns)
        top, left, bottom, right = arrays["boxes"].transpose(2, 0, 1)
        assert (top < bottom).all() and (left < right).all() and bottom.max() <= 16 and min(top.min(), left.min()) >= 0


def test_results_go_elsewhere_and_images_of_one_name_stay_two(trained, tmp_path):
    own = [trained.images / "001.png", tmp_path / "001.png"]
    own[1].write_bytes((trained.images / "002.png").read_bytes())
    before = sorted(trained.records.rglob("*manipulate*"))
    images = [word for file in own for word in ("--image", file)]
    done = trained.run(MANIPULATE, "--steps", 2, "--set", "1=max", "--outdir", tmp_path / "mine", *images)
    folder = tmp_path / "mine" / "tiny_v0"
    assert str(folder / "manipulate.npz") in done.stdout and (folder / "about.json").is_file()
    assert list(json.loads((folder / "manipulate.json").read_text())["images"]) == ["001.png", str(own[1])]
    assert sorted(trained.records.rglob("*manipulate*")) == before


def test_the_animation_has_a_frame_a_step(trained):
    trained.run(TRACE, "--steps", 4, "--num_samples", 2, "--prototypes", "1,3", "--draws", 60)
    folder = trained.records / "trace_emergence" / "tiny_v0"
    assert Image.open(folder / "emergence.gif").n_frames == 4
    arrays = np.load(folder / "emergence.npz")
    assert arrays["rises"].shape == (2, 4, 2) and np.all(np.diff(arrays["timestep"]) <= 0)
    assert arrays["maps"].shape == (2, 4, 16, 16) and (arrays["maps"] >= 0).all()
    table = EMERGENCE.read(folder)
    assert (table["sigma_last"] <= table["sigma"]).all() and (table["sigma"] <= table["sigma_first"]).all()
    assert table["sigma"].is_monotonic_decreasing and set(table.index) == {1, 3}


def test_bits_add_up_over_pixels_and_noise_levels(trained):
    done = trained.run(INFORMATION, "--num_samples", 60, "--prototypes", "4,1,2")
    arrays = np.load(trained.records / "information_of_some" / "tiny_v0" / "information.npz")
    widths = np.append(np.diff(np.log(arrays["sigma_edges"])), 0.5)
    for name, count in (("alone", 3), ("beyond", 3), ("total", 1)):
        total, where, density = (arrays[f"{name}_{part}"] for part in ("total", "where", "density"))
        assert where.shape == (count, 16, 16) and (total > 0).all()
        np.testing.assert_allclose(where.sum((1, 2)), total, rtol=1e-4)
        np.testing.assert_allclose(density @ widths, total, rtol=1e-6)
    table = BITS.read(trained.records / "information_of_some" / "tiny_v0")
    assert sorted(table.index) == [1, 2, 4] and table["alone"].is_monotonic_decreasing
    assert "all scores together" in done.stdout and "noise levels covered" in done.stdout


def test_information_is_the_same_whatever_is_asked_at_once(trained, monkeypatch):
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    run = runs.load_run("tiny", 0, DEVICE)
    images = load_split(run.config.data, "test")
    scores = encode(run.model, images, device=DEVICE, progress=False)
    together = information.measure_information(run.model, images, scores, [0, 3], 40, 0.5)
    monkeypatch.setattr(information, "images_a_call", lambda device, largest_map: 1)
    one = information.measure_information(run.model, images, scores, [0, 3], 40, 0.5)
    np.testing.assert_allclose(together.alone.bits.total, one.alone.bits.total, rtol=1e-3)
    np.testing.assert_allclose(together.beyond.where, one.beyond.where, rtol=1e-3, atol=1e-6)


def test_information_is_that_of_asking_about_everything(trained, monkeypatch):
    """Asked with certainty, each draw gives what the plain way does; asked now and then, the mean stays."""
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    run = runs.load_run("tiny", 0, DEVICE)
    images = load_split(run.config.data, "test")
    scores, prototypes = encode(run.model, images, device=DEVICE, progress=False), [0, 1, 3, 5]
    naive = plain(run.model, images, scores, prototypes, 100, 0.5, 0)
    monkeypatch.setattr(information, "ALIKE", 1.0)
    every = information.measure_information(run.model, images, scores, prototypes, 100, 0.5)
    for kind, (total, error) in naive.items():
        bits = getattr(every, kind).bits
        np.testing.assert_allclose(bits.total, total, rtol=1e-3)
        np.testing.assert_allclose(bits.error, error, rtol=1e-3)
    monkeypatch.setattr(information, "QUERIES", 2)
    monkeypatch.setattr(information, "ALIKE", 0.2)
    some = information.measure_information(run.model, images, scores, prototypes, 400, 0.5, 1)
    for kind in ("beyond", "alone"):
        total, bits = naive[kind][0], getattr(some, kind).bits
        assert np.abs(bits.total - total).max() < 4 * np.hypot(bits.error, naive[kind][1]).max()
        assert some.alone.where.sum() == pytest.approx(some.alone.bits.total.sum(), rel=1e-4)


def test_queries_are_drawn_in_proportion_to_their_gaps():
    size = np.random.default_rng(0).random((1000, 3)) * [1.0, 10.0, 0.0]
    chance = information.query_probabilities(size, 0.1)
    np.testing.assert_allclose(chance[:, :2].mean(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(chance[:, 2], 0.1 * information.ALIKE)  # nothing is expected, and queried all the same
    slope = np.diff(chance[:2, 0]) / np.diff(size[:2, 0]) * size[:, 0].mean()
    assert slope == pytest.approx(0.1 * (1 - information.ALIKE))
    assert (information.query_probabilities(size, 5.0) <= 1).all()


def test_the_most_probable_score_given_the_others():
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(5000, 3, generator=generator)
    known[:, 1] = 2 * known[:, 0] - known[:, 2] + 1 + 0.01 * torch.randn(5000, generator=generator)
    s = torch.tensor([[1.0, 9.0, 3.0], [0.0, 9.0, 0.0]])
    torch.testing.assert_close(most_probable(s, known)[:, 1], torch.tensor([0.0, 1.0]), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("script", "args", "expected"),
    [
        (MANIPULATE, ["--set", "9=max"], "the run has 0 to 5"),
        (MANIPULATE, ["--set", "2=huge"], "'huge' is none of"),
        (MANIPULATE, ["--set", "2"], "PROTOTYPE=VALUE"),
        (MANIPULATE, ["--set", "group:99=max"], "there is no group 99"),
        (MANIPULATE, ["--set", "group:one=max"], "group:NUMBER=VALUE"),
        (MANIPULATE, ["--guidance", "much"], "must be a number from 0 to 100"),
        (MANIPULATE, ["--sweep", 6], "no prototype 6"),
        (MANIPULATE, ["--attribute", "Hat=1"], "no attribute 'Hat'; there are Bright, Left"),
        (MANIPULATE, ["--attribute", "Left=much"], "NAME=AMOUNT"),
        (MANIPULATE, ["--images", "nobody"], "have no 'nobody'"),
        (MANIPULATE, ["--image", "/nowhere.png"], "/nowhere.png"),
        ("analysis/evaluation/interpolate.py", ["--images", "1,2,3"], "two images, not 3"),
        ("analysis/evaluation/extrapolate.py", ["--range", "zero"], "LOW:HIGH"),
        ("analysis/evaluation/extrapolate.py", ["--range", "3:0"], "LOW:HIGH"),
        (TRACE, ["--steps", 1], "at least 2"),
        ("analysis/evaluation/prototype_quality.py", ["--version_num", 0, 7], "no such trained version"),
        ("analysis/diagnosis/plant_bias.py", ["--where", "Hat == 1"], "no attribute 'Hat'"),
        ("analysis/diagnosis/diagnose.py", [], "at least 5 labelled images of each class"),
    ],
)
def test_bad_input_is_one_line(trained, script, args, expected):
    done = trained.run(script, *args, check=False)
    assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_ownership_names_a_winner_for_every_patch(trained, monkeypatch):
    """The patch that is won by most is the best match of all prototypes, as the scores have it."""
    trained.run(OWNERSHIP, "--images", "0,2")
    arrays = np.load(trained.records / "ownership" / "tiny_v0" / "ownership.npz")
    assert arrays["winner"].shape == (2, 6, 6) and set(arrays["winner"].ravel()) <= set(range(6))
    assert arrays["share"].sum() == pytest.approx(1)
    monkeypatch.setattr(runs, "RUNS_DIR", trained.records / "patronus")
    run = runs.load_run("tiny", 0, DEVICE)
    images = load_split(run.config.data, "test").subset(np.array([0, 2]))
    scores = encode(run.model, images, device=DEVICE, progress=False)
    np.testing.assert_allclose(arrays["margin"].max((1, 2)), scores.max(1).values, rtol=1e-4)
    cells, winners = arrays["margin"].reshape(2, -1).argmax(1), arrays["winner"].reshape(2, -1)
    assert [line[cell] for line, cell in zip(winners, cells)] == scores.argmax(1).tolist()


def test_faithfulness_of_labelled_images(many):
    bench = many
    done = bench.run(FAITHFULNESS, "--steps", 3, "--num_samples", 4)
    assert "random" in done.stdout and "figure:" in done.stdout
    table = pd.read_csv(bench.records / "faithfulness" / "tiny_v0" / "faithfulness.csv", index_col="attribute")
    quarters = 4 * table[["appears", "vanishes", "side"]].to_numpy()  # shares of four images
    assert set(table.index) == {"Bright", "Left"} and np.abs(quarters - quarters.round()).max() < 1e-6
    assert "pair" not in table  # nobody has counterfactuals of these images
    bench.run(FAITHFULNESS, "--steps", 3, "--num_samples", 4, "--untrained")
    untrained = schemas.FAITHFULNESS.read(bench.records / "faithfulness" / "tiny_v0", "untrained")
    assert untrained["single"].tolist() == untrained["untrained_single"].tolist()  # both chosen on training images


def test_faithfulness_without_labels_says_what_needs_none(trained):
    done = trained.run(FAITHFULNESS, "--steps", 3, "--num_samples", 4)  # ten test images: too few of each class
    assert "dead" in done.stdout and "effectiveness" in done.stdout
    done = trained.run(FAITHFULNESS, "--steps", 3, "--figure", check=False)
    assert done.returncode == 2 and "--figure needs an attribute" in done.stderr


def test_faithfulness_of_drawn_faces(bench):
    changes = {"data.source": "faces", "data.image_size": 16, "data.limit": 80}
    bench.config = bench.write_config(changes)
    config = yaml.safe_load(bench.config.read_text())
    del config["data"]["path"], config["data"]["metadata"]
    bench.config.write_text(yaml.safe_dump(config))
    bench.prelude = "from train.data import drawings; drawings.SPLITS = {'train': 80, 'val': 1, 'test': 80}"  # of 9,000
    bench.prelude += "; from analysis.measures import labels; every = labels.usable_attributes"
    bench.prelude += "; labels.usable_attributes = lambda *a, **k: (every(*a, **k)[0][3:6], [])"  # three of ten
    bench.train()
    bench.run(FAITHFULNESS, "--steps", 3, "--num_samples", 4)
    folder = bench.records / "faithfulness" / "tiny_v0"
    numbers = schemas.FAITHFULNESS_MEANS.read(folder, "faithfulness")
    assert "Smiling" in schemas.FAITHFULNESS.read(folder, "faithfulness").index
    measured = {
        "pair",
        "hit",
        "region",
        "appears",
        "side",
        "effectiveness",
        "single",
        "latent",
        "map",
        "map_alone",
        "map_box",
        "map_gradient",
    }
    measured |= {
        "mnac",
        "cd_truth",
        "cd_data",
        "cout",
        "distance",
        "distance_joint",
        "composition",
        "reversibility",
        "deletion",
        "stable",
        "both",
    }
    assert measured <= set(numbers)
    shares = ["hit", "appears", "side", "single", "latent", "map", "map_alone", "map_box", "map_gradient"]
    assert all(0 <= numbers[name] <= 1 for name in shares) and -1 <= numbers["region"] <= 1
    assert np.isfinite([numbers["pair"], numbers["effectiveness"]]).all()
    assert 0 < numbers["hit_chance"] < 1 and {"pair", "hit", "region"} <= set(numbers["null"])
    assert (bench.records / "faithfulness" / "tiny_v0" / "faithfulness.png").stat().st_size > 5000


def test_quality_of_two_versions(bench):
    bench.train()
    bench.train("--set", "train.seed=1")
    done = bench.run("analysis/evaluation/prototype_quality.py", "--version_num", 0, 1)
    assert [line.split()[0] for line in done.stdout.splitlines()[-4:]] == ["0", "1", "mean", "std"]
    for version in (0, 1):
        folder = bench.records / "prototype_quality" / f"tiny_v{version}"
        numbers, table = json.loads((folder / "quality.json").read_text()), pd.read_csv(folder / "quality.csv")
        assert numbers["latent"] == pytest.approx(table["latent"].mean()) and numbers["version"] == version
