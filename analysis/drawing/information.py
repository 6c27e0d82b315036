"""What, where and when in one figure: prototypes sorted by bits, where they tell, and at which noise levels."""

from pathlib import Path

import numpy as np

from analysis.drawing.figures import panel, plt, save_figure

COLOURS = plt.get_cmap("tab20").colors


def overlay(axis, pixels: np.ndarray, values: np.ndarray, title: str = "") -> None:
    """A map (H, W) of values >= 0 over an image (H, W, C) made pale and grey."""
    grey = 140 + 0.45 * pixels.mean(-1, keepdims=True)
    panel(axis, np.repeat(grey, 3, axis=-1).astype(np.uint8), title)
    limit = max(np.quantile(values, 0.995), 1e-12)
    axis.imshow(
        values, cmap="inferno", vmin=0, vmax=limit, alpha=np.clip(values / limit, 0, 1) ** 0.6, interpolation="nearest"
    )


def _curve(axis, sigmas: np.ndarray, densities: dict, spans: tuple, last: bool) -> None:
    """Densities of one prototype over the noise level, with the interval of half the mass of the first of them."""
    for (name, density), style in zip(densities.items(), ("-", "--")):
        axis.plot(sigmas, density, style, color="black", linewidth=1, label=name)
    low, middle, high = spans
    axis.axvspan(low, high, color="tab:orange", alpha=0.25, linewidth=0)
    axis.axvline(middle, color="tab:orange", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlim(sigmas[-1], sigmas[0])
    axis.tick_params(labelsize=5, labelbottom=last)
    axis.set_ylim(bottom=0)


def draw(rows: list[dict], sigmas: np.ndarray, stacked: dict, lines: dict, summary: str, path: Path) -> list[Path]:
    """rows: one dict a prototype (text, expected, mean_image, where, images [(pixels, map), ...], densities
    {name: (K,)}, spans);
    stacked: name -> density (K,) of what is stacked; lines: name -> density of what is drawn beside it."""
    examples = len(rows[0]["images"])
    figure = plt.figure(figsize=(10.5, 1.15 * len(rows) + 4.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.15 * len(rows) + 0.4, 3.6])
    axes = above.subplots(len(rows), 4 + examples, squeeze=False, width_ratios=[2.0, 1, 1, *[1] * examples, 2.4])
    for line, row in enumerate(rows):
        axes[line, 0].axis("off")
        axes[line, 0].text(0, 0.5, row["text"], fontsize=7, va="center", transform=axes[line, 0].transAxes)
        panel(axes[line, 1], row["expected"])
        overlay(axes[line, 2], row["mean_image"], row["where"])
        for axis, (pixels, values) in zip(axes[line, 3:], row["images"]):
            overlay(axis, pixels, values)
        _curve(axes[line, -1], sigmas, row["densities"], row["spans"], line == len(rows) - 1)
    for axis, title in zip(
        axes[0],
        (
            "",
            "WHAT\nexpected, high",
            "WHERE\non the mean image",
            *["on an image\nthat has it"] * examples,
            "WHEN\nbits an e-fold of noise",
        ),
    ):
        axis.set_title(title, fontsize=7)
    axes[0, -1].legend(fontsize=5, frameon=False)
    axes[-1, -1].set_xlabel("noise level (noise on the left)", fontsize=6)

    axis = below.subplots()
    axis.stackplot(
        sigmas, *stacked.values(), labels=list(stacked), colors=[*COLOURS[: len(stacked) - 1], "lightgrey"], linewidth=0
    )
    for (name, density), style in zip(lines.items(), ("-", "--")):
        axis.plot(sigmas, density, style, color="black", label=name)
    axis.set_xscale("log")
    axis.set_xlim(sigmas[-1], sigmas[0])
    axis.set_ylim(0, 1.15 * max(sum(stacked.values()).max(), *[density.max() for density in lines.values()], 1e-9))
    axis.set_xlabel("noise level (noise on the left)", fontsize=8)
    axis.set_ylabel("bits an e-fold of noise", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set_title(summary, fontsize=8)
    return save_figure(figure, path)
