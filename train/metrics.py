"""metrics.jsonl: one line of numbers a time, with its step; what a killed process wrote after its checkpoint is taken
back."""

import json
from pathlib import Path

from train.errors import writing
from train.whole_files import replace_file


def read_metrics(path: Path) -> list[dict]:
    """The rows of a metrics file, none where there is no file. A line that a full disk cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def rewind_metrics(path: Path, step: int) -> None:
    """Keep the rows up to a step: what was logged after the checkpoint is about to be logged again."""
    if path.is_file():
        lines = [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
        replace_file(path, lambda file: file.write_text("".join(lines)))


def append_metrics(path: Path, row: dict) -> None:
    with writing(path), open(path, "a") as file:
        file.write(json.dumps(row) + "\n")
