"""The tables of docs/patches.md, in Markdown, from what compare.py, agree.py and heatmaps.py left in their folders.

They are printed; nothing is written. docs/patches.md has the commands that come before.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "folder of {} (default: that below records/mechanism/)"
    programs = {"compare": "compare.py", "agree": "agree.py", "heatmaps": "heatmaps.py or fit_schedule.py --heatmaps"}
    for name, program in programs.items():
        parser.add_argument(f"--{name}", metavar="FOLDER", type=Path, help=text.format(program))
    return parser.parse_args()


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows))


def one_digit(value: float) -> str:
    """Rounded to its first digit, large numbers without an exponent."""
    return f"{float(f'{value:.1g}'):g}"


def thousandths(value: float, error: float) -> str:
    """The error is NaN where there was one image."""
    return f"{1000 * value:.3g}" + ("" if error != error else f" ± {one_digit(1000 * error)}")


def distances(rows: list[dict]) -> str:
    """A table for each kind of images and network: thousandths, mean and standard error, the nearest bold."""
    from analysis.mechanism.comparison import table_of

    parts = []
    for (images, network), part in table_of(rows).groupby(["images", "network"], sort=False):
        names = list(part["denoiser"].unique())
        free = [name for name in names if name not in ("conditional", "unconditional", "network_latent")]
        lines = []
        for sigma, level in part.groupby("sigma", sort=False):
            level = level.set_index("denoiser")
            nearest = level.loc[free, "difference"].idxmin()
            cells = [thousandths(*level.loc[name, ["difference", "standard_error"]]) for name in names]
            lines.append(
                [f"{sigma:.3g}", *(f"**{cell}**" if name == nearest else cell for name, cell in zip(names, cells))]
            )
        parts.append(f"{network} network, {images} images:\n\n" + markdown(["sigma", *names], lines))
    return "\n\n".join(parts)


def order(lines: list[dict]) -> str:
    """Where the published order of denoisers holds by two standard errors."""

    def levels(values: list[float]) -> str:
        return f"{len(values)}" + (
            f" ({', '.join(f'{sigma:.2g}' for sigma in values)})" if 0 < len(values) < 10 else ""
        )

    header = ["nearer", "farther", "network", "images", "holds at levels", "reversed at", "undecided at"]
    cells = [[line[key] for key in ("nearer", "farther", "network", "images")] for line in lines]
    counts = [[levels(line[key]) for key in ("holds", "reversed", "undecided")] for line in lines]
    return markdown(header, [left + right for left, right in zip(cells, counts)])


def agreement(similarities: dict) -> str:
    from analysis.mechanism.agreement import table_of

    table, kinds = table_of(similarities), list(similarities)
    rows = [
        [name, *(f"{row[kind]:.2f} ± {row[f'{kind}_error']:.2f}" for kind in kinds)] for name, row in table.iterrows()
    ]
    return markdown(["samples of", *kinds], rows)


def sides(found: dict) -> str:
    names = list(found["sides"])
    rows = [
        [f"{sigma:.3g}", *(f"{found['sides'][name][i]:.1f}" for name in names)]
        for i, sigma in enumerate(found["levels"])
    ]
    return markdown(["sigma", *names], rows)


def main() -> None:
    args = parse_args()

    import json

    from global_config import RECORDS_DIR
    from train.errors import reading

    def read(folder: Path | None, default: str, name: str) -> dict | None:
        file = (folder or RECORDS_DIR / "mechanism" / default) / name
        if not file.is_file():
            if folder is not None:
                raise UserError(f"{file}: no such file; run analysis/mechanism/{default}.py first")
            return None
        with reading(file):
            return json.loads(file.read_text())

    compared, agreed = read(args.compare, "compare", "compare.json"), read(args.agree, "agree", "agree.json")
    looked = read(args.heatmaps, "heatmaps", "radius.json")
    with reading("the results"):
        if compared:
            print(
                f"{compared['conclusion']}.\n\n{distances(compared['rows'])}\n\n{order(compared['published_order'])}\n"
            )
        if agreed:
            print(f"{agreement(agreed['similarities'])}\n")
        if looked:
            print(sides(looked))
    if not (compared or agreed or looked):
        raise UserError("nothing to make tables of; run analysis/mechanism/compare.py, agree.py or heatmaps.py first")


if __name__ == "__main__":
    run_script(main)
