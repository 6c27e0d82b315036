"""How much of a trained denoiser is explained by patches alone? (Niedoba et al. 2025, Sec. 6, on one's own model)

Mean squared difference, at every noise level, between the network and each training-free denoiser: on held-out noisy
images, and along the network's own reverse trajectories. Two networks where the run was trained to do without scores:
conditional, given the scores of the held-out images, and unconditional, with all scores hidden, which knows as much as
a training-free denoiser does; the distance between both is what s adds. Where a latent model exists, also the network
under sampled scores (network_latent, as one more denoiser). What s adds is told in bits an e-fold of noise as well,
beside what patches of the training set add to the Gaussian denoiser, and what the network leaves.

Writes compare.csv (means and standard errors over images), compare.json (every image's difference, where the published
order of denoisers holds), told.csv, the curves with the window sizes, and a grid of pictures.
"""

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from train.errors import UserError, run_script

SHOWN = 5  # levels in the grid of pictures


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__, denoiser=False)
    parser.add_argument("--n_samples", type=int, default=8, help="held-out images (default: 8)")
    args = parse_mechanism(parser)
    if args.n_samples < 1:
        parser.error("--n_samples must be at least 1")
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


def print_results(found, table, order) -> None:
    import pandas as pd

    for (images, network), part in table.groupby(["images", "network"], sort=False):
        wide = part.pivot(index="sigma", columns="denoiser", values=["difference", "standard_error"]).sort_index(
            ascending=False
        )
        names = part["denoiser"].unique()
        shown = {
            name: [f"{m:.2e} +- {e:.0e}" for m, e in zip(wide["difference"][name], wide["standard_error"][name])]
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

    from analysis.drawing.figures import picture_rows, save_figure
    from analysis.mechanism.common import (
        all_training_free,
        hidden_network,
        levels_of,
        network_of,
        open_data,
        patch_sizes,
        pixel_major,
        results_dir,
    )
    from analysis.mechanism.comparison import compare, conclusion, published_order, table_of
    from analysis.mechanism.drawing import draw_comparison
    from analysis.results import save_about, save_json, save_table
    from train.distributed import pick_device
    from train.images import to_tensor, to_uint8

    device, levels, sizes = pick_device(args.device), levels_of(args), patch_sizes(args)
    images, held_out = open_data(args, held_out=True)
    data, network = pixel_major(images, args, device), network_of(args, device)
    others = all_training_free(data, args, levels)
    x0 = to_tensor(held_out.pixels[: args.n_samples], device)
    with torch.no_grad():
        networks = {"conditional" if network.run else "given": network.bind(x0)}
        if network.run and network.run.model.masked:
            networks["unconditional"] = hidden_network(network.run.model, len(x0))
        latent = latent_network(args, network.run, len(x0), device)
    if latent is not None:
        others["network_latent"] = latent
    try:
        found = compare(networks, others, x0, levels, args.seed)
    except ValueError as error:
        raise UserError(error) from None

    folder, table, order = results_dir(args, "compare"), table_of(found.rows), published_order(found.rows)
    file = save_table(folder / "compare.csv", table.set_index(["images", "network", "sigma", "denoiser"]))
    about = {"conclusion": conclusion(table), "training_images": len(data), "patch_sizes": sizes}
    save_json(folder / "compare.json", about | {"published_order": order.to_dict("records"), "rows": found.rows})
    if network.run:
        save_about(folder, network.run)
    files = draw_comparison(table, sizes, found.told, folder / "compare")
    shown = torch.linspace(0, len(levels) - 1, min(SHOWN + 2, len(levels))).round().int().tolist()[1:-1] or [0]
    labels = list(found.outputs[shown[0]])
    grid = [to_uint8(torch.stack([found.outputs[i][name][0] for i in shown])) for name in labels]
    pictures = save_figure(picture_rows(grid, labels, [f"{levels[i]:.3g}" for i in shown])[0], folder / "pictures")
    print_results(found, table, order)
    if found.told is not None:
        print(f"what is told: {save_table(folder / 'told.csv', found.told)}")
    print(conclusion(table))
    print(f"table: {file}; curves: {files[0]}; pictures: {pictures[0]}")


if __name__ == "__main__":
    run_script(main)
