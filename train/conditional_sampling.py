"""Sample images from the scores of real test images: PNGs alone in records/FID/cond_<dataset>_<version>/run_<k>/, ready
for analysis/evaluation/fid.py.

Image i has seed --seed + i and the scores of test image i (beginning anew after the last), so batch size, number of
processes and interruptions change nothing. `torchrun --nproc_per_node N train/conditional_sampling.py ...` shares the
work.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

from train.errors import run_script
from train.generation import conditional_scores, parse_sampling, sample_run, sampling_parser


def main() -> None:
    parser = sampling_parser(__doc__)
    parser.add_argument(
        "--split", default="test", choices=["train", "val", "test"], help="whose scores (default: test)"
    )
    args = parse_sampling(parser)

    from train.data.dataset import load_split
    from train.distributed import first_process_first

    def prepare(run, sampling, device, rank, world):
        images = first_process_first(lambda: load_split(run.config.data, args.split), rank, world)
        return {"split": args.split}, conditional_scores(run, images, device)

    sample_run(args, "cond", prepare)


if __name__ == "__main__":
    run_script(main)
