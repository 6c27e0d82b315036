"""Arrays and numbers beside the figures, for programs."""

import json
from pathlib import Path

import numpy as np

from train.errors import reading
from train.whole_files import replace_file


def read_array(path: str, option: str) -> np.ndarray:
    """A .npy file that the user names with an option, memory-mapped, nothing in it run. Raises UserError."""
    with reading(f"{option} {path}: not a readable .npy file"):
        return np.load(path, mmap_mode="r", allow_pickle=False)


def save_arrays(path: Path, **arrays) -> Path:
    """A compressed .npz."""
    return replace_file(path, lambda file: np.savez_compressed(file, **arrays))


def save_json(path: Path, values: dict) -> Path:
    return replace_file(path, lambda file: file.write_text(json.dumps(values, indent=1) + "\n"))


def save_table(path: Path, table) -> Path:
    """A pandas table as CSV."""
    return replace_file(path, lambda file: table.to_csv(file))
