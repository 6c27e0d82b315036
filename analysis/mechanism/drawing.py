"""The pictures of the comparison with training-free denoisers."""

from pathlib import Path

import pandas as pd

from analysis.drawing.figures import plt, save_figure

TOLD = {
    "s": "s tells",
    "s_check": "s tells, by squared errors",
    "patches": "patches tell beyond the Gaussian",
    "left": "left by the network",
}
TITLES = {"noisy": "held-out noisy images", "trajectory": "the network's reverse trajectories"}


def draw_comparison(table: pd.DataFrame, sizes: list[int], told: pd.DataFrame | None, path: Path) -> list[Path]:
    """Two panels a row: the differences to each network with standard errors, the square windows beside them; what is
    told at each level, where known."""
    parts = list(table.groupby(["images", "network"], sort=False))
    count = len(parts) + (told is not None)
    across, down = min(count, 2), (count + 1) // 2
    figure, axes = plt.subplots(down, across, figsize=(4.8 * across, 3.4 * down), layout="constrained", squeeze=False)
    axes = axes.ravel()
    for axis in axes[count:]:
        axis.set_visible(False)
    for axis, ((images, network), part) in zip(axes, parts):
        for name, rows in part.groupby("denoiser", sort=False):
            axis.errorbar(
                rows["sigma"], rows["difference"], rows["standard_error"].fillna(0), fmt=".-", lw=1.2, label=name
            )
        axis.set_title(f"{network} network, {TITLES[images]}", fontsize=9)
        axis.sharey(axes[0])
        _levels(axis)
        windows = axis.twinx()
        windows.step(part["sigma"].unique(), sizes, color="grey", alpha=0.4, where="mid")
        windows.set_ylabel("window side of pspc_sq", color="grey", fontsize=8)
        axis.set_ylabel("mean squared difference", fontsize=8)
    axes[0].legend(fontsize=7)
    if told is not None:
        axis = axes[count - 1]
        for name, style in zip(TOLD, ("-", ":", "-", "--")):
            axis.plot(told.index, told[name].where(told[name] > 0), style, marker=".", label=TOLD[name])
        axis.set_ylabel("bits an e-fold of noise", fontsize=8)
        axis.set_title("what is told at each level", fontsize=9)
        _levels(axis)
        axis.legend(fontsize=7)
    return save_figure(figure, path)


def _levels(axis) -> None:
    axis.set(xscale="log", yscale="log", xlabel="sigma (noise on the left)")
    axis.invert_xaxis()
