"""Do training-free denoisers draw the images that the network draws? (Niedoba et al. 2025; Lukoianov et al. 2025)

From the same noise, one seed an image, every denoiser follows its own probability-flow ODE (Euler, the levels of
--n_steps): the network, with all scores hidden where the run was trained for it, and each training-free denoiser.
Similarity to the network's sample of the same noise: cosine of EfficientNet-lite0 features less their mean over all
samples (pip install -e .[features]; left out without it), and correlation of pixels. The last line of the table is
chance: the network's samples of different noise. Finished denoisers survive an interruption.

Writes agree.csv and agree.json, with every image's similarity, samples.npy (denoisers, n, C, H, W), and a grid of
samples, one noise a column, to records/mechanism/agree/. For the schedules and heat maps see fit_schedule.py and
heatmaps.py; tables.py prints the results in Markdown.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from analysis.script import require
from train.errors import run_script

SHOWN = 10  # columns of the grid


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__, denoiser=False)
    parser.add_argument("--n_samples", type=int, default=16, help="samples of each denoiser (default: 16)")
    parser.add_argument("--batch", type=int, default=16, help="samples drawn together (default: 16)")
    args = parse_mechanism(parser)
    require(parser, args, n_samples=2, batch=1)
    return args


def draw_all(args, network, denoisers: dict, images, *, levels, folder, settings, device) -> dict:
    """Samples (n, C, H, W) of the network and of every training-free Denoiser by name, from the same noise; images: the
    ImageSet whose scores the network is given."""
    import numpy as np
    import torch

    from analysis.mechanism.batches import in_batches
    from analysis.mechanism.common import one_line, shown
    from models.samplers import SeededNoise, euler

    names, sigmas = ["network", *denoisers], torch.cat([levels, levels.new_zeros(1)])
    _, h, w, c = images.pixels.shape

    def draw(name: str, first: int, end: int):
        z = levels[0].float() * SeededNoise(range(args.seed + first, args.seed + end), (c, h, w), device)()
        denoiser = denoisers[name] if name in denoisers else network.bind(shown(images, first, end, device))
        with one_line(name):
            return euler(denoiser, z, sigmas).cpu().numpy()

    def samples_of(index: int, _: int):
        starts = range(0, args.n_samples, args.batch)
        parts = [draw(names[index], start, min(start + args.batch, args.n_samples)) for start in starts]
        return np.concatenate(parts)[None]  # (1, n, C, H, W)

    return dict(zip(names, in_batches(folder / "samples.npy", settings, len(names), 1, samples_of, "denoisers")))


def compare(samples: dict, pixels: dict, device) -> dict:
    """Similarity of every image to the network's, by kind and denoiser; pixels: the samples as uint8 (n, H, W, C)."""
    from analysis.mechanism.agreement import features_of, similarities

    found = {"pixels": similarities({name: x.reshape(len(x), -1) for name, x in samples.items()}, centre=False)}
    features = features_of(pixels, device)
    if features is None:
        print("features: left out; install them with: pip install -e .[features]")
        return found
    return found | {"features": similarities(features, centre=True)}


def main() -> None:
    args = parse_args()

    import torch

    from analysis.drawing.figures import save_figure
    from analysis.drawing.sheet import picture_rows
    from analysis.mechanism.agreement import table_of
    from analysis.mechanism.batches import settings_of
    from analysis.mechanism.common import all_training_free, levels_of, network_of, open_data, pixel_major, results_dir
    from analysis.results import save_about, save_json, save_table
    from train.distributed import pick_device
    from train.images import to_uint8

    device, levels = pick_device(args.device), levels_of(args)
    data, images = open_data(args)
    major, folder, network = pixel_major(data, args, device), results_dir(args, "agree"), network_of(args, device)
    args.hide_scores = network.run is not None and network.run.model.masked
    denoisers = all_training_free(major, args, levels)
    samples = draw_all(
        args, network, denoisers, images,
        levels=levels, folder=folder, settings=settings_of(args, data), device=device,
    )  # fmt: skip
    pixels = {name: to_uint8(torch.from_numpy(x)) for name, x in samples.items()}
    found = compare(samples, pixels, device)

    table, about = table_of(found), {"training_images": len(major), "hidden": args.hide_scores}
    file = save_table(folder / "agree.csv", table)
    save_json(folder / "agree.json", about | {"denoisers": list(samples), "similarities": found})
    if network.run:
        save_about(folder, network.run)
    picture = save_figure(picture_rows([x[:SHOWN] for x in pixels.values()], list(pixels)).figure, folder / "agree")
    print(table.round(3).to_string())
    print(f"table: {file}; samples: {picture[0]} and {folder / 'samples.npy'}")


if __name__ == "__main__":
    run_script(main)
