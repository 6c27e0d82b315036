"""What the programs on training-free denoisers share: their data, noise levels and schedules, and the denoisers by
name."""

import json
import pickle
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from analysis.results import read_array
from global_config import RECORDS_DIR, REPO_DIR
from models.locality import PUBLISHED_THRESHOLDS, LocalityDenoiser, PSPCFlex
from models.patronus import HIDDEN
from models.pspc import PUBLISHED_SIZES, PSPCSquare
from models.samplers import SeededNoise
from models.schedule import karras_sigmas
from models.training_free import EmpiricalDenoiser, GaussianDenoiser, PixelMajor
from train.config import DataConfig, load_config
from train.data.dataset import load_all, load_split
from train.data.files import edm
from train.errors import UserError, listed
from train.images import to_tensor
from train.runs import Run, load_run


def data_config(args):
    """-> (DataConfig, whether it is an archive, whose every image is data). Raises UserError."""
    config, archive = _named_config(args)
    return config.model_copy(update={"image_size": args.image_size}) if args.image_size else config, archive


def _named_config(args):
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
    """-> (ImageSet of the data, ImageSet of images to be made noisy). An archive is all data, and both, unless
    held_out; else train and test."""
    config, archive = data_config(args)
    if archive and not held_out:
        images = load_all(config)
        return images, images
    return load_split(config, "train"), load_split(config, "test" if held_out else "train")


def shown(images, first: int, end: int, device):
    """The images whose scores samples first to end are drawn under, in turn from the start again: (n, C, H, W)."""
    return to_tensor(images.pixels[[i % len(images) for i in range(first, end)]], device)


def levels_of(args):
    """The falling noise levels (n_steps,), float64."""
    return karras_sigmas(args.n_steps, args.t_min, args.t_max, args.rho)[:-1]


def noisy_images(x0, levels, index: int, seed: int, first: int = 0):
    """x0 (n, C, H, W) plus noise of levels[index]. Image `first` + i has a seed of its own, the same in every program;
    those of two levels lie 2^20 apart."""
    start = (seed * len(levels) + index) * 2**20 + first
    noise = SeededNoise(range(start, start + len(x0)), x0.shape[1:], x0.device)()
    return x0 + levels[index].float() * noise


def _listed_numbers(text: str | None, key: str, published, args) -> list[float]:
    """A schedule from its option: numbers, the JSON of fit_schedule.py, or the published one. Raises UserError."""
    option = f"--{key}"
    if text is None:
        if args.n_steps != len(published):
            raise UserError(
                f"{option}: the published schedule has {len(published)} levels, not {args.n_steps};"
                f" give {args.n_steps} numbers"
            )
        return list(published)
    try:
        numbers = (
            json.loads(Path(text).read_text())[key]
            if text.endswith(".json")
            else [float(part) for part in text.split(",")]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{option} {text}: must be numbers separated by commas or a JSON file of fit_schedule.py"
        ) from None
    if len(numbers) != args.n_steps:
        raise UserError(f"{option}: {len(numbers)} numbers for {args.n_steps} noise levels; give one a level")
    return numbers


def patch_sizes(args) -> list[int]:
    sizes = _listed_numbers(args.patch_sizes, "patch_sizes", PUBLISHED_SIZES, args)
    if any(size != int(size) for size in sizes):
        raise UserError(f"--patch_sizes {args.patch_sizes}: must be whole numbers")
    return [int(size) for size in sizes]


def load_heatmaps(path: str | None):
    """(L, H, W, H, W) float32. Raises UserError."""
    if path is None:
        raise UserError("--heatmaps: pspc_flex needs heat maps; make them with: python analysis/mechanism/heatmaps.py")
    maps = read_array(path, "--heatmaps")
    if maps.ndim != 5 or not np.issubdtype(maps.dtype, np.floating) or not np.isfinite(maps).all() or (maps < 0).any():
        raise UserError(
            f"--heatmaps {path}: must be non-negative numbers of shape (levels, H, W, H, W),"
            f" not {maps.dtype} {maps.shape}"
        )
    return torch.from_numpy(maps.astype(np.float32))


def edm_network(args, device):
    """The denoiser of an EDM checkpoint, which is a pickle that carries its own source code. Raises UserError."""
    if not args.trust_pickle:
        raise UserError(
            f"--network_pkl {args.network_pkl}: such a pickle runs code it carries when loaded;"
            " give --trust_pickle if you trust its origin"
        )
    if args.edm_repo:
        if not Path(args.edm_repo).is_dir():
            raise UserError(f"--edm_repo {args.edm_repo}: no such folder")
        sys.path.insert(0, str(args.edm_repo))
    try:
        with open(args.network_pkl, "rb") as file:
            network = pickle.load(file)["ema"]  # only behind --trust_pickle
    except ModuleNotFoundError as error:
        raise UserError(
            f"--network_pkl {args.network_pkl}: needs the module {error.name};"
            " give your clone of the EDM code as --edm_repo"
        ) from None
    except Exception as error:
        raise UserError(
            f"--network_pkl {args.network_pkl}: cannot be loaded ({type(error).__name__}: {str(error)[:80]})"
        ) from None
    network = network.to(device).eval().requires_grad_(False)
    return lambda z, sigma: network(z, sigma).float()


class Network(NamedTuple):
    """bind: images (n, C, H, W) -> the Denoiser of their noisy versions; run: None for an EDM checkpoint."""

    bind: Callable
    run: Run | None


def network_of(args, device) -> Network:
    """A run's network under the scores of images or, with --hide_scores, without; an EDM checkpoint's. Raises
    UserError."""
    if args.network_pkl:
        network = edm_network(args, device)
        return Network(lambda images: network, None)
    run = load_run(args.dataset, args.version_num, device)
    data, model = run.config.data, run.model.requires_grad_(False)
    if args.hide_scores and not model.masked:
        raise UserError(f"--hide_scores: the run {run.name} was trained without model.masked, so it needs every score")
    shape = data.channels, data.image_size, data.image_size

    def bind(images):
        if tuple(images.shape[1:]) != shape:
            raise UserError(f"the run {run.name} is of images of {shape}, the data of {tuple(images.shape[1:])}")
        return hidden_network(model, len(images)) if args.hide_scores else model.denoiser(model.score(images))

    return Network(bind, run)


def hidden_network(model, count: int):
    """The Denoiser of `count` noisy images that knows none of their scores."""
    encoder = model.encoder
    return model.denoiser(torch.full((count, encoder.width), HIDDEN, device=encoder.prototypes.device))


@contextmanager
def one_line(where: object):
    """Around what denoisers refuse when they are made or called: a ValueError becomes a UserError that begins with
    `where`."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def training_free(name: str, data, args, levels):
    """A training-free Denoiser by name, over PixelMajor data. Raises UserError."""
    with one_line(name):
        if name == "empirical":
            return EmpiricalDenoiser(data)
        if name == "gaussian":
            return GaussianDenoiser(data, args.rank)
        if name == "pspc_sq":
            return PSPCSquare(data, patch_sizes(args), levels)
        if name == "locality":
            return LocalityDenoiser(data, args.mask_threshold, args.rank)
        thresholds = _listed_numbers(args.thresholds, "thresholds", PUBLISHED_THRESHOLDS, args)
        return PSPCFlex(data, load_heatmaps(args.heatmaps), thresholds, levels).to(data.pixels.device)


def binder(args, images, levels, device) -> Callable:
    """Clean images (n, C, H, W) -> the Denoiser of their noisy versions that --denoiser names: a network, which may be
    given their scores, or a training-free one over an ImageSet. Raises UserError."""
    if args.denoiser == "network":
        return network_of(args, device).bind
    denoiser = training_free(args.denoiser, pixel_major(images, args, device), args, levels)
    return lambda images: denoiser


def all_training_free(data, args, levels) -> dict:
    """Every training-free Denoiser by name: pspc_flex where there are heat maps, locality where masks fit into memory.

    Raises UserError.
    """
    names = ["empirical", "gaussian", "pspc_sq", *(["pspc_flex"] if args.heatmaps else [])]
    denoisers = {name: training_free(name, data, args, levels) for name in tqdm(names, desc="preparing", leave=False)}
    try:
        denoisers["locality"] = training_free("locality", data, args, levels)
    except UserError as error:
        print(f"left out: {error}")
    return denoisers


def pixel_major(images, args, device):
    """An ImageSet as the data of training-free denoisers. Raises UserError."""
    with one_line(f"--max_memory {args.max_memory}"):
        return PixelMajor(torch.from_numpy(np.array(images.pixels)), args.xflip, args.max_memory * 1e9).to(device)


def results_dir(args, what: str) -> Path:
    return Path(args.outdir) if args.outdir else RECORDS_DIR / "mechanism" / what
