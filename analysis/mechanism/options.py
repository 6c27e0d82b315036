"""The options that the programs on training-free denoisers share."""

import argparse

from analysis.script import require
from train.versions import add_run_options

SAME = (  # options that two programs must share to speak of the same data, noise levels and network
    *("data", "image_size", "xflip", "n_steps", "t_max", "t_min", "rho", "dataset", "version_num"),
    *("hide_scores", "network_pkl", "edm_repo", "trust_pickle"),
)
NAMES = ("empirical", "network", "gaussian", "pspc_sq", "pspc_flex", "locality")


def mechanism_parser(doc: str, denoiser: bool = True) -> argparse.ArgumentParser:
    """Options of data, noise levels and denoisers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if denoiser:
        parser.add_argument("--denoiser", default="pspc_sq", choices=NAMES, help="default: %(default)s")
    parser.add_argument("--data", help="EDM zip or folder, name in configs/, or YAML (default: the run's data)")
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="read the data at this size (default: their own)"
    )
    parser.add_argument(
        "--xflip", type=_boolean, default=True, metavar="BOOL", help="count mirror images as data (default: true)"
    )
    parser.add_argument("--n_steps", type=int, default=18, help="noise levels (default: 18)")
    parser.add_argument("--t_max", type=float, default=80.0, help="highest noise level (default: 80)")
    parser.add_argument("--t_min", type=float, default=0.002, help="lowest noise level (default: 0.002)")
    parser.add_argument(
        "--rho", type=float, default=7.0, help="spacing of the noise levels, of Karras et al. 2022 (default: 7)"
    )
    parser.add_argument("--rank", type=int, help="directions of gaussian and locality (default: all)")
    parser.add_argument(
        "--patch_sizes",
        metavar="32,23,...",
        help="of pspc_sq: window side a level, or the JSON of fit_schedule.py (default: CIFAR-10's)",
    )
    parser.add_argument("--heatmaps", metavar="FILE.npy", help="heat maps of pspc_flex, (levels, H, W, H, W)")
    parser.add_argument(
        "--thresholds",
        metavar="1,0.7,...",
        help="of pspc_flex: share a level, or the JSON of fit_schedule.py (default: CIFAR-10's)",
    )
    text = "where a filter's entry joins a mask of locality, as a share of the largest (default: 0.02)"
    parser.add_argument("--mask_threshold", type=float, default=0.02, metavar="SHARE", help=text)
    add_run_options(parser, of="the network's run")
    parser.add_argument(
        "--hide_scores",
        action="store_true",
        help="let the network of a run of ours know no score of an image; compare.py and agree.py do so of themselves",
    )
    parser.add_argument("--network_pkl", metavar="FILE", help="an EDM checkpoint instead of a run of ours")
    parser.add_argument("--edm_repo", metavar="FOLDER", help="your clone of the EDM code, which such a pickle needs")
    parser.add_argument("--trust_pickle", action="store_true", help="let that pickle run the code it carries")
    parser.add_argument(
        "--max_memory", type=float, default=4.0, metavar="GB", help="bound of data and temporaries (default: 4)"
    )
    parser.add_argument(
        "--outdir", metavar="FOLDER", help="results go to this very folder (default: below records/mechanism/)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser


def parse_mechanism(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    require(parser, args, n_steps=2, rank=1, seed=0, image_size=8)
    if not 0 <= args.mask_threshold < 1:
        parser.error(f"--mask_threshold must lie in [0, 1), not {args.mask_threshold:g}")
    if not 0 < args.t_min < args.t_max or args.rho <= 0 or args.max_memory <= 0:
        parser.error("--t_min must lie between 0 and --t_max; --rho and --max_memory must be positive")
    return args


def same_options(args: argparse.Namespace) -> list[str]:
    """Those of SAME that were given, for the command line of the next program."""
    default, words = mechanism_parser("").get_default, []
    for name in SAME:
        value = getattr(args, name)
        if value != default(name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{text}: must be true or false")
    return text.lower() in ("true", "1", "yes")
