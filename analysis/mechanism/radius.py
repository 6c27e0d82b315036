"""How far a denoiser looks at every noise level, beside the Wiener filter and a square schedule."""

from pathlib import Path

from torch import Tensor

from analysis.drawing.figures import plt, save_figure
from analysis.mechanism.common import training_free
from analysis.mechanism.sensitivity import CORE, REACH, wiener_sensitivity, window_side
from analysis.results import save_json
from train.errors import UserError


def save_radius(folder: Path, name: str, maps: Tensor, data, *, args, levels: Tensor, sizes: list[int] | None):
    """radius.json and radius.png: sides of the windows that hold CORE and REACH of the heat maps (L, H, W, H, W) of a
    denoiser and of the Wiener filter of PixelMajor data, and, where given, of square windows (L,). -> both paths."""
    looked, sides = {name: maps}, {}
    try:
        wiener = training_free("gaussian", data, args, levels)
        looked["Wiener filter"] = [
            wiener_sensitivity(wiener.filter(level), wiener.image_shape) for level in levels.tolist()
        ]
    except UserError as error:
        print(f"Wiener filter left out: {error}")
    for share in (CORE, REACH):
        for label, found in looked.items():
            sides[f"{label}, {share:.0%}"] = [window_side(level, share) for level in found]
    if sizes is not None:
        sides["square schedule"] = sizes
    file = save_json(folder / "radius.json", {"levels": levels.tolist(), "sides": sides})
    return file, draw_sides(sides, levels.numpy(), folder / "radius")[0]


def draw_sides(sides: dict, levels, path: Path) -> list[Path]:
    """Sides of squares in pixels by name, each one a level."""
    figure, axis = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for name, values in sides.items():
        style = {"color": "C1" if "Wiener" in name else "C0", "linestyle": "--" if f"{REACH:.0%}" in name else "-"}
        if name == "square schedule":
            style = {"color": "grey", "drawstyle": "steps-mid"}
        axis.plot(levels, values, label=name, **style)
    axis.set(xscale="log", xlabel="sigma (noise on the left)", ylabel="side of the window in pixels")
    axis.invert_xaxis()
    figure.legend(
        loc="outside right upper", fontsize=8, title="window that holds\nso much of the heat", title_fontsize=8
    )
    return save_figure(figure, path)
