"""How much of a trained denoiser is explained by patches alone? (Niedoba et al. 2025, Sec. 6, on one's own model)

Mean squared difference, at every noise level, between the network and each training-free denoiser: on held-out noisy
images, and along the network's own reverse trajectories. Two networks where the run was trained to do without scores:
conditional, given the scores of the held-out images, and unconditional, with all scores hidden, which knows as much as
a training-free denoiser does; the distance between both is what s adds. Where a latent model exists, also the network
under sampled scores (network_latent, as one more denoiser). What s adds is told in bits an e-fold of noise as well,
beside what patches of the training set add to the Gaussian denoiser, and what the network leaves.

Writes compare.csv (means and standard errors over images), compare.json (every image's difference, where the published
order of denoisers holds), told.csv, the curves with the window sizes, and a grid of pictures to
records/mechanism/compare/. For the schedules and heat maps see fit_schedule.py and heatmaps.py; tables.py prints the
results in Markdown.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from analysis.script import require
from train.errors import run_script

SHOWN = 5  # levels in the grid of pictures


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__, denoiser=False)
    parser.add_argument("--n_samples", type=int, default=8, help="held-out images (default: 8)")
    args = parse_mechanism(parser)
    require(parser, args, n_samples=1)
    if args.hide_scores:
        parser.error("--hide_scores: compare.py takes both networks")
    return args


def latent_network(args, run, count: int, device):
    """The run's network under scores sampled from its newest latent model; None where there is none."""
    from train.generation import Sampling, unconditional_scores
    from train.latents import latent_files, load_latent

    if run is None or not latent_files(run):
        return None
    latent, _ = load_latent(run, None, device)
    sampling = Sampling(count, *run.model.best_sampling, seed=args.seed)
    return run.model.denoiser(unconditional_scores(latent, sampling, device)(range(count)))


def networks_of(network, x0) -> dict:
    """What training-free denoisers are compared with on noisy x0 (n, C, H, W): Denoisers by name."""
    from analysis.mechanism.common import hidden_network

    if network.run is None:
        return {"given": network.bind(x0)}
    model, networks = network.run.model, {"conditional": network.bind(x0)}
    return networks | ({"unconditional": hidden_network(model, len(x0))} if model.masked else {})


def draw_pictures(outputs: dict, levels, path):
    """The first image at a few levels across: itself made noisy, and what every denoiser makes of it."""
    import torch

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import picture_rows
    from train.images import to_uint8

    shown = torch.linspace(0, len(levels) - 1, min(SHOWN + 2, len(levels))).round().int().tolist()[1:-1] or [0]
    names = list(outputs[shown[0]])
    rows = [to_uint8(torch.stack([outputs[level][name][0] for level in shown])) for name in names]
    return save_figure(picture_rows(rows, names, [f"{levels[level]:.3g}" for level in shown]).figure, path)


def print_results(found, table, order) -> None:
    import numpy as np
    import pandas as pd

    for (images, network), part in table.groupby(["images", "network"], sort=False):
        wide = part.pivot(index="sigma", columns="denoiser", values=["difference", "standard_error"]).sort_index(
            ascending=False
        )
        names = part["denoiser"].unique()
        shown = {
            name: [
                f"{mean:.2e}" + ("" if np.isnan(error) else f" +- {error:.0e}")
                for mean, error in zip(wide["difference"][name], wide["standard_error"][name])
            ]
            for name in names
        }
        print(f"{network} network, {images} images:")
        print(pd.DataFrame(shown, index=wide.index).to_string())
    for line in order.itertuples():
        print(
            f"{line.nearer} nearer than {line.farther} ({line.network} network, {line.images}):"
            f" holds at {len(line.holds)} levels,"
            f" reversed at {len(line.reversed)}, undecided at {len(line.undecided)}"
        )
    if found.told is not None:
        print("bits an e-fold of noise:")
        print(found.told.round(2).to_string())


def main() -> None:
    args = parse_args()

    import torch

    from analysis.mechanism.common import (
        all_training_free,
        levels_of,
        network_of,
        one_line,
        open_data,
        patch_sizes,
        pixel_major,
        results_dir,
    )
    from analysis.mechanism.comparison import compare, conclusion, published_order, table_of
    from analysis.mechanism.drawing import draw_comparison
    from analysis.results import save_about, save_json, save_table
    from train.distributed import pick_device
    from train.images import to_tensor

    device, levels, sizes = pick_device(args.device), levels_of(args), patch_sizes(args)
    images, held_out = open_data(args, held_out=True)
    data, network = pixel_major(images, args, device), network_of(args, device)
    others = all_training_free(data, args, levels)
    x0 = to_tensor(held_out.pixels[: args.n_samples], device)
    with torch.no_grad():
        networks, latent = networks_of(network, x0), latent_network(args, network.run, len(x0), device)
    if latent is not None:
        others["network_latent"] = latent
    with one_line(f"--max_memory {args.max_memory}"):
        found = compare(networks, others, x0, levels, args.seed)
    table, order = table_of(found.rows), published_order(found.rows)

    folder = results_dir(args, "compare")
    file = save_table(folder / "compare.csv", table.set_index(["images", "network", "sigma", "denoiser"]))
    about = {"conclusion": conclusion(table), "training_images": len(data), "patch_sizes": sizes}
    save_json(folder / "compare.json", about | {"published_order": order.to_dict("records"), "rows": found.rows})
    if network.run:
        save_about(folder, network.run)
    curves = draw_comparison(table, sizes, found.told, folder / "compare")
    pictures = draw_pictures(found.outputs, levels, folder / "pictures")
    print_results(found, table, order)
    if found.told is not None:
        print(f"what is told: {save_table(folder / 'told.csv', found.told)}")
    print(conclusion(table))
    print(f"table: {file}; curves: {curves[0]}; pictures: {pictures[0]}")


if __name__ == "__main__":
    run_script(main)
