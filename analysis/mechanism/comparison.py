"""The distance of training-free denoisers to a network, level by level, and what is said of it."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.mechanism.common import noisy_images
from models.denoiser import Denoiser
from models.information import gap
from models.samplers import SeededNoise, euler

PUBLISHED_ORDER = (  # nearer, farther, noise levels of which it is said (Niedoba et al. 2025; Lukoianov et al. 2025)
    ("pspc_flex", "pspc_sq", 0.0, np.inf),
    ("pspc_sq", "gaussian", 0.3, 3.0),
    ("gaussian", "empirical", 0.0, np.inf),
    ("locality", "pspc_sq", 0.0, np.inf),
)
ROUNDING = 1e-3  # two denoisers that mean the same, as windows of one pixel, differ by less


class Comparison(NamedTuple):
    """rows: one for every kind of images, network, level and denoiser, with each image's mean squared difference to the
    network; told: bits an e-fold of noise by level, None where no network can hide its scores;
    outputs: by level the noisy images and every denoiser's output (n, C, H, W) by name."""

    rows: list[dict]
    told: pd.DataFrame | None
    outputs: dict[int, dict[str, Tensor]]


@torch.no_grad()
def compare(
    networks: dict[str, Denoiser], others: dict[str, Denoiser], x0: Tensor, levels: Tensor, seed: int
) -> Comparison:
    """On noisy versions of x0 (n, C, H, W) and along the last network's own trajectories, at falling levels (L,)."""
    *_, last = networks
    states = [levels[0].float() * SeededNoise(range(seed, seed + len(x0)), x0.shape[1:], x0.device)()]
    for index in range(len(levels) - 1):
        states.append(euler(networks[last], states[-1], levels[index : index + 2]))
    rows, told, outputs = [], [], {}
    for index, level in enumerate(tqdm(levels, desc="levels", unit="level")):
        sigma = level.to(x0).expand(len(x0))
        noisy = noisy_images(x0, levels, index, seed)
        for kind, z, targets in (("noisy", noisy, list(networks)), ("trajectory", states[index], [last])):
            found = {name: denoiser(z, sigma) for name, denoiser in others.items()}
            found |= {name: networks[name](z, sigma) for name in targets}
            for target in targets:
                compared = [name for name in found if name in others or (name != target and target == targets[0])]
                rows += [
                    {
                        "images": kind,
                        "network": target,
                        "sigma": level.item(),
                        "denoiser": name,
                        "differences": (found[name] - found[target]).square().mean((1, 2, 3)).tolist(),
                    }
                    for name in compared
                ]
            if kind == "noisy":
                outputs[index] = {"noisy": z} | found
                if len(networks) > 1:
                    told.append({"sigma": level.item()} | bits_told(found, *networks, x0, sigma))
    return Comparison(rows, pd.DataFrame(told).set_index("sigma") if told else None, outputs)


def bits_told(outputs: dict[str, Tensor], knowing: str, nothing: str, x0: Tensor, sigma: Tensor) -> dict[str, float]:
    """Bits an e-fold of noise of one level, the mean over images; outputs by name, like x0 (n, C, H, W); sigma (n,)."""

    def bits(values: Tensor) -> float:
        return values.flatten(1).sum(1).mean().item()

    patches = [name for name in outputs if name.startswith("pspc") or name == "locality"]
    best = min(patches, key=lambda name: (outputs[name] - x0).square().mean().item())
    s = gap(outputs[nothing], outputs[knowing], x0, sigma)
    return {
        "s": bits(s.squared),
        "s_check": bits(s.errors),
        "patches": bits(gap(outputs["gaussian"], outputs[best], x0, sigma).errors),
        "left": bits(gap(outputs[knowing], x0, x0, sigma).squared),
    }


def standard_error(values) -> float:
    """Of the mean of values (n,); NaN for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def table_of(rows: list[dict]) -> pd.DataFrame:
    """Mean and standard error over images of every row."""
    keys = ("images", "network", "sigma", "denoiser")
    return pd.DataFrame(
        [
            {key: row[key] for key in keys}
            | {"difference": float(np.mean(row["differences"])), "standard_error": standard_error(row["differences"])}
            for row in rows
        ]
    )


def published_order(rows: list[dict]) -> pd.DataFrame:
    """Where the published order holds: for each pair, network and kind of images, at how many levels the first is
    nearer to the network than the second, farther, or neither by two standard errors of the paired difference and a
    thousandth of the farther's; `holds` and `reversed` list the levels."""
    by_level: dict = {}
    for row in rows:
        by_level.setdefault((row["images"], row["network"]), {}).setdefault(row["sigma"], {})[row["denoiser"]] = row[
            "differences"
        ]
    lines = []
    for (images, network), levels in by_level.items():
        for nearer, farther, low, high in PUBLISHED_ORDER:
            verdicts: dict[str, list[float]] = {"holds": [], "reversed": [], "undecided": []}
            for sigma, found in levels.items():
                if nearer in found and farther in found and low <= sigma <= high:
                    verdicts[_verdict(found[nearer], found[farther])].append(sigma)
            if any(verdicts.values()):
                lines.append({"images": images, "network": network, "nearer": nearer, "farther": farther} | verdicts)
    return pd.DataFrame(lines)


def _verdict(nearer: list[float], farther: list[float]) -> str:
    gains = np.subtract(farther, nearer)
    mean, bound = gains.mean(), 2 * standard_error(gains)
    if np.isnan(bound) or abs(mean) <= max(bound, ROUNDING * np.mean(farther)):
        return "undecided"
    return "holds" if mean > 0 else "reversed"


def conclusion(table: pd.DataFrame) -> str:
    """At which levels patches explain the network: by a twentieth closer than the Gaussian and the empirical
    denoiser."""
    network = table["network"].iloc[-1]
    chosen = table[(table["images"] == "noisy") & (table["network"] == network)]
    wide = chosen.pivot(index="sigma", columns="denoiser", values="difference").sort_index(ascending=False)
    names = [column for column in wide if column.startswith("pspc") or column == "locality"]
    patches = wide[names].min(axis=1)
    ahead = wide.index[patches < 0.95 * wide[["gaussian", "empirical"]].min(axis=1)]
    title = f"the {network} network"
    if not len(ahead):
        return f"patches explain {title} at no noise level better than the Gaussian and the empirical denoiser do"
    levels = ", ".join(f"{sigma:.3g}" for sigma in ahead)
    ratio = (wide["gaussian"] / patches)[ahead].median()
    return (
        f"patches explain {title} best at {len(ahead)} of {len(wide)} levels (sigma {levels}),"
        f" there {ratio:.1f} times closer than the Gaussian"
    )
