"""Folders of results below records/, and the arrays and numbers in them, for programs."""

import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from global_config import RECORDS_DIR, REPO_DIR
from train.errors import reading
from train.generation import SAMPLES_DIR
from train.whole_files import replace_file


def read_array(path: str, option: str) -> np.ndarray:
    """A .npy file that the user names with an option, memory-mapped, nothing in it run. Raises UserError."""
    with reading(f"{option} {path}: not a readable .npy file"), open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":  # numpy would advise to unpickle it
            raise ValueError("it does not begin as one")
        return np.load(path, mmap_mode="r", allow_pickle=False)


def save_arrays(path: Path, **arrays) -> Path:
    """A compressed .npz."""
    return replace_file(path, lambda file: np.savez_compressed(file, **arrays))


def save_json(path: Path, values: dict) -> Path:
    return replace_file(path, lambda file: file.write_text(json.dumps(values, indent=1) + "\n"))


def save_table(path: Path, table) -> Path:
    """A pandas table as CSV."""
    return replace_file(path, lambda file: table.to_csv(file))


def save_about(folder: Path, run, kind: str = "") -> Path:
    """about.json: which run and training step the results beside it tell of, the command that made them, and the
    versions it used."""
    script = Path(sys.argv[0]).resolve()
    called = script.relative_to(REPO_DIR) if script.is_relative_to(REPO_DIR) else script
    versions = {name: version(name) for name in ("patronus", "torch", "numpy")}
    command = shlex.join(["python", called.as_posix(), *sys.argv[1:]])
    return save_json(
        folder / f"about{kind}.json",
        {"run": f"{run.name}/{run.version}", "step": run.step, "command": command, "versions": versions},
    )


def folder_of(what: str, run) -> Path:
    """records/<what>/<dataset>_v<n>, where a script leaves what it tells of a run."""
    return RECORDS_DIR / what / f"{run.name}_v{run.version}"


def results_folder(what: str, run, outdir: str | None = None, kind: str = "") -> Path:
    """The same, or <outdir>/<dataset>_v<n>, with about.json in it; about<kind>.json where a script's option makes other
    files than usual."""
    folder = Path(outdir) / f"{run.name}_v{run.version}" if outdir else folder_of(what, run)
    save_about(folder, run, kind)
    return folder


def read_json(path: Path) -> dict:
    """A JSON of ours; {} where it is not there or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def is_current(result: Path, run) -> bool:
    """Whether a file is there and tells of the run's present training step: about.json beside it says so, and is no
    younger, as it is where a later command was stopped before it had written the file anew."""
    file = result.with_name("about.json")
    about = read_json(file)
    if not result.is_file() or (about.get("run"), about.get("step")) != (f"{run.name}/{run.version}", run.step):
        return False
    return result.stat().st_mtime_ns >= file.stat().st_mtime_ns


def made_by(folder: Path) -> str:
    """The command and versions of the results in a folder."""
    about = read_json(folder / "about.json")
    versions = ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())
    return f"{about['command']} ({versions})" if "command" in about else ""


def newest_samples(run, kind: str) -> Path | None:
    """The newest folder of samples, 'cond' or 'uncond', that the run made at its present training step."""
    folders = (SAMPLES_DIR / f"{kind}_{run.name}_{run.version}").glob("run_*")
    present = [
        path
        for path in folders
        if any(path.glob("*.png")) and read_json(path.with_name(f"{path.name}.json")).get("training_step") == run.step
    ]
    return max(present, key=lambda path: path.stat().st_mtime, default=None)
