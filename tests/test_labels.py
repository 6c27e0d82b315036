"""Which attributes can be judged by."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from analysis.measures import labels
from analysis.measures.labels import usable_attributes

TABLE = pd.DataFrame(
    {"balanced": [0, 1, 0, 1, 1.0], "rare": [0, 0, 0, 0, 1.0], "unknown": [0, 0, 1, 1, np.nan], "constant": [1.0] * 5}
)


def test_an_attribute_needs_both_classes_known_for_every_image():
    assert usable_attributes([TABLE], 2) == (["balanced"], ["rare", "unknown", "constant"])
    assert usable_attributes([TABLE], 1) == (["balanced", "rare"], ["unknown", "constant"])
    assert usable_attributes([TABLE], 2, unknown=True) == (["balanced", "unknown"], ["rare", "constant"])


def test_every_table_needs_enough_of_each_class():
    assert usable_attributes([TABLE, TABLE[:2]], 1) == (["balanced"], ["rare", "unknown", "constant"])
    assert usable_attributes([TABLE, TABLE[:1]], 1) == ([], list(TABLE))


def test_an_attribute_of_one_class_in_training_cannot_be_learnt(monkeypatch):
    tables = {
        "test": pd.DataFrame({name: [0.0, 1.0] * 10 for name in ("both", "one", "unknown")}),
        "train": pd.DataFrame({"both": [0, 1, np.nan], "one": [1.0] * 3, "unknown": [np.nan] * 3}),
    }
    monkeypatch.setattr(labels, "labelled_data", lambda run: None)
    monkeypatch.setattr(labels, "load_split", lambda data, split: SimpleNamespace(attributes=tables[split]))
    assert labels.labelled_splits(None)[2] == ["both"]
