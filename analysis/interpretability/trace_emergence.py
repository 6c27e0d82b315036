"""When and where does a prototype appear while the model denoises? (Weng et al. 2026, Sec. 4.3)

Images are generated from one x_T with their own scores s and with s', one prototype raised to its largest score in the test set. At every step
the denoiser's estimate of x0 is encoded again. When it appears: s_k(x0-hat | s') - s_k(x0-hat | s) against the timestep, and the timestep at which
its mean has risen by half. When it is decided: s' is used only down to some timestep and s after it, and the timestep is told by which half of the
final effect is settled; a model whose scores say nearly everything shows a prototype at once and decides it later. Where: x0-hat and the prototype's
similarity map along the way, as a strip and as an animation. Timesteps are those of the 1000-step linear schedule at the same noise level.
Results go to records/trace_emergence/<dataset>_v<n>/.
"""

import argparse

from analysis.script import add_edit_options, gesture_of, open_run, parse_images, prototypes_or_best, require, results_folder, run_parser
from train.errors import run_script

STRIP = 9  # columns of the strip
SWITCHES = 12  # timesteps at which s' gives way to s
SWITCHED_IMAGES = 8


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser)
    parser.add_argument("--prototypes", metavar="0,3,17", help="which prototypes (default: the six that matter most, no two alike)")
    parser.add_argument("--num_samples", type=int, default=16, help="test images of the curves (default: 16)")
    parser.add_argument("--images", metavar="ID", default="0", help="test image of the strip and the animation (default: 0)")
    args = parser.parse_args()
    require(parser, args, steps=2, num_samples=2)
    return args


def emergence_table(run, test, scores, prototypes, t, rises, changes, switch_t, kept):
    """One row a prototype, ordered by emergence (early, that is high t, first; then by when it is decided).

    rises (K, T, n) at timesteps t; changes (K, n, H, W) in grey levels; kept (K, S) effects of s' down to timesteps switch_t.
    """
    import numpy as np
    import pandas as pd

    from analysis.measures.auroc import best_attributes
    from analysis.measures.emergence import half_rise, spectral_centroid
    from train.data.table import SOURCES, resolve

    rng = np.random.default_rng(0)
    n = rises.shape[-1]
    resampled = [rng.integers(0, n, n) for _ in range(200)]
    attribute, auroc = best_attributes(scores.numpy(), test.attributes)
    regions = SOURCES[run.config.data.source].regions
    shares = resolve(regions)(run.config.data.image_size) if regions else {}
    rows = []
    for k, rise, change, effect in zip(prototypes, rises, changes, kept):
        spread = np.array([half_rise(t, rise[:, chosen].mean(1)) for chosen in resampled])
        rows.append(
            {
                "prototype": k,
                "half_rise_t": half_rise(t, rise.mean(1)),
                "deviation": float(np.std(spread[~np.isnan(spread)])) if not np.isnan(spread).all() else np.nan,
                "half_decided_t": half_rise(switch_t, effect),
                "rise": float(rise[-1].mean()),
                "frequency": float(np.mean([spectral_centroid(image) for image in change])),
                "changed_share": float((np.abs(change) > 8).mean()),
            }
        )
        if len(test.attributes.columns):
            rows[-1] |= {"attribute": attribute[k], "auroc": auroc[k]}
        if shares:
            rows[-1] |= {"region_share": shares[attribute[k]]}
    return pd.DataFrame(rows).set_index("prototype").sort_values(["half_rise_t", "half_decided_t"], ascending=False)


def draw_curves(table, curves: dict, t, kept: dict, switch_t, path):
    """Above: when the raised score appears in x0-hat, mean and deviation over images; below: when it is decided."""
    from analysis.drawing.figures import plt, save_figure

    figure, (appears, decided) = plt.subplots(2, 1, figsize=(7, 6.5), layout="constrained", sharex=True)
    for colour, k in enumerate(table.index):
        mean, deviation = curves[k].mean(1), curves[k].std(1)
        about = f" {table.loc[k, 'attribute']} {table.loc[k, 'auroc']:.2f}" if "attribute" in table else ""
        appears.plot(t, mean, color=f"C{colour}", label=f"{k}{about}, t = {table.loc[k, 'half_rise_t']:.0f}")
        appears.fill_between(t, mean - deviation, mean + deviation, color=f"C{colour}", alpha=0.12, linewidth=0)
        decided.plot(switch_t, kept[k], ".-", color=f"C{colour}", label=f"{k}, t = {table.loc[k, 'half_decided_t']:.0f}")
    appears.invert_xaxis()
    appears.set_ylabel("rise of the score in x0-hat")
    decided.set_ylabel("final rise, raised down to t only")
    decided.set_xlabel("timestep (noise on the left)")
    for axis, title in ((appears, "half risen at"), (decided, "half decided by")):
        axis.legend(fontsize=7, title=f"prototype, {title}", title_fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return save_figure(figure, path)


def draw_frame(run, order, estimates: dict, t: float, step: int, limits: dict):
    """x0-hat of one step with the best patch boxed, above the similarity map, one column a prototype."""
    import torch

    from analysis.drawing.figures import heat, panel, panels
    from analysis.edits import patch_box
    from train.images import to_uint8

    x0 = torch.stack([estimates[k][step] for k in order]).clamp(-1, 1)
    match, pixels = run.model.encoder.match(x0), to_uint8(x0)
    figure, axes = panels(2, len(order))
    for column, k in enumerate(order):
        panel(axes[0, column], pixels[column], f"prototype {k}", patch_box(run.model, match, column, k, run.config.data.image_size))
        heat(axes[1, column], limits[k][0][step], limits[k][1])
    figure.suptitle(f"t = {t:.0f}", fontsize=9)
    return figure


def draw_strip(run, order, estimates: dict, maps: dict, t, path):
    """Along the way: x0-hat under the image's own scores, then for each prototype x0-hat and its similarity map."""
    import numpy as np

    from analysis.drawing.figures import heat, panel, panels, save_figure
    from train.images import to_uint8

    steps = np.linspace(0, len(t) - 1, min(STRIP, len(t))).round().astype(int)
    figure, axes = panels(1 + 2 * len(order), len(steps), side=1.0)
    for column, step in enumerate(steps):
        panel(axes[0, column], to_uint8(estimates[None][step][None])[0], f"t = {t[step]:.0f}")
        for line, k in enumerate(order):
            panel(axes[1 + 2 * line, column], to_uint8(estimates[k][step][None])[0])
            heat(axes[2 + 2 * line, column], maps[k][0][step], maps[k][1])
    axes[0, 0].set_ylabel("own s", fontsize=7)
    for line, k in enumerate(order):
        axes[1 + 2 * line, 0].set_ylabel(f"raised {k}", fontsize=7)
        axes[2 + 2 * line, 0].set_ylabel(f"where {k}", fontsize=7)
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch
    from scipy.stats import spearmanr
    from tqdm import tqdm

    from analysis.drawing.figures import rendered, save_animation
    from analysis.drawing.results import save_arrays, save_table
    from analysis.edits import Encoding, encode_and_invert
    from analysis.measures.emergence import switched_scores, trace_scores
    from models.schedule import LinearSchedule
    from train.data.dataset import load_split
    from train.images import to_tensor
    from train.scores import encode

    run, device = open_run(args)
    test = load_split(run.config.data, "test")
    shown = parse_images(args.images, test)[0]
    others = [row for row in range(min(args.num_samples, len(test))) if row != shown]
    rows = [shown, *others[: args.num_samples - 1]]
    scores = encode(run.model, test, device=device)
    prototypes = prototypes_or_best(args.prototypes, run, test, scores, 6)
    encoding = encode_and_invert(run.model, to_tensor(test.pixels[rows]).to(device), args.steps)
    gesture = gesture_of(args, run.model, scores)
    sigmas, base, own, plain = trace_scores(run, encoding, encoding.scores, gesture, 0)
    t = LinearSchedule().timestep(sigmas).numpy()
    grid = run.model.sigmas(args.steps)
    cuts = sigmas[torch.linspace(0, len(sigmas) - 1, min(SWITCHES, len(sigmas))).round().long()]
    switch_t, few = LinearSchedule().timestep(cuts).numpy(), slice(0, SWITCHED_IMAGES)
    estimates, rises, changes, kept, maps = {None: own}, [], [], [], {}
    for k in tqdm(prototypes, desc="generating", unit="prototype", leave=False):
        raised = gesture.set(encoding.scores, [k], scores[:, k].max().item())
        _, found, estimates[k], last = trace_scores(run, encoding, raised, gesture, 0)
        rises.append((found[..., k] - base[..., k]).numpy())  # (T, n)
        changes.append(((last - plain).clamp(-2, 2).mean(1) * 127.5).cpu().numpy())  # (n, H, W)
        with torch.no_grad():
            final = switched_scores(run, Encoding(*(part[few] for part in encoding)), raised[few], gesture, grid, cuts, k)
            kept.append((final - run.model.score(plain[few].clamp(-1, 1))[:, k].cpu()).mean(1).numpy())  # (S,)
            closeness = run.model.encoder.similarities(estimates[k].clamp(-1, 1))[:, k]
        closeness = (closeness - closeness.min()).cpu().numpy()  # (T, H', W')
        maps[k] = (closeness, float(closeness.max()))
    table = emergence_table(run, test, scores, prototypes, t, np.array(rises), np.array(changes), switch_t, kept)

    folder, order = results_folder("trace_emergence", run), list(table.index)
    files = draw_curves(table, dict(zip(prototypes, rises)), t, dict(zip(prototypes, kept)), switch_t, folder / "emergence")
    strip = draw_strip(run, order, estimates, maps, t, folder / "strip")
    frames = [rendered(draw_frame(run, order, estimates, t[step], step, maps)) for step in tqdm(range(len(t)), desc="animation", leave=False)]
    animation = save_animation(frames, folder / "emergence.gif")
    numbers = {"timestep": t, "sigma": sigmas.numpy(), "rises": np.array(rises), "switch_timestep": switch_t, "kept": np.array(kept)}
    arrays = save_arrays(folder / "emergence.npz", prototypes=prototypes, **numbers)
    csv = save_table(folder / "emergence.csv", table)

    print(table.round(3).to_string())
    for when, name in (("half_rise_t", "appearance"), ("half_decided_t", "decision")):
        risen = table.dropna(subset=when)
        for column, meaning in (("frequency", "spatial frequency of the change"), ("region_share", "size of the attribute's region")):
            if column in risen and len(risen) > 2 and risen[column].nunique() > 1 and risen[when].nunique() > 1:
                rho, p = spearmanr(risen[when], risen[column])
                print(f"Spearman of {name} (t) and {meaning}: {rho:+.2f} (p = {p:.2f}, {len(risen)} prototypes)")
    if table["half_rise_t"].nunique() == 1:
        print("every prototype is there from the first step on: these scores nearly determine the image, and the decisions tell them apart")
    print(f"curves: {files[0]}; strip: {strip[0]}; animation: {animation}; arrays: {arrays}; table: {csv}")


if __name__ == "__main__":
    run_script(main)
