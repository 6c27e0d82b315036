"""Disentanglement, completeness and informativeness (Eastwood and Williams 2018) of scores, as the package disent
computes them."""

import warnings

import numpy as np

from train.errors import UserError

FIT, HELD = 1000, 500  # images, as in the package's own quick setting


def dci(scores: np.ndarray, attributes: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Of scores (N, m) and binary attributes (N, A): gradient-boosted trees an attribute, whose importances say which
    score tells it.

    Raises UserError where the package is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would rather have numba, for what is not used here
            from disent.metrics._dci import _compute_dci
    except ImportError:
        raise UserError("DCI needs the package disent; pip install -e .[peers]") from None
    order = np.random.default_rng(seed).permutation(len(scores))
    held = min(HELD, len(order) // 3)
    parts = order[held : held + FIT], order[:held]
    inputs = [values[rows].T for rows in parts for values in (scores, attributes)]
    values = _compute_dci(*inputs)
    return {name: float(values[f"dci.{name}"]) for name in ("disentanglement", "completeness")}
