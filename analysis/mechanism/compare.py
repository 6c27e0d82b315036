"""How much of a trained denoiser is explained by patches alone? (Niedoba et al. 2025, Sec. 6, on one's own model)

Mean squared difference, at every noise level, between the network and each training-free denoiser: on held-out noisy images, and along the network's
own reverse trajectories. The network is given the scores of the held-out images; where a latent model exists, also sampled scores (network_latent,
compared as one more denoiser). Where the network can hide scores, also what is told at each level, in bits an e-fold of noise: by s (the gap between
the network that knows s and the one that knows nothing, see models/information.py), by patches of the training set (the squared error that they save
beside the Gaussian denoiser's), and what the network leaves. Writes compare.csv, told.csv, the curves with the window sizes, and a grid of pictures.
"""

import argparse

from analysis.training_free import mechanism_parser, parse_mechanism
from train.errors import run_script

SHOWN = 5  # levels in the grid of pictures


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__, denoiser=False)
    parser.add_argument("--n_samples", type=int, default=8, help="held-out images (default: 8)")
    args = parse_mechanism(parser)
    if args.n_samples < 1:
        parser.error("--n_samples must be at least 1")
    return args


def latent_network(args, count: int, device):
    """The run's network under scores sampled from its newest latent model; None where there is none."""
    from train.generation import Sampling, unconditional_scores
    from train.latents import latent_files, load_latent
    from train.runs import load_run

    if args.network_pkl:
        return None
    run = load_run(args.dataset, args.version_num, device)
    if not latent_files(run):
        return None
    latent, _ = load_latent(run, None, device)
    return run.model.denoiser(unconditional_scores(latent, Sampling(count, *run.model.best_sampling, seed=args.seed), device)(range(count)))


def nothing_known(args, count: int, device):
    """The run's network with every score hidden; None where it cannot."""
    import torch

    from models.patronus import HIDDEN
    from train.runs import load_run

    if args.network_pkl:
        return None
    model = load_run(args.dataset, args.version_num, device).model
    return model.denoiser(torch.full((count, len(model.encoder.prototypes)), HIDDEN, device=device)) if model.masked else None


def told(outputs: dict, nothing, x0, sigma) -> dict:
    """Bits an e-fold of noise of one level, the mean over images: outputs by name and `nothing`, like x0 (n, C, H, W); sigma (n,)."""
    from models.information import gap

    def bits(values):
        return values.flatten(1).sum(1).mean().item()

    best = min((name for name in outputs if name.startswith("pspc")), key=lambda name: (outputs[name] - x0).square().mean().item())
    s = gap(nothing, outputs["network"], x0, sigma)
    patches = gap(outputs["gaussian"], outputs[best], x0, sigma).errors
    return {"s": bits(s.squared), "s_check": bits(s.errors), "patches": bits(patches), "left": bits(gap(outputs["network"], x0, x0, sigma).squared)}


def differences(network, others: dict, z, sigma) -> tuple[dict, dict]:
    """-> (mean squared difference to the network by name, outputs by name)."""
    outputs = {"network": network(z, sigma)} | {name: denoiser(z, sigma) for name, denoiser in others.items()}
    return {name: (outputs[name] - outputs["network"]).square().mean().item() for name in others}, outputs


def draw_curves(table, sizes, bits, path):
    """The differences on both kinds of images; where there is a table of bits, what is told at each level."""
    from analysis.drawing.figures import plt, save_figure

    figure, axes = plt.subplots(1, 2 if bits is None else 3, figsize=(11 if bits is None else 16, 4), layout="constrained")
    axes[1].sharey(axes[0])
    if bits is not None:
        names = {
            "s": "s tells",
            "s_check": "s tells, by squared errors",
            "patches": "patches tell beyond the Gaussian",
            "left": "left by the network",
        }
        for name, style in zip(names, ("-", ":", "-", "--")):
            axes[2].plot(bits.index, bits[name].where(bits[name] > 0), style, marker=".", label=names[name])
        axes[2].set(xscale="log", yscale="log", xlabel="sigma (noise on the left)", ylabel="bits an e-fold of noise")
        axes[2].invert_xaxis()
        axes[2].set_title("what is told at each level", fontsize=9)
        axes[2].legend(fontsize=7)
    for axis, (kind, title) in zip(axes, (("noisy", "held-out noisy images"), ("trajectory", "the network's reverse trajectories"))):
        part = table[table["images"] == kind]
        for name, rows in part.groupby("denoiser", sort=False):
            axis.plot(rows["sigma"], rows["difference"], ".-", label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.invert_xaxis()
        axis.set_xlabel("sigma (noise on the left)")
        axis.set_title(title, fontsize=9)
        windows = axis.twinx()
        windows.step(part["sigma"].unique(), sizes, color="grey", alpha=0.4, where="mid")
        windows.set_ylabel("window side", color="grey")
    axes[0].set_ylabel("mean squared difference to the network")
    axes[0].legend(fontsize=7)
    return save_figure(figure, path)


def conclusion(table) -> str:
    """At which levels patches explain the network: by a twentieth closer than the Gaussian and the empirical denoiser."""
    wide = table[table["images"] == "noisy"].pivot(index="sigma", columns="denoiser", values="difference").sort_index(ascending=False)
    patches = wide[[column for column in wide if column.startswith("pspc")]].min(axis=1)
    ahead = wide.index[patches < 0.95 * wide[["gaussian", "empirical"]].min(axis=1)]
    if not len(ahead):
        return "patches explain the network at no noise level better than the Gaussian and the empirical denoiser do"
    levels = ", ".join(f"{sigma:.3g}" for sigma in ahead)
    ratio = (wide["gaussian"] / patches)[ahead].median()
    return (
        f"patches explain the network best at {len(ahead)} of {len(wide)} levels (sigma {levels}), there {ratio:.1f} times closer than the Gaussian"
    )


def main() -> None:
    args = parse_args()

    import pandas as pd
    import torch
    from tqdm import tqdm

    from analysis.drawing.figures import picture_rows, save_figure
    from analysis.drawing.results import save_about, save_json, save_table
    from analysis.training_free import levels_of, network_of, open_data, patch_sizes, pixel_major, results_dir, training_free
    from models.samplers import SeededNoise, euler
    from train.distributed import pick_device
    from train.images import to_tensor, to_uint8
    from train.runs import load_run

    device, levels, sizes = pick_device(args.device), levels_of(args), patch_sizes(args)
    images, held_out = open_data(args, held_out=True)
    data = pixel_major(images, args, device)
    names = ["empirical", "gaussian", "pspc_sq"] + (["pspc_flex"] if args.heatmaps else [])
    others = {name: training_free(name, data, args, levels) for name in tqdm(names, desc="preparing", leave=False)}
    x0 = to_tensor(held_out.pixels[: args.n_samples]).to(device)
    with torch.no_grad():
        network, nothing = network_of(args, device)(x0), nothing_known(args, len(x0), device)
        latent = latent_network(args, len(x0), device)
    if latent is not None:
        others["network_latent"] = latent
    noise = levels[0].float() * SeededNoise(range(args.seed, args.seed + len(x0)), x0.shape[1:], device)()
    states = [noise]
    for index in range(len(levels) - 1):  # along the network's own way
        states.append(euler(network, states[-1], levels[index : index + 2]))

    rows, kept, bits = [], {}, []
    with torch.no_grad():
        for index, level in enumerate(tqdm(levels, desc="levels", unit="level")):
            seeds = [(args.seed * args.n_steps + index) * 2**20 + i for i in range(len(x0))]
            noisy = x0 + level.float() * SeededNoise(seeds, x0.shape[1:], device)()
            for kind, z in (("noisy", noisy), ("trajectory", states[index])):
                found, outputs = differences(network, others, z, level.to(z).expand(len(z)))
                rows += [{"images": kind, "sigma": level.item(), "denoiser": name, "difference": value} for name, value in found.items()]
                if kind == "noisy":
                    kept[index] = {"noisy": z} | outputs
                    if nothing is not None:
                        sigma = level.to(z).expand(len(z))
                        bits.append({"sigma": level.item()} | told(outputs, nothing(z, sigma), x0, sigma))
    table = pd.DataFrame(rows)
    folder = results_dir(args, "compare")
    file = save_table(folder / "compare.csv", table.set_index(["images", "sigma", "denoiser"]))
    save_json(folder / "compare.json", {"conclusion": conclusion(table)})
    if not args.network_pkl:
        save_about(folder, load_run(args.dataset, args.version_num))
    bits = pd.DataFrame(bits).set_index("sigma") if bits else None
    files = draw_curves(table, sizes, bits, folder / "compare")
    shown = torch.linspace(0, len(levels) - 1, min(SHOWN + 2, len(levels))).round().int().tolist()[1:-1] or [0]
    labels = list(kept[shown[0]])
    figure, _ = picture_rows(
        [to_uint8(torch.stack([kept[i][name][0] for i in shown])) for name in labels], labels, [f"{levels[i]:.3g}" for i in shown]
    )
    pictures = save_figure(figure, folder / "pictures")

    wide = table.pivot(index=["images", "sigma"], columns="denoiser", values="difference").sort_index(ascending=[True, False])
    print(wide[[name for name in others]].map(lambda value: f"{value:.2e}").to_string())
    print(conclusion(table))
    if bits is not None:
        print("bits an e-fold of noise:")
        print(bits.round(2).to_string())
        print(f"what is told: {save_table(folder / 'told.csv', bits)}")
    print(f"table: {file}; curves: {files[0]}; pictures: {pictures[0]}")


if __name__ == "__main__":
    run_script(main)
