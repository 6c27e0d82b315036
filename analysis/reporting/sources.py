"""Which results of a run are in records/, and which script makes each."""

from pathlib import Path
from typing import NamedTuple

from analysis.results import folder_of, is_current
from train.runs import Run


class Source(NamedTuple):
    """Where a section comes from: the folder below records/, a file without which it is not there, and the script that
    makes it, with options."""

    folder: str
    file: str
    script: str
    options: tuple[str, ...] = ()


SOURCES = {
    "edits": Source("vis_prototype", "prototypes.npz", "analysis/interpretability/visualize_prototype.py"),
    "ownership": Source("ownership", "ownership.png", "analysis/interpretability/ownership.py"),
    "information": Source(
        "information", "information.json", "analysis/interpretability/information.py", ("--num_samples", "400")
    ),
    "faithfulness": Source(
        "faithfulness", "faithfulness.json", "analysis/evaluation/faithfulness.py", ("--num_samples", "24")
    ),
    "diagnosis": Source("diagnose", "effects.png", "analysis/diagnosis/diagnose.py", ("--generated", "400")),
    "ties": Source("ties", "ties.json", "analysis/diagnosis/ties.py", ("--draws", "12", "--figures", "1")),
    "emergence": Source(
        "trace_emergence", "emergence.csv", "analysis/interpretability/trace_emergence.py", ("--draws", "600")
    ),
}


def place(run: Run, name: str) -> Path:
    """The folder of a section's results."""
    return folder_of(SOURCES[name].folder, run)


def present(run: Run, name: str) -> bool:
    """Whether a section's results are there and tell of the run's present training step."""
    return is_current(place(run, name) / SOURCES[name].file, run)


def distance_files(run: Run, folder: Path) -> list[Path]:
    """What analysis/evaluation/fid.py wrote of a folder of samples."""
    return sorted(folder_of("fid_scores", run).glob(f"{folder.parent.name}_{folder.name}_*.json"))
