"""Long work kept batch by batch, and its result as a picture."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from train.images import grid, save_png, to_uint8
from train.whole_files import replace_file


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


def save_grid(images, file: Path, most: int = 64) -> Path:
    """The first images of an array (n, C, H, W) in [-1, 1] as one PNG of about as many rows as columns."""
    pixels = to_uint8(torch.from_numpy(np.asarray(images[:most])))
    columns = math.ceil(math.sqrt(len(pixels)))
    blank = np.zeros((-len(pixels) % columns, *pixels.shape[1:]), np.uint8)
    return save_png(grid(np.concatenate([pixels, blank]), columns), file)
