"""Files of results that other programs read: their names, and the columns and keys that writer and reader share.

A script that leaves one of them writes it through its schema, which refuses a result without the names promised here;
who reads one gets None where the file is not there, damaged, or from before a name was promised. A name that has
changed is read under its former one, too.
"""

import zipfile
from pathlib import Path
from typing import NamedTuple

from analysis.results import read_json, save_arrays, save_json, save_table


def _all_there(file: str, promised: tuple[str, ...], names) -> None:
    missing = [name for name in promised if name not in names]
    if missing:
        raise KeyError(f"{file}: without {', '.join(missing)}")


def _renamed(names, former: dict[str, str]) -> dict[str, str]:
    """Which of the names in a file to read under a present one."""
    return {old: new for new, old in former.items() if old in names and new not in names}


class Table(NamedTuple):
    """A pandas table as CSV; {} in the file's name takes what the table is of; former: present -> former name."""

    file: str
    index: str | None
    columns: tuple[str, ...]
    former: dict[str, str] = {}

    def write(self, folder: Path, table, of: str = "") -> Path:
        """Raises KeyError for a table without a promised column."""
        _all_there(self.file, self.columns, table.columns)
        return save_table(folder / self.file.format(of), table)

    def read(self, folder: Path, of: str = ""):
        import pandas as pd

        try:
            table = pd.read_csv(folder / self.file.format(of))
            table = table.rename(columns=_renamed(table.columns, self.former))
            _all_there(self.file, self.columns, table.columns)
            table = table.set_index(self.index) if self.index else table
        except (OSError, ValueError, KeyError):
            return None
        return table


class Numbers(NamedTuple):
    """A JSON object; former: present -> former name, of its keys and of those of objects within."""

    file: str
    keys: tuple[str, ...]
    former: dict[str, str] = {}

    def write(self, folder: Path, values: dict, of: str = "") -> Path:
        """Raises KeyError for values without a promised key."""
        _all_there(self.file, self.keys, values)
        return save_json(folder / self.file.format(of), values)

    def read(self, folder: Path, of: str = "") -> dict | None:
        values = read_json(folder / self.file.format(of))
        values = self._present(values) if isinstance(values, dict) else {}
        return values if all(key in values for key in self.keys) else None

    def _present(self, values: dict) -> dict:
        names = _renamed(values, self.former)
        inner = {key: self._present(value) if isinstance(value, dict) else value for key, value in values.items()}
        return {names.get(key, key): value for key, value in inner.items()}


class Arrays(NamedTuple):
    """NumPy arrays in an .npz; former: present -> former name."""

    file: str
    keys: tuple[str, ...]
    former: dict[str, str] = {}

    def write(self, folder: Path, **arrays) -> Path:
        """Raises KeyError for arrays without a promised key."""
        _all_there(self.file, self.keys, arrays)
        return save_arrays(folder / self.file, **arrays)

    def read(self, folder: Path) -> dict | None:
        """The promised arrays; nothing in the file is run."""
        import numpy as np

        try:
            with np.load(folder / self.file, allow_pickle=False) as arrays:
                names = {new: old for old, new in _renamed(arrays, self.former).items()}
                return {key: arrays[names.get(key, key)] for key in self.keys}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


# records/vis_prototype: entry by entry a prototype, its edits before and after, and its scores in both
CARDS = Arrays(
    "prototypes.npz",
    ("prototypes", "before", "after", "score_before", "score_after"),
    {"score_before": "own", "score_after": "found"},
)
HEALTH = Table("health.csv", "prototype", ("usage", "dead", "duplicate", "moves"))
# records/information: bits beyond the others, and where the run can hide scores alone; *_sigma: half lies above
BITS = Table("information.csv", "prototype", ("beyond", "beyond_error", "beyond_check", "beyond_sigma"))
BITS_SUMS = Numbers("information.json", ("sums",))
# records/faithfulness: "faithfulness" or "untrained"; the numbers hold the means of the columns, null those of chance
EFFECTIVENESS = {"effectiveness": "taken", "effectiveness_by_prototype": "taken_by_prototype"}
FAITHFULNESS = Table("{}.csv", "attribute", ("prototype", "single", "untrained_single"), EFFECTIVENESS)
FAITHFULNESS_MEANS = Numbers("{}.json", ("run", "step"), EFFECTIVENESS)
# records/prototype_quality: "quality" or "untrained"
QUALITY = Numbers("{}.json", ("single", "latent", "tad", "captured"))
# records/reconstruct: "psnr" and "ssim" of each noise
RECONSTRUCTION = Numbers("reconstruct.json", ("images", "own", "fixed", "random"))
# records/diagnose: one row an ordered pair of attributes, of the reader named
EFFECTS = Table("effects_{}.csv", None, ("raised", "moved", "edit", "generated", "p", "shortcut"))
READERS = ("classifier", "prototypes")  # the better first
EDITS = Arrays("edits.npz", ("raised", "pictures"))  # (R,) and (R, 3, 3, H, W, C): as it is, lowered, raised
# records/ties
TIES = Numbers("ties.json", ("pairs", "sure", "ties"))
# records/trace_emergence
EMERGENCE = Table("emergence.csv", "prototype", ("bits", "sigma", "sigma_first", "sigma_last", "t", "half_rise_t"))
# records/fid_scores: one file a folder of samples; beside these "fid" or "frechet_distance"
DISTANCE = Numbers("{}.json", ("features", "images_a_side", "floor", "training_step"))
FIDELITY = ("precision", "recall", "density", "coverage")  # there too where there are enough images


def distance_of(numbers: dict) -> tuple[str, float]:
    """What the distance of a DISTANCE is called, and its value."""
    if "fid" in numbers:
        return "FID", numbers["fid"]
    return f"Frechet distance ({numbers['features']})", numbers["frechet_distance"]
