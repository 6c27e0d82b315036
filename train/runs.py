"""The folder of a run: records/patronus/<name>/version_<n>/ with config.yaml, metrics.jsonl, samples/ and checkpoints/last.pt."""

import pickle
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
import yaml

from global_config import RECORDS_DIR
from models.patronus import Patronus
from train.build import build_model
from train.config import Config, validate
from train.errors import UserError, listed
from train.images import replace_file

RUNS_DIR = RECORDS_DIR / "patronus"


class Run(NamedTuple):
    """A trained run, ready for use: the model holds the averaged weights where the run kept them."""

    folder: Path
    name: str
    version: int
    config: Config
    model: Patronus
    step: int
    averaged: bool  # whether these are averaged weights


def run_folder(name: str, version: int) -> Path:
    return RUNS_DIR / name / f"version_{version}"


def versions(parent: Path) -> list[int]:
    """Numbers of the folders version_<n> in a folder, ascending."""
    numbers = (path.name.removeprefix("version_") for path in parent.glob("version_*"))
    return sorted(int(number) for number in numbers if number.isdigit())


def claim_version(parent: Path) -> Path:
    """Make the next folder version_<n>, safe against two trainings at once."""
    version = max(versions(parent), default=-1) + 1
    while True:
        folder = parent / f"version_{version}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            version += 1


def new_run_folder(config: Config) -> Path:
    """Claim the next version number and write the resolved config there."""
    folder = claim_version(RUNS_DIR / config.name)
    text = yaml.safe_dump(config.plain(), sort_keys=False)
    replace_file(folder / "config.yaml", lambda file: file.write_text(text, encoding="utf-8"))
    return folder


def checkpoint_path(folder: Path) -> Path:
    return folder / "checkpoints" / "last.pt"


def save_checkpoint(folder: Path, state: dict) -> Path:
    """Tensors and plain values, whole or not at all."""
    return replace_file(checkpoint_path(folder), lambda file: torch.save(state, file))


def load_state(path: Path, keys: set[str]) -> dict:
    """Read a dict of tensors and plain values with those keys, without running any code in the file. Raises UserError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0][:120]})") from None
    missing = keys - set(state if isinstance(state, dict) else ())
    if missing:
        raise UserError(f"{path}: not a Patronus checkpoint: no key {listed(sorted(missing))}")
    return state


def load_checkpoint(path: Path) -> dict:
    """Read the checkpoint of a run. Raises UserError."""
    return load_state(path, {"config", "step", "model"})


def _runs_with_checkpoint() -> list[tuple[float, str, int]]:
    found = RUNS_DIR.glob("*/version_*/checkpoints/last.pt")
    return sorted((path.stat().st_mtime, path.parts[-4], int(path.parts[-3].removeprefix("version_"))) for path in found)


def find_run(name: str | None, version: int | None) -> tuple[str, int]:
    """The run meant by --dataset and --version_num: what is not given is the newest. Raises UserError that names what there is."""
    runs = _runs_with_checkpoint()
    if not runs:
        raise UserError(f"no trained run below {RUNS_DIR}; train one with: python train/train_patronus.py")
    chosen = [run for run in runs if name in (None, run[1])]
    if not chosen:
        raise UserError(f"--dataset {name}: no trained run of that name; there are {listed(sorted({run[1] for run in runs}))}")
    newest_name = chosen[-1][1]
    chosen = [run for run in chosen if run[1] == newest_name]
    numbers = sorted(run[2] for run in chosen)
    if version is None:
        return newest_name, chosen[-1][2]
    if version not in numbers:
        raise UserError(f"--version_num {version}: {newest_name} has no such trained version; there are {listed(numbers, 30)}")
    return newest_name, version


def load_run(name: str | None = None, version: int | None = None, device: torch.device | str = "cpu") -> Run:
    """Load a run for use, in evaluation mode and without gradients. Raises UserError."""
    name, version = find_run(name, version)
    folder = run_folder(name, version)
    path = checkpoint_path(folder)
    state = load_checkpoint(path)
    config = validate(state["config"], str(path))
    model = build_model(config)
    try:
        model.load_state_dict(state.get("ema") or state["model"])
    except RuntimeError as error:
        raise UserError(f"{path}: the weights do not fit its config: {str(error).splitlines()[-1].strip()}") from None
    model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Run(folder, name, version, config, model, state["step"], state.get("ema") is not None)
