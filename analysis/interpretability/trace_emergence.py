"""When and where does a prototype appear while the model denoises? (Weng et al. 2026, Sec. 4.3)

When, in bits: a prototype's information spread over the noise levels (analysis/interpretability/information.py), by the
mean of both estimates; its time is the level above which half of it lies, given with the interval of the middle half.
On drawings the order is compared with the truth: with how far each attribute's counterfactuals lie apart, which
decides when an exact observer could tell them. Beside it the paper's curves: images are generated from one x_T with
their own scores s and with s', one prototype raised to its largest score in the test set; at every step the denoiser's
estimate of x0 is encoded again, and s_k(x0-hat | s') - s_k(x0-hat | s) is drawn, with the timestep at which its mean
has risen by half. Where: the information's map at each level, and x0-hat along the way, as a strip and as an animation.
Timesteps are those of the 1000-step linear schedule at the same noise level. Results go to
records/trace_emergence/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from typing import NamedTuple

from analysis.script import SIGMA_MIN, edit_options, edit_parser, open_run, parse_image, prototypes_or_best, require
from train.errors import run_script

STRIP = 9  # columns of the strip
MAP_NOISES = 2
COUNT = 6  # prototypes where no counterfactuals can be made
PAIRS = 60
TRUTHS = {  # column -> what emergence is compared with
    "true_change": "distance of the attribute's counterfactuals",
    "region_share": "size of the attribute's region",
    "frequency": "spatial frequency of the change",
}


def parse_args() -> argparse.Namespace:
    best = "the best of each attribute where attributes have known regions, else the six that matter most, no two alike"
    parser = edit_parser(__doc__, best, "test image of the strip and the animation (default: 0)", first="0")
    parser.add_argument("--num_samples", type=int, default=16, help="test images of the paper's curves (default: 16)")
    text = "draws of (test image, noise level, noise) for the information (default: 2000)"
    parser.add_argument("--draws", type=int, default=2000, help=text)
    args = parser.parse_args()
    require(parser, args, steps=2, num_samples=2, draws=50)
    return args


class Traces(NamedTuple):
    """What happens on the way from noise to n images at T noise levels, sigmas (T,) at timesteps t (T,).

    own (T, C, H, W): estimates of the first image under its own scores. Of each prototype that is raised: rises (T, n)
    of its score, changes (n, H, W) of the last images in grey levels, estimates (T, C, H, W) of the first image, and
    maps (T, H, W) of the prototype's information in it.
    """

    sigmas: object
    t: object
    own: object
    rises: dict
    changes: dict
    estimates: dict
    maps: dict

    @property
    def limits(self) -> dict:
        """The highest bits of each map; below SIGMA_MIN gaps are those of details, and would hide the rest."""
        return {k: maps[self.sigmas >= SIGMA_MIN].max() for k, maps in self.maps.items()}


def chosen_prototypes(args, run, test, scores) -> list[int]:
    """What --prototypes asks for, else those whose regions are known, else those that matter most."""
    from analysis.measures.candidates import best_candidates
    from analysis.measures.labels import usable_attributes
    from train.data.table import SOURCES

    names, _ = usable_attributes([test.attributes], 1)
    if SOURCES[run.config.data.source].counterfactuals and names and not args.prototypes:
        return list(dict.fromkeys(c.prototype for c in best_candidates(scores.numpy(), test.attributes[names])))
    return prototypes_or_best(args, run, test, scores, COUNT)


def trace(run, test, rows: list[int], scores, prototypes: list[int], *, alone: bool, args, device) -> Traces:
    """Regenerate test images, the first of which is shown, with each prototype raised to its largest score.

    scores (N, m) of the test set; alone: whether maps are of the information alone or beyond the others.
    """
    from tqdm import tqdm

    from analysis.edits import encode_and_invert
    from analysis.measures.emergence import trace_scores
    from analysis.measures.information import image_maps
    from models.schedule import LinearSchedule
    from train.images import GREY, to_tensor

    x0 = to_tensor(test.pixels[rows], device)
    encoding = encode_and_invert(run.model, x0, args.steps)
    options, s = edit_options(args, run.model, scores), encoding.scores
    own = trace_scores(run, encoding, s, options, 0)
    t = LinearSchedule().timestep(own.sigmas).numpy()
    traces = Traces(own.sigmas.numpy(), t, own.estimates, rises={}, changes={}, estimates={}, maps={})
    for k in tqdm(prototypes, desc="generating", unit="prototype", leave=False):
        raised = options.set(s, [k], options.known.range[k, 1].item())
        changed = trace_scores(run, encoding, raised, options, 0)
        traces.estimates[k] = changed.estimates
        traces.rises[k] = (changed.scores[..., k] - own.scores[..., k]).numpy()
        traces.changes[k] = ((changed.images - own.images).clamp(-2, 2).mean(1) * GREY).cpu().numpy()
        maps = image_maps(run.model, x0[:1], s[:1], k, scores, alone, own.sigmas, MAP_NOISES)
        traces.maps[k] = maps[:, 0]
    return traces


def emergence_table(run, test, scores, information, traces: Traces):
    """One row a prototype, ordered by emergence (early, that is much noise, first)."""
    import numpy as np
    import pandas as pd
    import torch

    from analysis.measures.auroc import best_attributes
    from analysis.measures.counterfactuals import pairs_of
    from analysis.measures.emergence import half_rise, spectral_centroid, true_change
    from models.information import quantile_level
    from models.schedule import LinearSchedule

    prototypes, estimate = list(traces.rises), information.alone or information.beyond
    table = pd.DataFrame(index=pd.Index(prototypes, name="prototype"))
    table["bits"], table["error"] = estimate.bits.total, estimate.bits.error
    for name, share in (("sigma", 0.5), ("sigma_first", 0.25), ("sigma_last", 0.75)):
        table[name] = quantile_level(information.levels, estimate.timing, share)
    table["t"] = LinearSchedule().timestep(torch.tensor(table["sigma"].to_numpy())).numpy()
    table["half_rise_t"] = [half_rise(traces.t, rise.mean(1)) for rise in traces.rises.values()]
    table["rise"] = [float(rise[-1].mean()) for rise in traces.rises.values()]
    frequencies = [[spectral_centroid(image) for image in change] for change in traces.changes.values()]
    table["frequency"] = np.mean(frequencies, axis=1)
    attribute, auroc = best_attributes(scores.numpy(), test.attributes)
    if len(test.attributes.columns):
        table["attribute"], table["auroc"] = np.array(attribute)[prototypes], np.array(auroc)[prototypes]
    pairs = pairs_of(run, list(test.attributes), PAIRS)
    if pairs:
        drawn = [pairs[name.removeprefix("not ")] for name in table["attribute"]]
        table["region_share"] = [pair.region.mean() for pair in drawn]
        table["true_change"] = [true_change(pair) for pair in drawn]
    return table.sort_values("sigma", ascending=False)


def draw_curves(table, information, traces: Traces, path: Path) -> list[Path]:
    """Above: the density of information over the noise levels; below: when the raised score appears in x0-hat, mean and
    deviation."""
    from analysis.drawing.figures import plt, save_figure

    estimate, sigmas = information.alone or information.beyond, information.levels.sigmas
    densities = dict(zip(traces.rises, estimate.timing))
    figure, (bits, appears) = plt.subplots(2, 1, figsize=(8, 6.5), layout="constrained", sharex=True)
    for colour, k in enumerate(table.index):
        style = {"color": f"C{colour % 10}", "linestyle": "-" if colour < 10 else "--"}
        about = f" {table.loc[k, 'attribute']} {table.loc[k, 'auroc']:.2f}" if "attribute" in table else ""
        mass = densities[k].clip(0) / max(densities[k].clip(0).max(), 1e-12)
        first, middle, last = (table.loc[k, name] for name in ("sigma_first", "sigma", "sigma_last"))
        bits.plot(sigmas, mass, label=f"{k}{about}, {middle:.2g} ({first:.2g} to {last:.2g})", **style)
        bits.axvline(middle, linewidth=0.6, **style)
        mean, deviation = traces.rises[k].mean(1), traces.rises[k].std(1)
        appears.plot(traces.sigmas, mean, label=f"{k}, t = {table.loc[k, 'half_rise_t']:.0f}", **style)
        band = {"color": style["color"], "alpha": 0.1, "linewidth": 0}
        appears.fill_between(traces.sigmas, mean - deviation, mean + deviation, **band)
    bits.set_xscale("log")
    bits.set_xlim(max(sigmas[-1], traces.sigmas[0]), sigmas[0])
    bits.set_ylabel("bits an e-fold of noise, highest 1")
    appears.set_ylabel("rise of the score in x0-hat")
    appears.set_xlabel("noise level (noise on the left)")
    for axis, title in (
        (bits, "prototype, half of its bits above noise (middle half)"),
        (appears, "prototype, half risen at"),
    ):
        axis.legend(fontsize=7, title=title, title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def draw_frame(run, order: list[int], traces: Traces, step: int):
    """x0-hat of one step with the best patch boxed, above the information's map at that level, one column a
    prototype."""
    import torch

    from analysis.drawing.sheet import Sheet
    from train.images import to_uint8

    x0 = torch.stack([traces.estimates[k][step] for k in order]).clamp(-1, 1)
    match, pixels = run.model.encoder.match(x0), to_uint8(x0)
    sheet = Sheet(["", ""], [f"prototype {k}" for k in order], heading=f"noise level {traces.sigmas[step]:.2g}")
    for column, k in enumerate(order):
        sheet.picture(0, column, pixels[column], match.boxes[column, k].tolist())
        sheet.heat(1, column, traces.maps[k][step], traces.limits[k])
    return sheet.figure


def draw_strip(order: list[int], traces: Traces, path: Path) -> list[Path]:
    """Along the way: x0-hat under the image's own scores, then for each prototype x0-hat and the map of its information
    at that level."""
    import numpy as np

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import Sheet
    from train.images import to_uint8

    sigmas = traces.sigmas
    steps = np.linspace(0, len(sigmas) - 1, min(STRIP, len(sigmas))).round().astype(int)
    labels = ["own s", *(f"{what} {k}" for k in order for what in ("raised", "bits of"))]
    sheet = Sheet(labels, [f"noise {sigmas[step]:.2g}" for step in steps], side=1.0)
    for column, step in enumerate(steps):
        sheet.picture(0, column, to_uint8(traces.own[step][None])[0])
        for line, k in enumerate(order):
            sheet.picture(1 + 2 * line, column, to_uint8(traces.estimates[k][step][None])[0])
            sheet.heat(2 + 2 * line, column, traces.maps[k][step], traces.limits[k])
    return save_figure(sheet.figure, path)


def draw(run, table, information, traces: Traces, folder: Path) -> str:
    """All figures -> where they are."""
    from tqdm import tqdm

    from analysis.drawing.figures import rendered, save_animation

    order = list(table.index)
    curves = draw_curves(table, information, traces, folder / "emergence")
    strip = draw_strip(order, traces, folder / "strip")
    steps = tqdm(range(len(traces.sigmas)), "animation", leave=False)
    frames = [rendered(draw_frame(run, order, traces, step)) for step in steps]
    return f"curves: {curves[0]}; strip: {strip[0]}; animation: {save_animation(frames, folder / 'emergence.gif')}"


def save(table, information, traces: Traces, folder: Path) -> str:
    """The arrays and the table -> where they are."""
    import numpy as np

    from analysis.results import save_arrays
    from analysis.schemas import EMERGENCE

    numbers = {"timestep": traces.t, "sigma": traces.sigmas, "rises": np.array(list(traces.rises.values()))}
    numbers |= {"maps": np.array(list(traces.maps.values())), "level": information.levels.sigmas}
    numbers["density"] = np.array((information.alone or information.beyond).timing)
    arrays = save_arrays(folder / "emergence.npz", prototypes=list(traces.rises), **numbers)
    return f"arrays: {arrays}; table: {EMERGENCE.write(folder, table)}"


def print_table(table) -> None:
    """The table, and how its order agrees with the truth where that is known."""
    from scipy.stats import spearmanr

    print(table.round(3).to_string())
    for column, meaning in TRUTHS.items():
        if column in table and len(table) > 2 and table[column].nunique() > 1:
            rho, p = spearmanr(table["sigma"], table[column])
            numbers = f"{rho:+.2f} (p = {p:.2f}, {len(table)} prototypes)"
            print(f"Spearman of emergence (noise level) and {meaning}: {numbers}")
    if "true_change" in table and len(table) > 2:
        rho = spearmanr(table["true_change"], table["region_share"])[0]
        print(f"an exact observer's order (that of the distances) has {rho:+.2f} with the sizes")
    if len(set(table["half_rise_t"])) == 1:
        print("in the paper's curves every prototype is there from the first step on: the bits tell them apart")


def main() -> None:
    args = parse_args()

    from analysis.measures.information import measure_information
    from analysis.results import results_folder
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    first = parse_image(args.images, test)
    others = [row for row in range(min(args.num_samples, len(test))) if row != first]
    rows = [first, *others[: args.num_samples - 1]]
    scores = encode(run.model, test, device=device)
    prototypes = chosen_prototypes(args, run, test, scores)

    information = measure_information(run.model, test, scores, prototypes, args.draws, SIGMA_MIN)
    traces = trace(run, test, rows, scores, prototypes, alone=information.alone is not None, args=args, device=device)
    table = emergence_table(run, test, scores, information, traces)
    folder = results_folder("trace_emergence", run, args.outdir)
    figures, numbers = draw(run, table, information, traces, folder), save(table, information, traces, folder)
    print_table(table)
    print(f"{figures}; {numbers}")


if __name__ == "__main__":
    run_script(main)
