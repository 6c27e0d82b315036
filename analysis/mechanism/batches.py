"""Long work kept batch by batch, and its result as a picture."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from analysis.results import read_array
from train.errors import UserError
from train.images import grid, save_png, to_uint8
from train.runs import find_run
from train.whole_files import replace_file


def settings_of(args, data, *other: str) -> dict:
    """What results depend on, for in_batches: every option but those of place and device and the `other` ones, how many
    images the data have, and, where a run is meant, which training of it."""
    without = {"outdir", "device", *other}
    settings = {key: value for key, value in vars(args).items() if key not in without} | {"images": len(data)}
    if args.data is None or (getattr(args, "denoiser", "network") == "network" and not args.network_pkl):
        run = find_run(args.dataset, args.version_num)
        settings |= {"dataset": run.name, "version_num": run.version, "trained": run.time}
    return settings


def read_noisy(path: str, option: str, *shape: int | str) -> np.ndarray:
    """A .npy of noisy images that the user names with an option, memory-mapped; a letter in the shape is any length
    but 0. Raises UserError."""
    z = read_array(path, option)
    fits = z.ndim == len(shape) and all(have == want or isinstance(want, str) for have, want in zip(z.shape, shape))
    if not fits or not z.size or not np.issubdtype(z.dtype, np.floating):
        wanted = ", ".join(map(str, shape))
        raise UserError(f"{option} {path}: must be real numbers of shape ({wanted}), not {z.dtype} {z.shape}")
    return z


def in_batches(file: Path, settings: dict, count: int, batch: int, compute: Callable, title: str):
    """compute(first, end) -> array of those rows, batch by batch, into one .npy; finished batches survive an
    interruption.

    They lie in a folder beside the file with the settings they were made with; other settings begin anew.
    """
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


def in_threads(compute: Callable, parts: Sequence, threads: int) -> list:
    """[compute(part) for part in parts], each in one of so many threads: small operations gain little from several
    threads each, and lose much where other work has the cores."""
    if threads == 1:
        return [compute(part) for part in parts]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(compute, parts))


def save_grid(images, file: Path, most: int = 64) -> Path:
    """The first images of an array (n, C, H, W) in [-1, 1] as one PNG of about as many rows as columns."""
    pixels = to_uint8(torch.from_numpy(np.asarray(images[:most])))
    columns = math.ceil(math.sqrt(len(pixels)))
    blank = np.zeros((-len(pixels) % columns, *pixels.shape[1:]), np.uint8)
    return save_png(grid(np.concatenate([pixels, blank]), columns), file)
