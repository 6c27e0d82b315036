"""The table of peers: who differs from whom in what, what is kept when it is interrupted, how it is printed."""

import math

import numpy as np
import pytest
from conftest import REPO
from test_configs import leaves

from analysis.evaluation import peers
from analysis.evaluation.peers import BEST, MODELS, Entry, as_text, settings_of, table_of
from train.config import load_config, read_settings, validate
from train.errors import UserError

CONFIG = REPO / "configs" / "fmnist.yaml"


def resolved(model: str, seed: int = 3) -> dict:
    return leaves(validate(settings_of(model, load_config(CONFIG), seed), "test").plain())


def differing(a: str, b: str) -> set[str]:
    first, second = resolved(a), resolved(b)
    return {key for key in first if first[key] != second[key]}


def test_only_the_encoder_and_its_loss_differ():
    layers = {f"model.encoder.{name}" for name in ("kind", "channels", "kernels", "strides", "paddings")}
    assert (
        differing("diffae", "infodiffusion") == {"name", "train.mmd"} and resolved("infodiffusion")["train.mmd"] == 0.1
    )
    assert differing("ours", "diffae") <= {"name", "train.spread", "train.score_noise"} | layers
    own = leaves(load_config(CONFIG).plain())
    ours = resolved("ours")
    assert {key for key in own if own[key] != ours[key]} == {"name", "train.seed"}
    assert ours["train.seed"] == 3 and ours["name"] == "fmnist_ours"


def test_the_published_model_is_the_published_one_within_the_same_budget():
    paper, base = resolved("paper"), leaves(read_settings(REPO / "configs" / "base" / "paper.yaml"))
    assert {key for key in base if paper[key] != base[key]} == {"train.epochs"}
    assert paper["train.minutes"] == resolved("ours")["train.minutes"] == 15 and paper["train.epochs"] is None
    assert paper["data.source"] == "fmnist" and paper["train.seed"] == 3


@pytest.fixture
def entry(tmp_path):
    return lambda settings={"name": "x_ours"}: Entry(tmp_path, "ours", 0, settings, "cpu")


def test_a_stage_that_is_through_is_not_taken_again(entry, capsys):
    taken = []

    def measure():
        taken.append(1)
        return {"all": 0.5}

    def fails():
        raise UserError("no such package")

    first = entry()
    first.stage("dci", fails)
    first.stage("quality", measure)
    again = entry()
    again.stage("quality", measure)
    assert len(taken) == 1 and again.numbers == {"all": 0.5}
    assert "dci is left out: no such package" in capsys.readouterr().out
    again.stage("dci", lambda: {"completeness": 1.0})  # what could not be taken is tried again
    assert entry().numbers == {"all": 0.5, "completeness": 1.0}
    with pytest.raises(UserError, match="begun with other settings"):
        entry({"name": "x_ours", "data": 1})


def test_a_training_that_was_interrupted_is_resumed(entry, monkeypatch):
    called = []

    def call(path, *options, on_line=None):
        called.append(options)
        on_line("run: /somewhere/version_4\n")
        if len(called) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(peers, "call", call)
    monkeypatch.setattr("train.runs.load_checkpoint", lambda folder: {"step": 7, "folder": folder})
    with pytest.raises(KeyboardInterrupt):
        entry().stage("training", lambda: peers.train(entry()))
    again = entry()
    again.stage("training", lambda: peers.train(again))
    assert again.numbers == {"steps": 7} and again.run == ("x_ours", 4)
    assert "--resume" not in called[0] and called[1][called[1].index("--resume") + 1] == 4


def test_a_script_that_fails_is_an_error_and_one_that_is_stopped_stops_all(tmp_path, monkeypatch):
    monkeypatch.setattr("global_config.REPO_DIR", tmp_path)
    for code in (0, 2, 130, 143):
        (tmp_path / f"{code}.py").write_text(f"import sys; print('line'); sys.exit({code})")
    lines = []
    peers.call("0.py", on_line=lines.append)
    assert lines == ["line\n"]
    with pytest.raises(UserError, match="2.py failed with status 2"):
        peers.call("2.py")
    for stopped in ("130.py", "143.py"):
        with pytest.raises(KeyboardInterrupt):
            peers.call(stopped)


def test_a_training_that_fails_is_left_out_of_the_table(tmp_path, monkeypatch, capsys):
    def train(entry):
        if entry.model == "ours":
            raise UserError("no such data")
        entry.state["version"] = 0
        return {"steps": 7}

    monkeypatch.setattr("global_config.RECORDS_DIR", tmp_path)
    monkeypatch.setattr(peers, "train", train)
    monkeypatch.setattr(peers, "judge", lambda entry, args: entry.stage("quality", lambda: {"all": 0.5}))
    command = ["peers.py", "--config", str(CONFIG), "--seeds", "0", "--models", "ours", "untrained"]
    monkeypatch.setattr("sys.argv", [*command, "diffae"])
    peers.main()
    said = capsys.readouterr().out
    assert "ours_0: training is left out: no such data" in said and "untrained_0: is left out" in said
    assert (tmp_path / "peers" / "fmnist" / "mean.csv").read_text().splitlines() == [
        "model,steps,all",
        "diffae,7.0,0.5",
    ]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(UserError, match="no training came to its end"):
        peers.main()


def test_the_table_has_means_deviations_and_winners(tmp_path):
    entries = []
    for model, values in (("ours", (0.8, 0.9)), ("diffae", (0.9, 1.0)), ("untrained", (1.0, 1.0))):
        for seed, value in enumerate(values):
            item = Entry(tmp_path, model, seed, {"name": model}, "cpu")
            item.state["stages"] = {"quality": {"all": value}} | (
                {} if model == "untrained" else {"fd": {"fd": 10 * value}}
            )
            entries.append(item)
    means, deviations = table_of(entries)
    assert means.loc["ours", "all"] == pytest.approx(0.85) and deviations.loc["ours", "fd"] == pytest.approx(
        math.sqrt(0.5)
    )
    assert math.isnan(means.loc["untrained", "fd"])
    text = as_text(means, deviations).splitlines()
    rows = {line.split()[0]: line for line in text[1:]}
    assert rows["all"].count("*") == 1 and "0.95 +- 0.071 *" in rows["all"]  # the untrained one does not compete
    assert rows["fd"].count("*") == 1 and "8.5 +- 0.71 *" in rows["fd"]  # of a distance the smallest


def test_every_measure_of_the_table_has_a_direction():
    assert set(BEST.values()) == {min, max} and len(MODELS) == 5


def test_dci_of_scores_that_are_the_attributes():
    pytest.importorskip("disent")
    from analysis.measures.dci import dci

    rng = np.random.default_rng(0)
    attributes = rng.integers(0, 2, (600, 3))
    scores = attributes + rng.normal(0, 0.05, (600, 3))
    assert all(value > 0.95 for value in dci(scores, attributes).values())
    mixed = scores @ np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])  # every score speaks of two attributes
    assert max(dci(mixed, attributes).values()) < 0.6


def test_dci_learns_on_two_thirds_and_is_judged_on_the_others(monkeypatch):
    measured = pytest.importorskip("disent.metrics._dci")
    from analysis.measures.dci import dci

    def judged(x_train, y_train, x_test, y_test):
        assert [x.shape for x in (x_train, y_train, x_test, y_test)] == [(2, 60), (1, 60), (2, 30), (1, 30)]
        assert not set(x_train[0]) & set(x_test[0])
        return {"dci.disentanglement": 0.5, "dci.completeness": 0.25}

    monkeypatch.setattr(measured, "_compute_dci", judged)
    found = dci(np.arange(180.0).reshape(90, 2), np.zeros((90, 1)))
    assert found == {"disentanglement": 0.5, "completeness": 0.25}
