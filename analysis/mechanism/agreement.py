"""How alike the samples of two denoisers from the same noise are."""

import numpy as np
import pandas as pd

from analysis.measures.features import efficientnet_features, load_efficientnet
from analysis.mechanism.comparison import standard_error
from train.errors import UserError

CHANCE = "network, other noise"


def features_of(pixels: dict[str, np.ndarray], device) -> dict[str, np.ndarray] | None:
    """uint8 (n, H, W, C) by name -> EfficientNet-lite0 features (n, 1280) by name; None where its packages are not
    installed."""
    try:
        network, _ = load_efficientnet(device)
    except UserError:
        return None
    return {name: efficientnet_features(network, images, device) for name, images in pixels.items()}


def similarities(vectors: dict[str, np.ndarray], centre: bool) -> dict[str, list[float]]:
    """Of each denoiser's samples to the network's of the same noise, and of the network's samples to one another
    (CHANCE).

    vectors (n, d) by name, "network" among them. centre: cosine of the vectors less their mean over all samples, of
    features; else the correlation over a vector's own values, of pixels. Vectors without variation have similarity 0.
    """
    if centre:
        mean = np.concatenate(list(vectors.values())).mean(0)
        unit = {name: _unit(values - mean) for name, values in vectors.items()}
    else:
        unit = {name: _unit(values - values.mean(1, keepdims=True)) for name, values in vectors.items()}
    network = unit["network"]
    found = {name: (network * values).sum(1).tolist() for name, values in unit.items() if name != "network"}
    others = network @ network.T
    return found | {CHANCE: [float(np.delete(row, i).mean()) for i, row in enumerate(others)]}


def _unit(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def table_of(found: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """Mean and standard error over images by denoiser (rows) and kind of similarity (columns)."""
    columns = {}
    for kind, values in found.items():
        columns[kind] = {name: float(np.mean(each)) for name, each in values.items()}
        columns[f"{kind}_error"] = {name: standard_error(each) for name, each in values.items()}
    return pd.DataFrame(columns).rename_axis("denoiser")
