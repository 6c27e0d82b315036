"""When and where does a prototype appear while the model denoises? (Weng et al. 2026, Sec. 4.3)

When, in bits: a prototype's information spread over the noise levels (analysis/interpretability/information.py), by the
mean of both estimates; its time is the level above which half of it lies, given with the interval of the middle half.
On drawn faces the order is compared with the truth: with how far each attribute's counterfactuals lie apart, which
decides when an exact observer could tell them. Beside it the paper's curves: images are generated from one x_T with
their own scores s and with s', one prototype raised to its largest score in the test set; at every step the denoiser's
estimate of x0 is encoded again, and s_k(x0-hat | s') - s_k(x0-hat | s) is drawn, with the timestep at which its mean
has risen by half. Where: the information's map at each level, and x0-hat along the way, as a strip and as an animation.
Timesteps are those of the 1000-step linear schedule at the same noise level. Results go to
records/trace_emergence/<dataset>_v<n>/.
"""

import argparse

from analysis.script import (
    SIGMA_MIN,
    add_edit_options,
    edit_options,
    open_run,
    parse_images,
    parse_prototypes,
    require,
    run_parser,
)
from train.errors import run_script

STRIP = 9  # columns of the strip
MAP_NOISES = 2
COUNT = 6  # prototypes where no counterfactuals can be made
PAIRS = 60


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser)
    text = "the best of each attribute where attributes have known regions, else the six that matter most, no two alike"
    parser.add_argument("--prototypes", metavar="0,3,17", help=f"which prototypes (default: {text})")
    parser.add_argument("--num_samples", type=int, default=16, help="test images of the paper's curves (default: 16)")
    parser.add_argument(
        "--draws",
        type=int,
        default=2000,
        help="draws of (test image, noise level, noise) for the information (default: 2000)",
    )
    parser.add_argument(
        "--images", metavar="ID", default="0", help="test image of the strip and the animation (default: 0)"
    )
    args = parser.parse_args()
    require(parser, args, steps=2, num_samples=2, draws=50)
    return args


def chosen_prototypes(text: str | None, run, test, scores) -> list[int]:
    """What --prototypes asks for, else those whose regions are known, else those that matter most."""
    from analysis.measures.candidates import best_candidates
    from analysis.measures.cards import matter_most
    from train.data.table import SOURCES

    if text:
        return parse_prototypes(text, scores.shape[1])
    if SOURCES[run.config.data.source].counterfactuals:
        return list(dict.fromkeys(c.prototype for c in best_candidates(scores.numpy(), test.attributes)))
    return matter_most(run, test, scores, COUNT)


def emergence_table(run, test, scores, prototypes, survey, t, rises, changes):
    """One row a prototype, ordered by emergence (early, that is much noise, first). rises (K, T, n) at timesteps t;
    changes (K, n, H, W)."""
    import numpy as np
    import pandas as pd
    import torch

    from analysis.measures.auroc import best_attributes
    from analysis.measures.counterfactuals import pairs_of
    from analysis.measures.emergence import half_rise, spectral_centroid, true_change
    from models.information import quantile_level
    from models.schedule import LinearSchedule

    answer, table = survey.alone or survey.beyond, pd.DataFrame(index=pd.Index(prototypes, name="prototype"))
    table["bits"], table["error"] = answer.bits.total, answer.bits.error
    for name, share in (("sigma", 0.5), ("sigma_first", 0.25), ("sigma_last", 0.75)):
        table[name] = quantile_level(survey.levels, answer.timing, share)
    table["t"] = LinearSchedule().timestep(torch.tensor(table["sigma"].to_numpy())).numpy()
    table["half_rise_t"] = [half_rise(t, rise.mean(1)) for rise in rises]
    table["rise"] = [float(rise[-1].mean()) for rise in rises]
    table["frequency"] = [float(np.mean([spectral_centroid(image) for image in change])) for change in changes]
    attribute, auroc = best_attributes(scores.numpy(), test.attributes)
    if len(test.attributes.columns):
        table["attribute"], table["auroc"] = np.array(attribute)[prototypes], np.array(auroc)[prototypes]
    pairs = pairs_of(run, list(test.attributes), PAIRS)
    if pairs:
        table["region_share"] = [pairs[name].region.mean() for name in table["attribute"]]
        table["true_change"] = [true_change(pairs[name]) for name in table["attribute"]]
    return table.sort_values("sigma", ascending=False)


def draw_curves(table, densities: dict, sigmas, curves: dict, levels, path):
    """Above: the density of information over the noise levels; below: when the raised score appears in x0-hat, mean and
    deviation."""
    from analysis.drawing.figures import plt, save_figure

    figure, (bits, appears) = plt.subplots(2, 1, figsize=(8, 6.5), layout="constrained", sharex=True)
    for colour, k in enumerate(table.index):
        style = {"color": f"C{colour % 10}", "linestyle": "-" if colour < 10 else "--"}
        about = f" {table.loc[k, 'attribute']} {table.loc[k, 'auroc']:.2f}" if "attribute" in table else ""
        mass = densities[k].clip(0) / max(densities[k].clip(0).max(), 1e-12)
        first, middle, last = (table.loc[k, name] for name in ("sigma_first", "sigma", "sigma_last"))
        bits.plot(sigmas, mass, label=f"{k}{about}, {middle:.2g} ({first:.2g} to {last:.2g})", **style)
        bits.axvline(middle, linewidth=0.6, **style)
        mean, deviation = curves[k].mean(1), curves[k].std(1)
        appears.plot(levels, mean, label=f"{k}, t = {table.loc[k, 'half_rise_t']:.0f}", **style)
        appears.fill_between(levels, mean - deviation, mean + deviation, color=style["color"], alpha=0.1, linewidth=0)
    bits.set_xscale("log")
    bits.set_xlim(max(sigmas[-1], levels[0]), sigmas[0])
    bits.set_ylabel("bits an e-fold of noise, highest 1")
    appears.set_ylabel("rise of the score in x0-hat")
    appears.set_xlabel("noise level (noise on the left)")
    for axis, title in (
        (bits, "prototype, half of its bits above noise (middle half)"),
        (appears, "prototype, half risen at"),
    ):
        axis.legend(fontsize=7, title=title, title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def draw_frame(run, order, estimates: dict, maps: dict, limits: dict, sigma: float, step: int):
    """x0-hat of one step with the best patch boxed, above the information's map at that level, one column a
    prototype."""
    import torch

    from analysis.drawing.figures import heat, panel, panels
    from analysis.edits import patch_box
    from train.images import to_uint8

    x0 = torch.stack([estimates[k][step] for k in order]).clamp(-1, 1)
    match, pixels = run.model.encoder.match(x0), to_uint8(x0)
    figure, axes = panels(2, len(order))
    for column, k in enumerate(order):
        panel(
            axes[0, column],
            pixels[column],
            f"prototype {k}",
            patch_box(run.model, match, column, k, run.config.data.image_size),
        )
        heat(axes[1, column], maps[k][step], limits[k])
    figure.suptitle(f"noise level {sigma:.2g}", fontsize=9)
    return figure


def draw_strip(order, own, estimates: dict, maps: dict, limits: dict, sigmas, path):
    """Along the way: x0-hat under the image's own scores, then for each prototype x0-hat and the map of its information
    at that level."""
    import numpy as np

    from analysis.drawing.figures import heat, panel, panels, save_figure
    from train.images import to_uint8

    steps = np.linspace(0, len(sigmas) - 1, min(STRIP, len(sigmas))).round().astype(int)
    figure, axes = panels(1 + 2 * len(order), len(steps), side=1.0)
    for column, step in enumerate(steps):
        panel(axes[0, column], to_uint8(own[step][None])[0], f"noise {sigmas[step]:.2g}")
        for line, k in enumerate(order):
            panel(axes[1 + 2 * line, column], to_uint8(estimates[k][step][None])[0])
            heat(axes[2 + 2 * line, column], maps[k][step], limits[k])
    axes[0, 0].set_ylabel("own s", fontsize=7)
    for line, k in enumerate(order):
        axes[1 + 2 * line, 0].set_ylabel(f"raised {k}", fontsize=7)
        axes[2 + 2 * line, 0].set_ylabel(f"bits of {k}", fontsize=7)
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import numpy as np
    from scipy.stats import spearmanr
    from tqdm import tqdm

    from analysis.drawing.figures import rendered, save_animation
    from analysis.edits import encode_and_invert
    from analysis.measures.emergence import trace_scores
    from analysis.measures.information import image_maps, measure_information
    from analysis.results import results_folder, save_arrays
    from analysis.schemas import EMERGENCE
    from models.schedule import LinearSchedule
    from train.data.dataset import load_split
    from train.images import GREY, to_tensor
    from train.scores import encode

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    shown = parse_images(args.images, test)[0]
    others = [row for row in range(min(args.num_samples, len(test))) if row != shown]
    rows = [shown, *others[: args.num_samples - 1]]
    scores = encode(run.model, test, device=device)
    prototypes = chosen_prototypes(args.prototypes, run, test, scores)
    found = measure_information(run.model, test, scores, prototypes, args.draws, SIGMA_MIN)

    encoding = encode_and_invert(run.model, to_tensor(test.pixels[rows]).to(device), args.steps)
    options = edit_options(args, run.model, scores)
    sigmas, base, own, plain = trace_scores(run, encoding, encoding.scores, options, 0)
    t, x0 = LinearSchedule().timestep(sigmas).numpy(), to_tensor(test.pixels[[shown]]).to(device)
    estimates, rises, changes, maps = {}, [], [], {}
    for k in tqdm(prototypes, desc="generating", unit="prototype", leave=False):
        raised = options.set(encoding.scores, [k], scores[:, k].max().item())
        _, traced, estimates[k], last = trace_scores(run, encoding, raised, options, 0)
        rises.append((traced[..., k] - base[..., k]).numpy())  # (T, n)
        changes.append(((last - plain).clamp(-2, 2).mean(1) * GREY).cpu().numpy())  # (n, H, W)
        maps[k] = image_maps(
            run.model, x0, encoding.scores[:1], k, scores, found.alone is not None, sigmas, MAP_NOISES
        )[:, 0]  # (T, H, W)
    table = emergence_table(run, test, scores, prototypes, found, t, rises, changes)

    folder, order = results_folder("trace_emergence", run), list(table.index)
    told = sigmas.numpy() >= SIGMA_MIN  # below it gaps are those of details, and would hide the rest
    limits = {k: maps[k][told].max() for k in prototypes}
    densities = dict(zip(prototypes, (found.alone or found.beyond).timing))
    files = draw_curves(
        table, densities, found.levels.sigmas, dict(zip(prototypes, rises)), sigmas.numpy(), folder / "emergence"
    )
    strip = draw_strip(order, own, estimates, maps, limits, sigmas.tolist(), folder / "strip")
    frames = [
        rendered(draw_frame(run, order, estimates, maps, limits, level, step))
        for step, level in enumerate(tqdm(sigmas.tolist(), "animation", leave=False))
    ]
    animation = save_animation(frames, folder / "emergence.gif")
    numbers = {
        "timestep": t,
        "sigma": sigmas.numpy(),
        "rises": np.array(rises),
        "maps": np.array([maps[k] for k in prototypes]),
    }
    numbers |= {"level": found.levels.sigmas, "density": np.array([densities[k] for k in prototypes])}
    arrays = save_arrays(folder / "emergence.npz", prototypes=prototypes, **numbers)
    csv = EMERGENCE.write(folder, table)

    print(table.round(3).to_string())
    for column, meaning in (
        ("true_change", "distance of the attribute's counterfactuals"),
        ("region_share", "size of the attribute's region"),
        ("frequency", "spatial frequency of the change"),
    ):
        if column in table and len(table) > 2 and table[column].nunique() > 1:
            rho, p = spearmanr(table["sigma"], table[column])
            print(
                f"Spearman of emergence (noise level) and {meaning}: {rho:+.2f} (p = {p:.2f}, {len(table)} prototypes)"
            )
    if "true_change" in table and len(table) > 2:
        rho = spearmanr(table["true_change"], table["region_share"])[0]
        print(f"an exact observer's order (that of the distances) has {rho:+.2f} with the sizes")
    if len(set(table["half_rise_t"])) == 1:
        print("in the paper's curves every prototype is there from the first step on: the bits tell them apart")
    print(f"curves: {files[0]}; strip: {strip[0]}; animation: {animation}; arrays: {arrays}; table: {csv}")


if __name__ == "__main__":
    run_script(main)
