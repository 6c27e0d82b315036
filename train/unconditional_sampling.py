"""Sample images with no image at all: scores from the latent model, images from those scores.

PNGs alone in records/FID/uncond_<dataset>_<version>/run_<k>/, ready for FID. Image i has seed --seed + i, for its scores and its pixels, so batch
size, number of processes and interruptions change nothing; the same sampler, steps and eta serve both. Train the latent model first:
train/train_latent_ddim.py.
"""

from train.errors import run_script
from train.generation import generate, parse_sampling, sampling_parser, unconditional_scores


def main() -> None:
    parser = sampling_parser(__doc__)
    parser.add_argument("--latent_version", type=int, metavar="L", help="version of the latent model (default: the newest)")
    args, sampling = parse_sampling(parser)

    from train import distributed
    from train.latents import load_latent
    from train.runs import load_run

    device = distributed.pick_device(args.device)
    rank, world = distributed.start(device)
    try:
        run = load_run(args.dataset, args.version_num, device)
        latent, version = load_latent(run, args.latent_version, device)
        about = {"latent_version": version}
        scores_of = unconditional_scores(latent, sampling, device)
        folder = generate(run, "uncond", sampling, about, scores_of, device, args.run, args.batch, rank, world)
    finally:
        distributed.stop(world)
    if rank == 0:
        print(f"next: python analysis/evaluation/fid.py --images {folder} --dataset {run.name} --version_num {run.version}")


if __name__ == "__main__":
    run_script(main)
