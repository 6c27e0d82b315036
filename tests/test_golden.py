"""A training that stops to learn, or learns something else, fails here."""

import json

import golden_run
import pytest


def test_a_tiny_training_comes_to_what_it_came_to(tmp_path):
    """Where a change is meant, rewrite the file with python tests/golden_run.py.

    In float32, AVX2 and AVX-512 (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA) differ by 4e-5 of a loss, nothing in AUROC,
    6e-4 of the distance and 6e-5 in the edit; the tolerances are a hundred times that and more.
    """
    kept, found = json.loads(golden_run.FILE.read_text()), golden_run.measure(tmp_path)
    assert found["losses"] == pytest.approx(kept["losses"], rel=0.02)
    assert found["auroc"] == pytest.approx(kept["auroc"], abs=0.02)
    assert found["frechet"] == pytest.approx(kept["frechet"], rel=0.1)
    assert found["edit"] == pytest.approx(kept["edit"], abs=0.03)
