"""Which attributes can be judged by."""

import numpy as np
import pandas as pd

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
