"""Sample images from the scores of real test images: PNGs alone in records/FID/cond_<dataset>_<version>/run_<k>/, ready for FID.

Image i has seed --seed + i and the scores of test image i (beginning anew after the last), so batch size, number of processes and
interruptions change nothing. `torchrun --nproc_per_node N train/conditional_sampling.py ...` shares the work.
"""

from train.errors import run_script
from train.generation import conditional_scores, generate, parse_sampling, sampling_parser


def main() -> None:
    parser = sampling_parser(__doc__)
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="whose scores (default: test)")
    args, sampling = parse_sampling(parser)

    from train import distributed
    from train.data.dataset import load_split
    from train.runs import load_run

    device = distributed.pick_device(args.device)
    rank, world = distributed.start(device)
    try:
        run = load_run(args.dataset, args.version_num, device)
        images = distributed.first_process_first(lambda: load_split(run.config.data, args.split), rank, world)
        scores_of = conditional_scores(run, images, device)
        folder = generate(run, "cond", sampling, {"split": args.split}, scores_of, device, args.run, args.batch, rank, world)
    finally:
        distributed.stop(world)
    if rank == 0:
        print(f"next: python analysis/evaluation/fid.py --images {folder} --dataset {run.name} --version_num {run.version}")


if __name__ == "__main__":
    run_script(main)
