"""Do training-free denoisers draw the images that the network draws? (Niedoba et al. 2025; Lukoianov et al. 2025)

From the same noise, one seed an image, every denoiser follows its own probability-flow ODE (Euler, the levels of
--n_steps): the network, with all scores hidden where the run was trained for it, and each training-free denoiser.
Similarity to the network's sample of the same noise: cosine of EfficientNet-lite0 features less their mean over all
samples (pip install -e .[features]; left out without it), and correlation of pixels. The last line of the table is
chance: the network's samples of different noise. Writes agree.csv and agree.json, with every image's similarity,
samples.npy (denoisers, n, C, H, W), and a grid of samples, one noise a column. Finished
denoisers survive an interruption.
"""

import argparse

from analysis.mechanism.options import mechanism_parser, parse_mechanism
from train.errors import UserError, run_script

SHOWN = 10  # columns of the grid


def parse_args() -> argparse.Namespace:
    parser = mechanism_parser(__doc__, denoiser=False)
    parser.add_argument("--n_samples", type=int, default=16, help="samples of each denoiser (default: 16)")
    parser.add_argument("--batch", type=int, default=16, help="samples drawn together (default: 16)")
    args = parse_mechanism(parser)
    if args.n_samples < 2 or args.batch < 1:
        parser.error("--n_samples must be at least 2, --batch at least 1")
    return args


def main() -> None:
    args = parse_args()

    import numpy as np
    import torch

    from analysis.drawing.figures import picture_rows, save_figure
    from analysis.mechanism.agreement import features_of, similarities, table_of
    from analysis.mechanism.batches import in_batches
    from analysis.mechanism.common import all_training_free, levels_of, network_of, open_data, pixel_major, results_dir
    from analysis.results import save_about, save_json, save_table
    from models.samplers import SeededNoise, euler
    from train.distributed import pick_device
    from train.images import to_tensor, to_uint8

    device, levels = pick_device(args.device), levels_of(args)
    data, images = open_data(args)
    major, folder = pixel_major(data, args, device), results_dir(args, "agree")
    _, h, w, c = images.pixels.shape
    sigmas = torch.cat([levels, levels.new_zeros(1)])
    network = network_of(args, device)
    args.hide_scores = network.run is not None and network.run.model.masked
    bind = network_of(args, device).bind
    settings = {key: value for key, value in vars(args).items() if key not in ("outdir", "device")} | {
        "images": len(data)
    }

    denoisers = {"network": None} | all_training_free(major, args, levels)
    names = list(denoisers)

    def draw(name: str, first: int, end: int):
        z = levels[0].float() * SeededNoise(range(args.seed + first, args.seed + end), (c, h, w), device)()
        shown = to_tensor(images.pixels[[i % len(images) for i in range(first, end)]], device)
        return euler(denoisers[name] or bind(shown), z, sigmas).cpu().numpy()

    def draw_all(index: int, _: int):
        starts = range(0, args.n_samples, args.batch)
        try:
            parts = [draw(names[index], start, min(start + args.batch, args.n_samples)) for start in starts]
        except ValueError as error:
            raise UserError(error) from None
        return np.concatenate(parts)[None]  # (1, n, C, H, W)

    samples = dict(zip(names, in_batches(folder / "samples.npy", settings, len(names), 1, draw_all, "denoisers")))
    pixels = {name: to_uint8(torch.from_numpy(made)) for name, made in samples.items()}
    found = {
        "pixels": similarities({name: made.reshape(len(made), -1) for name, made in samples.items()}, centre=False)
    }
    features = features_of(pixels, device)
    if features is None:
        print("features: left out; install them with: pip install -e .[features]")
    else:
        found["features"] = similarities(features, centre=True)
    table = table_of(found)
    file = save_table(folder / "agree.csv", table)
    save_json(
        folder / "agree.json",
        {"training_images": len(major), "hidden": args.hide_scores, "denoisers": names, "similarities": found},
    )
    if network.run:
        save_about(folder, network.run)
    columns = min(SHOWN, args.n_samples)
    picture = save_figure(picture_rows([made[:columns] for made in pixels.values()], list(pixels))[0], folder / "agree")
    print(table.round(3).to_string())
    print(f"table: {file}; samples: {picture[0]} and {folder / 'samples.npy'}")


if __name__ == "__main__":
    run_script(main)
