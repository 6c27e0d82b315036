"""What the programs on training-free denoisers share: their data, the denoisers by name, and long work kept batch by batch."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from analysis.script import require
from train.errors import UserError, listed
from train.versions import version_number

NAMES = ("empirical", "network", "gaussian", "pspc_sq", "pspc_flex")


def mechanism_parser(doc: str, denoiser: bool = True) -> argparse.ArgumentParser:
    """Options of data, noise levels and denoisers."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if denoiser:
        parser.add_argument("--denoiser", default="pspc_sq", choices=NAMES, help="default: %(default)s")
    parser.add_argument("--data", help="EDM zip or folder, name in configs/, or YAML (default: the newest run's data)")
    parser.add_argument("--xflip", type=_boolean, default=True, metavar="BOOL", help="count mirror images as data (default: true)")
    parser.add_argument("--n_steps", type=int, default=18, help="noise levels (default: 18)")
    parser.add_argument("--t_max", type=float, default=80.0, help="highest noise level (default: 80)")
    parser.add_argument("--t_min", type=float, default=0.002, help="lowest noise level (default: 0.002)")
    parser.add_argument("--rho", type=float, default=7.0, help="of Karras et al. 2022 (default: 7)")
    parser.add_argument("--rank", type=int, help="directions of gaussian (default: all)")
    parser.add_argument("--patch_sizes", metavar="32,23,...", help="window side a level, or the JSON of fit_schedule.py (default: CIFAR-10's)")
    parser.add_argument("--heatmaps", metavar="FILE.npy", help="heat maps of pspc_flex, (levels, H, W, H, W)")
    parser.add_argument("--thresholds", metavar="1,0.7,...", help="share a level, or the JSON of fit_schedule.py (default: CIFAR-10's)")
    parser.add_argument("--dataset", help="run of the network (default: the newest)")
    parser.add_argument("--version_num", type=version_number, help="version of that run (default: the newest)")
    parser.add_argument("--network_pkl", metavar="FILE", help="an EDM checkpoint instead of a run of ours")
    parser.add_argument("--edm_repo", metavar="FOLDER", help="your clone of the EDM code, which such a pickle needs")
    parser.add_argument("--trust_pickle", action="store_true", help="let that pickle run the code it carries")
    parser.add_argument("--max_memory", type=float, default=4.0, metavar="GB", help="bound of data and temporaries (default: 4)")
    parser.add_argument("--outdir", metavar="FOLDER", help="where results go (default: below records/mechanism/)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser


def parse_mechanism(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    require(parser, args, n_steps=2, rank=1, seed=0)
    if not 0 < args.t_min < args.t_max or args.rho <= 0 or args.max_memory <= 0:
        parser.error("--t_min must lie between 0 and --t_max; --rho and --max_memory must be positive")
    return args


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"{text}: must be true or false")
    return text.lower() in ("true", "1", "yes")


def data_config(args):
    """-> (DataConfig, whether it is an archive, whose every image is data). Raises UserError."""
    from PIL import Image

    from global_config import REPO_DIR
    from train.config import DataConfig, load_config
    from train.data.files import edm
    from train.runs import load_run

    if args.data is None:
        return load_run(args.dataset, args.version_num).config.data, False
    named = REPO_DIR / "configs" / f"{args.data}.yaml"
    if named.is_file() or args.data.endswith((".yaml", ".yml")):
        return load_config(named if named.is_file() else args.data).data, False
    if not Path(args.data).exists():
        known = sorted(path.stem for path in (REPO_DIR / "configs").glob("*.yaml"))
        raise UserError(f"--data {args.data}: neither a file or folder nor a name in configs/: {listed(known, 20)}")
    probe = DataConfig(source="edm", path=str(Path(args.data).resolve()), image_size=8, channels=3)
    first = edm(probe).load(0)
    grey = isinstance(first, Image.Image) and first.mode in ("1", "L", "LA", "I", "I;16")
    return probe.model_copy(update={"image_size": first.size[0], "channels": 1 if grey else 3}), True


def open_data(args, held_out: bool = False):
    """-> (ImageSet of the data, ImageSet of images to be made noisy). An archive is all data, and both, unless held_out; else train and test."""
    from train.data.dataset import load_all, load_split

    config, archive = data_config(args)
    if archive and not held_out:
        images = load_all(config)
        return images, images
    return load_split(config, "train"), load_split(config, "test" if held_out else "train")


def levels_of(args):
    """The falling noise levels (n_steps,), float64."""
    from models.schedule import karras_sigmas

    return karras_sigmas(args.n_steps, args.t_min, args.t_max, args.rho)[:-1]


def _listed_numbers(text: str | None, key: str, published, args) -> list[float]:
    """A schedule from its option: numbers, the JSON of fit_schedule.py, or the published one. Raises UserError."""
    option = f"--{key}"
    if text is None:
        if args.n_steps != len(published):
            raise UserError(f"{option}: the published schedule has {len(published)} levels, not {args.n_steps}; give {args.n_steps} numbers")
        return list(published)
    try:
        numbers = json.loads(Path(text).read_text())[key] if text.endswith(".json") else [float(part) for part in text.split(",")]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{option} {text}: must be numbers separated by commas or a JSON file of fit_schedule.py") from None
    if len(numbers) != args.n_steps:
        raise UserError(f"{option}: {len(numbers)} numbers for {args.n_steps} noise levels; give one a level")
    return numbers


def patch_sizes(args) -> list[int]:
    from models.pspc import PUBLISHED_SIZES

    sizes = _listed_numbers(args.patch_sizes, "patch_sizes", PUBLISHED_SIZES, args)
    if any(size != int(size) for size in sizes):
        raise UserError(f"--patch_sizes {args.patch_sizes}: must be whole numbers")
    return [int(size) for size in sizes]


def load_heatmaps(path: str | None):
    """(L, H, W, H, W) float32. Raises UserError."""
    import numpy as np
    import torch

    from analysis.drawing.results import read_array

    if path is None:
        raise UserError("--heatmaps: pspc_flex needs heat maps; make them with: python analysis/mechanism/heatmaps.py")
    maps = read_array(path, "--heatmaps")
    if maps.ndim != 5 or not np.issubdtype(maps.dtype, np.floating) or not np.isfinite(maps).all() or (maps < 0).any():
        raise UserError(f"--heatmaps {path}: must be non-negative numbers of shape (levels, H, W, H, W), not {maps.dtype} {maps.shape}")
    return torch.from_numpy(maps.astype(np.float32))


def edm_network(args, device):
    """The denoiser of an EDM checkpoint, which is a pickle that carries its own source code. Raises UserError."""
    import pickle
    import sys

    if not args.trust_pickle:
        raise UserError(
            f"--network_pkl {args.network_pkl}: such a pickle runs code it carries when loaded; give --trust_pickle if you trust its origin"
        )
    if args.edm_repo:
        if not Path(args.edm_repo).is_dir():
            raise UserError(f"--edm_repo {args.edm_repo}: no such folder")
        sys.path.insert(0, str(args.edm_repo))
    try:
        with open(args.network_pkl, "rb") as file:
            network = pickle.load(file)["ema"]  # only behind --trust_pickle
    except ModuleNotFoundError as error:
        raise UserError(f"--network_pkl {args.network_pkl}: needs the module {error.name}; give your clone of the EDM code as --edm_repo") from None
    except Exception as error:
        raise UserError(f"--network_pkl {args.network_pkl}: cannot be loaded ({type(error).__name__}: {str(error)[:80]})") from None
    network = network.to(device).eval().requires_grad_(False)
    return lambda z, sigma: network(z, sigma).float()


def network_of(args, device):
    """images (n, C, H, W) -> the network's Denoiser for their noisy versions: a run's under their scores, an EDM network's for all."""
    from train.runs import load_run

    if args.network_pkl:
        network = edm_network(args, device)
        return lambda images: network
    run = load_run(args.dataset, args.version_num, device)
    data = run.config.data

    def bind(images):
        if tuple(images.shape[1:]) != (data.channels, data.image_size, data.image_size):
            raise UserError(
                f"the run {run.name} is of {data.channels}x{data.image_size}x{data.image_size} images, the data of {tuple(images.shape[1:])}"
            )
        return run.model.denoiser(run.model.score(images))

    return bind


def training_free(name: str, data, args, levels):
    """A training-free Denoiser by name, over PixelMajor data. Raises UserError."""
    from models.pspc import PUBLISHED_THRESHOLDS, PSPCFlex, PSPCSquare
    from models.training_free import EmpiricalDenoiser, GaussianDenoiser

    try:
        if name == "empirical":
            return EmpiricalDenoiser(data)
        if name == "gaussian":
            return GaussianDenoiser(data, args.rank)
        if name == "pspc_sq":
            return PSPCSquare(data, patch_sizes(args), levels)
        thresholds = _listed_numbers(args.thresholds, "thresholds", PUBLISHED_THRESHOLDS, args)
        return PSPCFlex(data, load_heatmaps(args.heatmaps), thresholds, levels).to(data.pixels.device)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def pixel_major(images, args, device):
    """An ImageSet as the data of training-free denoisers. Raises UserError."""
    import numpy as np
    import torch

    from models.training_free import PixelMajor

    try:
        return PixelMajor(torch.from_numpy(np.array(images.pixels)), args.xflip, args.max_memory * 1e9).to(device)
    except ValueError as error:
        raise UserError(f"--max_memory {args.max_memory}: {error}") from None


def results_dir(args, what: str) -> Path:
    from global_config import RECORDS_DIR

    return Path(args.outdir) if args.outdir else RECORDS_DIR / "mechanism" / what


def in_batches(file: Path, settings: dict, count: int, batch: int, compute: Callable, title: str):
    """compute(first, end) -> array of those rows, batch by batch, into one .npy; finished batches survive an interruption.

    They lie in a folder beside the file with the settings they were made with; other settings begin anew.
    """
    import shutil

    import numpy as np
    from tqdm import tqdm

    from train.whole_files import replace_file

    parts, about = file.with_name(f".{file.name}.parts"), json.dumps(settings | {"batch": batch}, sort_keys=True)
    if parts.is_dir() and (not (parts / "settings.json").is_file() or (parts / "settings.json").read_text() != about):
        shutil.rmtree(parts)
    replace_file(parts / "settings.json", lambda path: path.write_text(about))
    pieces = []
    for first in tqdm(range(0, count, batch), desc=title, unit="batch"):
        piece = parts / f"{first:07d}.npy"
        try:
            rows = np.load(piece)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            rows = compute(first, min(first + batch, count))
            replace_file(piece, lambda path, rows=rows: np.save(path, rows))
        pieces.append(rows)
    whole = np.concatenate(pieces)
    replace_file(file, lambda path: np.save(path, whole))
    shutil.rmtree(parts, ignore_errors=True)  # another process at the same work may have done so
    return whole


def save_grid(images, file: Path, most: int = 64) -> Path:
    """The first images of an array (n, C, H, W) in [-1, 1] as one PNG of about as many rows as columns."""
    import math

    import numpy as np
    import torch

    from train.images import grid, save_png, to_uint8

    pixels = to_uint8(torch.from_numpy(np.asarray(images[:most])))
    columns = math.ceil(math.sqrt(len(pixels)))
    blank = np.zeros((-len(pixels) % columns, *pixels.shape[1:]), np.uint8)
    return save_png(grid(np.concatenate([pixels, blank]), columns), file)
