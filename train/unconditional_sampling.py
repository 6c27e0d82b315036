"""Sample images with no image at all: scores from the latent model, images from those scores.

Train the latent model first: train/train_latent_ddim.py. PNGs alone go to
records/FID/uncond_<dataset>_<version>/run_<k>/, ready for analysis/evaluation/fid.py --kind uncond. Image i has seed
--seed + i, for its scores and its pixels, so batch size, number of processes and interruptions change nothing.

--sampler and --eta are of the pixels; scores are sampled by Heun's method, in 18 steps at least. A latent model of the
published formulation samples its scores by --sampler and --eta too.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

from train.errors import run_script
from train.generation import parse_sampling, sample_run, sampling_parser, unconditional_scores


def main() -> None:
    parser = sampling_parser(__doc__)
    parser.add_argument(
        "--latent_version", type=int, metavar="L", help="version of the latent model (default: the newest)"
    )
    args = parse_sampling(parser)

    from train.latents import load_latent

    def prepare(run, sampling, device, rank, world):
        latent, version = load_latent(run, args.latent_version, device)
        return {"latent_version": version}, unconditional_scores(latent, sampling, device)

    sample_run(args, "uncond", prepare)


if __name__ == "__main__":
    run_script(main)
