"""The README's table of results, from what the scripts left in records/.

  python tests/campaigns/results.py [--runs faces/0,1,2 fmnist/0] [--into README.md]

Of several versions of a run it gives the mean and the deviation. The table replaces what stands between the two marks
in the file. Numbers that are not in records/ stay as they stand there; rows without any are left out.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from global_config import RECORDS_DIR, REPO_DIR

MARKS = "<!-- results: python tests/campaigns/results.py -->", "<!-- end of results -->"
FAITHFUL, QUALITY, DISTANCE = "faithfulness.py", "prototype_quality.py", "fid.py --features efficientnet-lite0"
SHUFFLED = "faithfulness.shuffled.appears"
ROWS = (  # name, our key, key of the untrained encoder or of random prototypes, script below analysis/evaluation/
    ("best single prototype's AUROC, mean of attributes", "quality.single", "untrained.single", QUALITY),
    ("accuracy of all scores on test images", "quality.scores_accuracy", "untrained.scores_accuracy", QUALITY),
    ("TAD (disentanglement)", "quality.tad", "untrained.tad", QUALITY),
    ("one prototype set: its attribute appears", "faithfulness.appears", "faithfulness.null.appears", FAITHFUL),
    ("it vanishes", "faithfulness.vanishes", "faithfulness.null.vanishes", FAITHFUL),
    ("other attributes that change", "faithfulness.side", "faithfulness.null.side", FAITHFUL),
    ("a state of a group set: its attribute appears", "faithfulness.group_means.appears", None, FAITHFUL),
    ("all scores set by an attribute's read-out: it appears", "faithfulness.all_means.appears", SHUFFLED, FAITHFUL),
    ("others that change then", "faithfulness.all_means.side", "faithfulness.shuffled.side", FAITHFUL),
    ("map of a prototype's bits against the true pixels", "faithfulness.map", "faithfulness.null.map", FAITHFUL),
    ("distance of 1,000 samples (of real halves)", "cond.frechet_distance", "cond.floor", DISTANCE),
    ("the same, unconditional", "uncond.frechet_distance", None, DISTANCE + " --kind uncond"),
    ("attributes of the source kept", "cond.kept", None, DISTANCE + " --attributes"),
)


def numbers_of(name: str, version: str) -> dict:
    """What there is of a run's JSON files, by name."""
    folders = {"faithfulness": "faithfulness", "quality": "prototype_quality", "untrained": "prototype_quality"}
    files = {key: RECORDS_DIR / folder / f"{name}_v{version}" / f"{key}.json" for key, folder in folders.items()}
    for kind in ("cond", "uncond"):
        found = (RECORDS_DIR / "fid_scores" / f"{name}_v{version}").glob(f"{kind}_*_efficientnet.json")
        files |= {kind: path} if (path := max(found, key=lambda file: file.stat().st_mtime, default=None)) else {}
    numbers = {key: json.loads(file.read_text()) for key, file in files.items() if file.is_file()}
    kept = numbers.get("cond", {}).get("attributes_kept")
    if kept:
        numbers["cond"]["kept"] = sum(kept.values()) / len(kept)
    return numbers


def number(numbers: dict, key: str | None) -> float | None:
    """The number of a dotted key, None where there is none."""
    node = numbers
    for part in (key or "none").split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return None if node is None or node != node else node


def value(versions: list[dict], key: str | None) -> str:
    """The number of a dotted key as text, mean and deviation where several versions have it; '' where none has."""
    found = [x for numbers in versions if (x := number(numbers, key)) is not None]
    if not found:
        return ""
    digits = 0 if mean(found) >= 10 else 2
    return f"{mean(found):.{digits}f}" + (f" ± {stdev(found):.{digits}f}" if len(found) > 1 else "")


def standing(text: str) -> dict[tuple[str, str], list[str]]:
    """The two cells of every row and data set of a table that `table` made."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    places = [(i, cell.removesuffix(", ours")) for i, cell in enumerate(rows[0]) if cell.endswith(", ours")]
    return {(row[0], name): row[i : i + 2] for row in rows[2:] for i, name in places}


def table(runs: list[str], text: str) -> str:
    """The table of these runs; what records/ has not of a run is taken from `text`, the table that stands."""
    named = [run.split("/") for run in runs]
    numbers = {name: [numbers_of(name, version) for version in versions.split(",")] for name, versions in named}
    names, old = list(numbers), standing(text)
    lines = ["| | " + " | ".join(f"{name}, ours | baseline" for name in names) + " | `analysis/evaluation/` |"]
    lines += ["|---" * (2 * len(names) + 2) + "|"]
    for name, ours, baseline, script in ROWS:
        cells = []
        for data in names:
            new = [value(numbers[data], key) for key in (ours, baseline)]
            cells += new if any(new) else old.get((name, data), new)
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} | `{script}` |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", default=["faces/0,1,2", "fmnist/0"], help="DATASET/VERSION[,...]")
    parser.add_argument("--into", type=Path, default=REPO_DIR / "README.md", help="default: README.md")
    args = parser.parse_args()
    before, rest = args.into.read_text(encoding="utf-8").split(MARKS[0])
    old, after = rest.split(MARKS[1])
    new = table(args.runs, old)
    args.into.write_text(f"{before}{MARKS[0]}\n{new}\n{MARKS[1]}{after}", encoding="utf-8")
    print(new)


if __name__ == "__main__":
    main()
