"""The dose-response of planted shortcuts: its statistics on known answers, and its command on trials half done."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.evaluation.peers import Entry
from analysis.measures import dose
from analysis.measures.dose import Tie
from train.errors import UserError

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
import shortcuts
from shortcuts import Trial

TIE = Tie("Hair", "Smile", -1, ("Hair", "Hat"), ("Smile",))


def effect(raised: str, moved: str, edit: float, generated: float, shortcut: bool = False) -> dict:
    """A row of a diagnosis whose intervals are .1 (edits) and .2 (generation) wide on each side."""
    row = {"raised": raised, "moved": moved, "edit": edit, "generated": generated, "shortcut": shortcut}
    row |= {"edit_low": edit - 0.1, "edit_high": edit + 0.1, "p": 0.5, "detectable": 0.3}
    row |= {"verdict": "found" if shortcut else "cannot tell" if abs(edit) > 0.2 else "not found"}
    return row | {"generated_low": generated - 0.2, "generated_high": generated + 0.2}


def diagnosis(planted: float, free: float, found: bool = False) -> pd.DataFrame:
    """One planted pair, one that the rule touches, two free ones, each in both directions."""
    rows = [effect("Hair", "Smile", planted, planted - 0.05, found), effect("Smile", "Hair", 0.01, 0.01)]
    rows += [effect("Hat", "Smile", 0.3, 0.4, True), effect("Smile", "Hat", 0.0, 0.0)]
    for one, sign in (("Beard", 1), ("Eyes", -1)):
        rows += [effect("Hair", one, sign * free, sign * free), effect(one, "Hair", 0.0, 0.0)]
    return pd.DataFrame(rows)


def test_the_effect_is_the_smaller_of_two_that_agree():
    table = pd.DataFrame([effect("a", "b", 0.4, 0.3), effect("a", "b", -0.2, -0.3), effect("a", "b", 0.5, -0.3)])
    least = dose.least_effect(table)
    np.testing.assert_allclose(least["effect"], [0.3, -0.2, 0])
    np.testing.assert_allclose(least["low"][:2], [0.1, -0.3])
    np.testing.assert_allclose(least["high"][:2], [0.5, -0.1])
    np.testing.assert_allclose(dose.unbiased_effects([table, table]), [0.3, 0.2, 0] * 2)


def test_pairs_are_planted_tied_or_free():
    pairs = dose.pairs_of(diagnosis(-0.4, 0.1, found=True), [TIE], 0.9).set_index(["a", "b"])
    assert dict(pairs["kind"]) == {
        ("Hair", "Smile"): "planted",
        ("Hat", "Smile"): "tied",
        ("Beard", "Hair"): "free",
        ("Eyes", "Hair"): "free",
    }
    planted = pairs.loc["Hair", "Smile"]
    assert planted["effect"] == pytest.approx(0.4) and planted["found"] and planted["tie"] == "Hair - Smile"
    assert (planted["low"], planted["high"]) == (pytest.approx(0.3), pytest.approx(0.5))  # turned with the effect
    assert pairs.loc["Eyes", "Hair"]["effect"] == pytest.approx(0.1)  # its size
    assert (pairs["ordered"] == 2).all() and pairs["alarms"].tolist() == [1, 1, 0, 0]
    assert pairs["verdict"].tolist() == ["found", "found", "not found", "not found"]
    unsure = dose.pairs_of(diagnosis(-0.4, 0.1), [TIE], 0.9).set_index(["a", "b"])["verdict"]
    assert unsure["Hair", "Smile"] == "cannot tell"  # in one direction, though not found in the other
    contrary = dose.pairs_of(diagnosis(0.4, 0.1, found=True), [TIE], 0.9).set_index(["a", "b"]).loc["Hair", "Smile"]
    assert (
        not contrary["found"] and contrary["verdict"] == "not found" and contrary["effect"] < 0
    )  # it adds what the rule takes away
    unbiased = dose.pairs_of(diagnosis(-0.1, 0.1), [TIE], 0.5)
    assert set(unbiased["kind"]) == {"free"} and unbiased["tie"].tolist()[0] == "Hair - Smile"


def test_rates_have_exact_limits():
    assert dose.share(0, 10) == (0, 0, pytest.approx(1 - 0.025**0.1))
    assert dose.share(10, 10) == (1, pytest.approx(0.025**0.1), 1)
    assert dose.share(3, 10) == (0.3, pytest.approx(0.0667, abs=1e-4), pytest.approx(0.6525, abs=1e-4))
    assert np.isnan(dose.share(0, 0)).all()


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([0, 0, 1], 0.875), ([0, 1, 1], 0.625), ([0, 0.2, 0.4], np.nan), ([0.6, 0.6, 1], 0.5), ([0, 1, 0], 0.75)],
)
def test_strength_found_in_half_of_the_runs(rates, expected):
    found = dose.half_found(np.array([0.75, 0.5, 1.0]), np.array(rates)[[1, 0, 2]], np.ones(3))
    np.testing.assert_allclose(found, expected)


def test_intervals_pool_the_deviation_between_runs():
    table, freedom = dose.pooled_interval(pd.Series([0.0, 2, 10, 12]), pd.Series([0.5, 0.5, 1, 1]))
    assert freedom == 2 and table["mean"].tolist() == [1, 11]
    np.testing.assert_allclose(table["half"], 4.3027, atol=1e-4)  # t(.975, 2) sqrt(2) / sqrt(2)
    assert dose.pooled_interval(pd.Series([0.0, 2]), pd.Series([0.5, 1]))[0]["half"].isna().all()


def trials(effects: dict[float, list[float]]) -> pd.DataFrame:
    """Planted effects by strength, of seeds 0, 1, ...; above .2 they are found."""
    tables = [
        dose.pairs_of(diagnosis(-value, 0.15, found=value > 0.2), [TIE], strength).assign(
            world="w", strength=strength, seed=seed
        )
        for strength, values in effects.items()
        for seed, value in enumerate(values)
    ]
    return pd.concat(tables, ignore_index=True)


def test_curves():
    table = dose.curves(trials({0.5: [0.0, 0.02], 0.75: [0.1, 0.3], 1.0: [0.5, 0.7]}))
    assert table["strength"].tolist() == [0.5, 0.75, 1.0] and (table["runs"] == 2).all()
    np.testing.assert_allclose(table["effect"], [0.01, 0.2, 0.6])
    np.testing.assert_allclose(table["high"] - table["low"], 2 * 3.1824 * np.sqrt(0.0402 / 3) / np.sqrt(2), rtol=1e-3)
    assert table["found"].tolist() == [0, 0.5, 1] and (table["interval"] == "runs").all()
    assert table["auroc"].tolist() == [0, pytest.approx(0.45), 1]  # of the free ones eight have .15, two (at .5) .3
    # free: two pairs in two directions a run, at .5 the tied pair too, whose shortcut is a false alarm there
    assert table["pairs"].tolist() == [12, 20, 20] and table["alarms"].tolist() == [2, 2, 2]
    single = dose.curves(trials({0.9: [0.4]}))
    assert single["interval"].tolist() == ["images"] and single["low"][0] == pytest.approx(0.3)


def test_what_all_strengths_say_together():
    pairs = trials({0.5: [0.0, 0.02], 0.6: [0.9, 0.9], 0.75: [0.1, 0.3], 1.0: [0.5, 0.7]})
    row = dose.overall(pairs, dose.curves(pairs[pairs["strength"] != 0.6])).iloc[0]
    assert row["half_found"] == 0.75  # of the curves given
    assert row["auroc"] == pytest.approx((0 + 13 / 14 + 1 + 1) / 4)  # .3 is as much as two of the 14 free ones
    assert row["pairs"] == 12 + 3 * 8 and row["alarms"] == 2


def test_what_other_bars_would_name():
    table = pd.DataFrame([effect("a", "b", 0.15, 0.4), effect("a", "c", -0.1, -0.1), effect("b", "c", 0.5, -0.5)])
    table["p"] = 0.01
    assert [dose.named_at(table, bar).sum() for bar in (0.05, 0.12, 0.2)] == [2, 1, 0]
    assert dose.named_at(table, 0.0).sum() == 2  # the third pair's effects contradict each other
    assert not dose.named_at(table.assign(p=0.06), 0.05).any()


def test_rank_of_what_is_planted():
    told = [("Hat", ""), ("Beard", "Smile"), ("Smile", "Hat")]
    assert dose.rank_of(told, TIE) == 3
    assert dose.rank_of(told[:2], TIE) is None


RANKED = {"ranks": {"Hair - Smile": None}, "strengths": [], "best": {"Hair": 0.9, "Smile": None}, "seconds": 30}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three trials of one world: two with a diagnosis, one of them with ties, one only trained."""
    monkeypatch.setattr(shortcuts, "RECORDS_DIR", tmp_path)
    monkeypatch.setitem(shortcuts.WORLDS, "hair_smile", shortcuts.World("faces", (TIE,), 100))
    folder = tmp_path / "shortcuts" / "700_700_400"
    for trial, stages in (
        (Trial("hair_smile", 0.5, 0), {"diagnosis": diagnosis(-0.1, 0.15)}),
        (Trial("hair_smile", 0.9, 0), {"diagnosis": diagnosis(-0.4, 0.1, True), "ties": {"Hair - Smile": 2}}),
        (Trial("hair_smile", 0.625, 1), {}),
    ):
        entry = Entry(folder, trial.kind, trial.seed, {"name": trial.name}, "cpu")
        entry.stage("training", lambda: {"steps": 9, "seconds": 60})
        if "diagnosis" in stages:
            rows = stages["diagnosis"].to_dict("records")
            entry.stage("diagnosis", lambda rows=rows: {"rows": rows, "seconds": 120})
        if "ties" in stages:
            entry.stage("ties", lambda ranks=stages["ties"]: RANKED | {"ranks": ranks, "strengths": [0.4, 0.3, 0.1]})
    return folder


def test_whatever_is_done_is_summed_up(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shortcuts.py", "--summary"])
    shortcuts.main()
    said = capsys.readouterr().out
    assert "found in half of the runs at strength 0.70" in said and "of 8 effects of ordered pairs" in said
    kept = json.loads((folder / "curves.json").read_text())
    assert [row["strength"] for row in kept["curves"]] == [0.5, 0.9] and len(kept["ranks"]) == 1
    assert kept["ranks"][0].items() >= {"rank": 2, "of": 3, "auroc_a": 0.9}.items()
    assert kept["ranks"][0].items() >= {"tie_strength": 0.3, "strongest": 0.4, "auroc_b": None}.items()
    assert max(kept["unbiased"]) == 0.3  # of what the rule touches, where nothing is planted
    assert "bar  found  planted  alarms  pairs" in said
    assert "| hair_smile: Hair - Smile | 0.9 | 0 | .400 (.30 to .50) | found | .100 | 2 of 3 (.30; .40) |" in said
    assert "| hair_smile: Hair - Smile | 0.5 | 0 | .100 (.00 to .20) | not found | .300 |  |" in said
    assert len(pd.read_csv(folder / "pairs.csv")) == 8 and (folder / "curves.png").is_file()


def test_trials_are_told_apart_and_their_time_is_reckoned(folder):
    states = shortcuts.read_states(folder)
    assert set(states) == {Trial("hair_smile", p, s) for p, s in ((0.5, 0), (0.9, 0), (0.625, 1))}
    done = {trial: state for trial, state in states.items() if "ties" in state["stages"]}
    assert shortcuts.remaining(done, 20) == "20 left, about 1 h 10 min" and shortcuts.remaining({}, 2) == "2 left"


def test_what_is_done_is_skipped_and_a_failed_training_stops_its_trial(folder, monkeypatch):
    begun = []
    monkeypatch.setattr(shortcuts, "settings_of", lambda trial, steps: {"name": trial.name})
    monkeypatch.setattr(shortcuts, "reference_of", lambda trial, folder: Path("r.yaml"))
    monkeypatch.setattr(shortcuts, "diagnosed", lambda entry, trial, reference: begun.append(trial) or {"rows": []})

    def too_few(entry, trial):
        raise UserError("has 3 training images")

    monkeypatch.setattr(shortcuts, "trained", too_few)
    monkeypatch.setattr(shortcuts, "ranked", lambda *args: RANKED)
    argv = ["shortcuts.py", "--worlds", "hair_smile", "--strengths", "0.5", "0.9", "1", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", argv)
    shortcuts.main()
    assert not begun  # .5 lacks its ties alone, .9 is through, 1 is not trained
    assert set(shortcuts.read_states(folder)[Trial("hair_smile", 0.5, 0)]["stages"]) == {
        "training",
        "diagnosis",
        "ties",
    }


def test_trials_differ_in_strength_and_seed_alone(monkeypatch):
    monkeypatch.setattr(shortcuts, "call", None)
    one, two = (shortcuts.settings_of(Trial("hair_smile", p, s), [70, 60, 5]) for p, s in ((0.6, 0), (0.9, 2)))
    assert one["train"]["steps"] == 135 and one["data"]["limit"] == two["data"]["limit"] == 2200
    assert list(two["data"]["rules"].values()) == [0.9] and two["train"]["seed"] == 2
    for settings in (one, two):
        settings["data"]["rules"], settings["name"], settings["train"]["seed"] = {}, "", 0
    assert one == two


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--strengths", "0.4"], "must be from 0.5"),
        (["--steps", "0", "1", "1"], "at least 1"),
        (["--unbiased", "faces_v9", "--summary"], "no diagnosis"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.setattr(shortcuts, "RECORDS_DIR", tmp_path)
    monkeypatch.setattr(sys, "argv", ["shortcuts.py", *options])
    with pytest.raises((SystemExit, UserError)) as error:
        shortcuts.main()
    assert expected in str(error.value) + capsys.readouterr().err
