"""Reconstruction and variation (Weng et al. 2026, Fig. 3): what comes back from s and x_T, and from s alone.

Inverts test images under their own scores and regenerates them from their own x_T (PSNR and SSIM printed, with the number of network calls)
and from random noise. Results go to records/reconstruct/<dataset>_v<n>/.
"""

import argparse

from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="name of the run's data set (default: that of the newest run)")
    parser.add_argument("--version_num", type=int, help="version of the run (default: the newest)")
    parser.add_argument("--num_samples", type=int, default=64, help="test images for the numbers; the first 8 are drawn (default: 64)")
    parser.add_argument("--steps", type=int, default=18, help="Heun steps each way (default: 18)")
    parser.add_argument("--variations", type=int, default=3, help="rows of random x_T in the figure (default: 3)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.num_samples < 1 or args.steps < 2 or args.variations < 0:
        parser.error("--num_samples must be at least 1, --steps at least 2, --variations at least 0")
    return args


def main() -> None:
    args = parse_args()

    import json

    import numpy as np
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    from analysis.edits import encode_and_invert, regenerate
    from analysis.figures import panel, panels, save_figure
    from global_config import RECORDS_DIR
    from models.samplers import SeededNoise
    from train.data.dataset import load_split
    from train.distributed import pick_device
    from train.images import replace_file, to_tensor, to_uint8
    from train.runs import load_run

    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    try:
        sigmas = run.model.sigmas(args.steps)
    except ValueError as error:
        raise UserError(f"--steps: {error}") from None
    test = load_split(run.config.data, "test")
    count = min(args.num_samples, len(test))
    pixels = np.array(test.pixels[:count])
    own, rows = [], []
    for start in range(0, count, 64):
        x0 = to_tensor(pixels[start : start + 64]).to(device)
        encoding = encode_and_invert(run.model, x0, args.steps)
        own.append(to_uint8(regenerate(run.model, encoding.noise, encoding.scores, args.steps)))
        if start == 0:
            shown = min(8, count)
            s = encoding.scores[:shown]
            for variation in range(args.variations):
                noise = SeededNoise(range(variation * shown, (variation + 1) * shown), x0.shape[1:], device)()
                rows.append(to_uint8(regenerate(run.model, sigmas[0].float() * noise, s, args.steps)))
    own = np.concatenate(own)
    psnr = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(pixels, own)]
    ssim = [structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in zip(pixels, own)]
    calls = 2 * (args.steps - 1) + 2 * args.steps - 1
    varied = [np.mean([peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(pixels, row)]) for row in rows]
    numbers = {"images": count, "steps": args.steps, "network_calls": calls, "psnr": float(np.mean(psnr)), "ssim": float(np.mean(ssim))}
    numbers |= {"psnr_random_noise": float(np.mean(varied)) if varied else None}

    figure, axes = panels(2 + len(rows), shown)
    labels = ["original", "own noise", *[f"noise {i}" for i in range(len(rows))]]
    for line, (label, images) in enumerate(zip(labels, [pixels[:shown], own[:shown], *rows])):
        for column in range(shown):
            panel(axes[line, column], images[column])
        axes[line, 0].set_ylabel(label, fontsize=8)
    folder = RECORDS_DIR / "reconstruct" / f"{run.name}_v{run.version}"
    files = save_figure(figure, folder / "reconstruct")
    replace_file(folder / "reconstruct.json", lambda file: file.write_text(json.dumps(numbers, indent=1)))
    replace_file(folder / "reconstruct.npz", lambda file: np.savez_compressed(file, original=pixels, own_noise=own, random_noise=np.array(rows)))
    random_part = f"; from random noise PSNR {numbers['psnr_random_noise']:.1f} dB" if varied else ""
    print(f"{count} images, {calls} network calls: PSNR {numbers['psnr']:.1f} dB, SSIM {numbers['ssim']:.3f}{random_part}")
    print(f"figure: {files[0]} and .pdf; numbers: {folder / 'reconstruct.json'}; arrays: {folder / 'reconstruct.npz'}")


if __name__ == "__main__":
    run_script(main)
