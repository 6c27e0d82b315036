"""What a report says of shortcuts and ties, from tables of known content."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.reporting.shortcuts import describe_shortcuts, describe_ties


@pytest.fixture
def folder(tmp_path):
    table = pd.DataFrame(
        {
            "raised": ["Black_Hair", "Smiling", "Beard"],
            "moved": ["Smiling", "Black_Hair", "Smiling"],
            "edit": [-0.42, 0.05, 0.31],
            "generated": [-0.74, 0.01, 0.28],
            "p": [1e-9, 0.6, 0.01],
            "shortcut": [True, False, True],
        }
    )
    table.to_csv(tmp_path / "effects_classifier.csv")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "effects.png")
    return tmp_path


def change(folder, **columns):
    file = folder / "effects_classifier.csv"
    pd.read_csv(file, index_col=0).assign(**columns).to_csv(file)


def test_what_was_asked_and_found(folder):
    described = describe_shortcuts(folder)
    assert described["asked"].startswith("3 questions were asked, one of each ordered pair of 3 attributes")
    assert described["suspects"] == [
        "Raising Black Hair takes away Smiling: by 42 % of the way between having it and not when images are edited, "
        "by 74 % when they are generated (corrected p 1.0e-09).",
        "Raising Beard adds Smiling: by 31 % of the way between having it and not when images are edited, by 28 % "
        "when they are generated (corrected p 1.0e-02).",
    ]
    assert described["others"] == "None was found in the others (1)." and described["edits"] == []
    assert "reaches 10 %" in described["power"] and "eight of ten" not in described["power"]


def test_what_could_have_been_found_and_what_cannot_be_described(folder):
    change(folder, detectable=[0.25, 0.6, 0.3], verdict=["found", "cannot tell", "found"])
    described = describe_shortcuts(folder)
    assert "an effect of 30 % would be found in eight of ten cases" in described["power"]
    assert "Smiling on Black Hair, would need 60 %" in described["power"]
    assert described["others"].startswith("In 0 of 3 pairs") and "Of 1 nothing can be said" in described["others"]


def test_nothing_found_shows_no_edits_of_an_earlier_diagnosis(folder):
    pictures = np.zeros((1, 3, 3, 4, 4, 1), np.uint8)
    np.savez(folder / "edits.npz", raised=["Black_Hair"], pictures=pictures)
    edits = describe_shortcuts(folder)["edits"]
    assert [edit["name"] for edit in edits] == ["Black Hair"] and len(edits[0]["pictures"]) == 3
    change(folder, shortcut=[False] * 3)
    described = describe_shortcuts(folder)
    assert (
        described["suspects"] == described["edits"] == [] and described["others"] == "None was found in any pair (3)."
    )


def test_ties_in_words(tmp_path):
    tie = {"a": 3, "b": 95, "generated": -0.55, "data": -0.76}
    tie |= {"high_high": 46, "high_low": 900, "low_high": 800, "low_low": 120}
    (tmp_path / "ties.json").write_text(json.dumps({"pairs": 30, "sure": 4, "ties": [tie]}))
    described = describe_ties(tmp_path)
    assert described["ties"] == [
        "Prototype 3 and its unit take away prototype 95 and its unit: by 55 % of their range in generated images, "
        "76 % in the training images, of which 46 have 3 high with 95 high."
    ]
    assert described["asked"].startswith("30 pairs of units of prototypes; of 1 that the images do not force, 4 are")
    (tmp_path / "ties.json").write_text("{")
    assert describe_ties(tmp_path) is None
