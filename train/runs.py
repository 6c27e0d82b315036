"""The folder of a run: records/patronus/<name>/version_<n>/ with config.yaml, metrics.jsonl, samples/ and checkpoints/,
the last two of them.
"""

import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import yaml
from torch import Tensor

from global_config import PRETRAINED_DIR, RECORDS_DIR
from models.patronus import Patronus
from train.build import build_model
from train.config import Config, validate_stored
from train.errors import UserError, listed, writing
from train.pretrained import pretrained_runs, read_pretrained
from train.released import read_released, released_runs
from train.safe_files import read_tensors
from train.versions import PRETRAINED
from train.whole_files import new_folder, replace_file, save_tensors

RUNS_DIR = RECORDS_DIR / "patronus"


class Run(NamedTuple):
    """A trained run, ready for use: the model holds the averaged weights where the run kept them."""

    folder: Path
    name: str
    version: int | str
    config: Config
    model: Patronus
    step: int
    averaged: bool  # whether these are averaged weights


def run_folder(name: str, version: int) -> Path:
    return RUNS_DIR / name / f"version_{version}"


def versions(parent: Path) -> list[int]:
    """Numbers of the folders version_<n> in a folder, ascending."""
    numbers = (path.name.removeprefix("version_") for path in parent.glob("version_*"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def claim_version(parent: Path, write: Callable[[Path], object], others: Iterable[int] = ()) -> Path:
    """Make the next folder version_<n>, with what write(folder) puts there, beyond the numbers of `others`; safe
    against two trainings at once."""
    others = list(others)
    return new_folder(parent, write, lambda: parent / f"version_{max([*versions(parent), *others], default=-1) + 1}")


def save_config(folder: Path, values: dict) -> None:
    """The settings of a run as config.yaml."""
    text = yaml.safe_dump(values, sort_keys=False)
    replace_file(folder / "config.yaml", lambda file: file.write_text(text, encoding="utf-8"))


def new_run_folder(config: Config) -> Path:
    """Claim the next version number, with the resolved config in its folder."""
    published = [version for name, version, _ in released_runs() if name == config.name]
    return claim_version(RUNS_DIR / config.name, lambda folder: save_config(folder, config.plain()), published)


def checkpoint_files(folder: Path) -> list[Path]:
    """The checkpoints of a run that are there, newest first: last.pt, and previous.pt for the day on which last.pt is
    damaged.
    """
    return [
        path for path in (folder / "checkpoints" / "last.pt", folder / "checkpoints" / "previous.pt") if path.is_file()
    ]


def save_checkpoint(folder: Path, state: dict) -> None:
    """Tensors and plain values, whole or not at all; the one before is kept."""
    last, previous = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "previous.pt"
    making = save_tensors(folder / "checkpoints" / "next.pt", state)
    with writing(last):
        if last.is_file():
            os.replace(last, previous)
        os.replace(making, last)


def load_state(path: Path, keys: set[str]) -> dict:
    """Read a dict of tensors and plain values with those keys, without running any code in the file. Raises
    UserError.
    """
    state = read_tensors(path)
    missing = keys - set(state)
    if missing:
        raise UserError(f"{path}: not a Patronus checkpoint: no key {listed(sorted(missing))}")
    for name in {"model", "ema", "averaged"} & set(state):
        if not _are_weights(state[name]) and not (name == "ema" and state[name] is None):
            raise UserError(f"{path}: not a Patronus checkpoint: {name} does not hold tensors by name")
    if not isinstance(state.get("step", 0), int):
        raise UserError(f"{path}: not a Patronus checkpoint: step is no integer")
    return state


def _are_weights(values: object) -> bool:
    return isinstance(values, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items())


def load_checkpoint(folder: Path) -> dict:
    """The newest checkpoint of a run that can be read; says so where that is not the last one. Raises UserError."""
    wrong = []
    for path in checkpoint_files(folder):
        try:
            state = load_state(path, {"config", "step", "model"})
        except UserError as error:
            wrong.append(error)
            continue
        if wrong:
            print(f"warning: {wrong[0]}; taking {path.name} of step {state['step']} instead", file=sys.stderr)
        return state
    raise UserError(f"{wrong[0] if wrong else f'{folder}: holds no checkpoint'}; restore it from a copy, or train anew")


class Place(NamedTuple):
    """Where a trained run lies; released ones are the authors' (train/released.py), pretrained ones are shipped."""

    name: str
    version: int | str
    folder: Path
    kind: Literal["trained", "released", "pretrained"]

    @property
    def time(self) -> float:
        """When it was trained; a shipped one counts as older than all others."""
        if self.kind == "pretrained":
            return 0.0
        return (
            ([self.folder / "ckpt.tar"] if self.kind == "released" else checkpoint_files(self.folder))[0]
            .stat()
            .st_mtime
        )


def known_runs() -> list[Place]:
    """Every run with weights, oldest first; ours go before a published one of the same name and number."""
    names = [folder.name for folder in RUNS_DIR.glob("*") if folder.is_dir()]
    folders = [(name, version, run_folder(name, version)) for name in names for version in versions(RUNS_DIR / name)]
    places = [Place(*run, "trained") for run in folders if checkpoint_files(run[2])]
    ours = {place[:2] for place in places}
    places += [Place(*run, "released") for run in released_runs() if run[:2] not in ours]
    shipped = [Place(name, PRETRAINED, folder, "pretrained") for name, folder in pretrained_runs()]
    return shipped + sorted(places, key=lambda place: (place.time, place.name, place.version))


def find_run(name: str | None, version: int | str | None) -> Place:
    """The run meant by --dataset and --version_num: what is not given is the newest.

    A shipped run is taken where there is no other, which is said. Raises UserError that names what there is.
    """
    runs = known_runs()
    if not runs:
        raise UserError(f"no trained run below {RUNS_DIR}; train one with: python train/train_patronus.py")
    chosen = [run for run in runs if name in (None, run.name)]
    if not chosen:
        names = listed(sorted({run.name for run in runs}))
        raise UserError(f"--dataset {name}: no trained run of that name; there are {names}")
    if name is None and version == PRETRAINED:  # the newest shipped one, not one of the newest name
        chosen = [run for run in runs if run.kind == "pretrained"] or chosen
    newest = chosen[-1]
    if version is None:
        if newest.kind == "pretrained":
            print_pretrained(newest.name)
        return newest
    same = {run.version: run for run in chosen if run.name == newest.name}
    if version not in same:
        known = listed(sorted(same, key=str), 30)
        raise UserError(f"version {version}: {newest.name} has no such trained version; there are {known}")
    return same[version]


@cache
def print_pretrained(name: str) -> None:
    """Once a process."""
    print(
        f"no run of {name} was trained here yet: taking the one that is shipped, {PRETRAINED_DIR / name}",
        file=sys.stderr,
    )


def load_run(name: str | None = None, version: int | str | None = None, device: torch.device | str = "cpu") -> Run:
    """Load a run for use, in evaluation mode and without gradients; published and shipped ones too. Raises
    UserError.
    """
    place = find_run(name, version)
    if place.kind == "released":
        config, weights = read_released(place.folder, place.name)
        step, averaged = 0, False
    elif place.kind == "pretrained":
        config, weights, origin = read_pretrained(place.folder)
        step, averaged = origin.step, origin.averaged
    else:
        state = load_checkpoint(place.folder)
        config = validate_stored(state["config"], f"{place.folder}: the checkpoint's config")
        weights, step, averaged = state.get("ema") or state["model"], state["step"], state.get("ema") is not None
    wrong = [name for name, values in weights.items() if not values.isfinite().all()]
    if wrong:
        raise UserError(
            f"{place.folder}: weights hold what is no number ({listed(wrong, 3)}); "
            "the training diverged or the file is damaged"
        )
    model = build_model(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{place.folder}: the weights do not fit the config: {str(error).splitlines()[-1].strip()}"
        ) from None
    model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Run(place.folder, place.name, place.version, config, model, step, averaged)
