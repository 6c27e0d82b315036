"""What is every prototype worth, where does it tell, and when? In bits, measured with the denoiser itself.

The bits that a condition c gives about the image seen through noise sigma_min: 1 / ln 2 times the integral over ln
sigma of E |D(z, sigma; c) - D(z, sigma)|^2 / sigma^2 (Guo, Shamai and Verdu 2005; Kong et al. 2024), which splits over
pixels (where) and noise levels (when). Of every prototype alone (its score shown, all others hidden, against nothing),
beyond the others (all against all but it), and of all together. The same by the difference of squared errors stands
beside it ("check"): where that is far smaller, the denoiser errs and the score says less than it seems. Runs that
cannot hide scores, as the published ones, are asked beyond the others alone, the score set to its most probable value
given them. Results go to records/information/<dataset>_v<n>/, those of --prototypes to information_of_some/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import CI, SIGMA_MIN, open_run, parse_prototypes, require, run_parser
from train.errors import UserError, run_script

ROWS = 8  # prototypes in the figure
EXAMPLES = 2  # images beside each
STACKED = 12
MAP_NOISES = 2


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--prototypes", metavar="0,3,17", help="which prototypes (default: all)")
    text = "draws of (test image, noise level, noise) (default: 1250)"
    parser.add_argument("--num_samples", type=int, default=1250, help=text)
    parser.add_argument(
        "--sigma_min",
        type=float,
        default=SIGMA_MIN,
        help=f"noise through which the image is seen (default: {SIGMA_MIN})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    args = parser.parse_args()
    require(parser, args, num_samples=50, seed=0)
    return args


def bits_table(information, prototypes: list[int], test, scores):
    """One row a prototype, most bits first."""
    import numpy as np
    import pandas as pd

    from analysis.measures.auroc import best_attributes
    from models.information import quantile_level

    table = pd.DataFrame(index=pd.Index(prototypes, name="prototype"))
    estimates = {"alone": information.alone, "beyond": information.beyond}
    for name, estimate in estimates.items():
        if estimate is None:
            continue
        bits = estimate.bits
        table[name], table[f"{name}_low"], table[f"{name}_high"] = (
            bits.total,
            bits.total - CI * bits.error,
            bits.total + CI * bits.error,
        )
        table[f"{name}_error"], table[f"{name}_check"] = bits.error, estimate.check.total
        for column, share in ((f"{name}_sigma", 0.5), (f"{name}_sigma_first", 0.25), (f"{name}_sigma_last", 0.75)):
            table[column] = quantile_level(information.levels, estimate.timing, share)
    if len(test.attributes.columns):
        names, auroc = best_attributes(scores.numpy(), test.attributes)
        table["attribute"], table["auroc"] = np.array(names)[prototypes], np.array(auroc)[prototypes]
    return table.sort_values("alone" if information.alone else "beyond", ascending=False)


def summary_of(information, table, width: int) -> list[str]:
    """What the sums say beside the total, of the scores of `width` prototypes; sums of some would say nothing."""
    import numpy as np

    low, high = (f"{np.exp(edge):.3g}" for edge in information.levels.edges[[0, -1]])
    lines = [f"noise levels covered: {low} to {high}, and all above, where the gap is taken as constant"]
    beyond, some = table["beyond"].sum(), [f"{len(table)} of {width} prototypes asked: no sums"]
    if information.total is None:
        why = "this run cannot hide scores: no total, and no prototype alone"
        sums = [f"beyond the others, summed: {beyond:.1f} bits ({why})"]
        return lines + (sums if len(table) == width else some)
    total, error = information.total.bits.total[0], information.total.bits.error[0]
    lines.append(
        f"all scores together: {total:.1f} +- {error:.1f} bits (check: {information.total.check.total[0]:.1f})"
    )
    if len(table) < width:
        return lines + some
    alone = table["alone"].sum()
    shared = "they share much of it" if alone > total else "they tell much together only"
    lines.append(f"each alone, summed: {alone:.1f} bits, {alone / total:.2f} of the total: {shared}")
    lines.append(
        f"each beyond the others, summed: {beyond:.1f} bits, {beyond / total:.2f} of the total: what "
        "no other prototype tells"
    )
    return lines


def figure_rows(run, test, scores, information, table, prototypes: list[int], device) -> list[dict]:
    """What the figure shows of the prototypes of most bits."""
    import numpy as np

    from analysis.measures.cards import expected_extremes
    from analysis.measures.information import image_maps
    from analysis.measures.labels import TELLS
    from train.images import to_tensor, to_uint8

    expected, mean = to_uint8(expected_extremes(run, scores)[:, 1]), np.array(test.pixels[:1000]).mean(0)
    main, rows = "alone" if information.alone else "beyond", []
    levels = information.levels.sigmas[1::2]
    for k in table.index[:ROWS]:
        place, entry = prototypes.index(k), table.loc[k]
        having = scores[:, k].topk(min(EXAMPLES, len(scores))).indices
        x0, s = to_tensor(test.pixels[having.numpy()], device), scores[having].to(device)
        maps = image_maps(run.model, x0, s, k, scores, information.alone is not None, levels, MAP_NOISES).sum(0)
        about = (
            f"{entry['attribute']} (AUROC {entry['auroc']:.2f})\n"
            if "attribute" in table and entry["auroc"] >= TELLS
            else ""
        )
        text = f"prototype {k}\n{about}" + "\n".join(
            f"{name}: {entry[name]:.2f} +- {CI * entry[f'{name}_error']:.2f} bits"
            for name in ("alone", "beyond")
            if name in table
        )
        estimates = {"alone": information.alone, "beyond": information.beyond}
        rows.append(
            {
                "text": f"{text}\nat noise {entry[f'{main}_sigma']:.2g}",
                "expected": expected[k],
                "mean_image": mean,
                "where": estimates[main].where[place],
                "images": [(test.pixels[i], line) for i, line in zip(having.tolist(), maps)],
                "densities": {name: estimate.bits.density[place] for name, estimate in estimates.items() if estimate},
                "spans": tuple(entry[f"{main}_sigma{end}"] for end in ("_last", "", "_first")),
            }
        )
    return rows


def draw_information(run, test, scores, information, table, *, prototypes: list[int], device, path) -> list:
    """The figure -> its files."""
    from analysis.drawing.information import draw
    from analysis.measures.labels import TELLS

    main, name = (information.alone, "alone") if information.alone else (information.beyond, "beyond the others")
    density = main.bits.density[[prototypes.index(k) for k in table.index]]
    labels = [str(k) for k in table.index[:STACKED]]
    if "attribute" in table:
        named = zip(labels, table["attribute"], table["auroc"])
        labels = [f"{label} {attribute}" if auroc >= TELLS else label for label, attribute, auroc in named]
    stacked = dict(zip(labels, density)) | {"all others": density[STACKED:].sum(0)}
    sums = {}
    if information.total:
        beyond = information.beyond.bits.density.sum(0)
        sums = {"all together": information.total.bits.density[0], "beyond the others, summed": beyond}
    rows = figure_rows(run, test, scores, information, table, prototypes, device)
    return draw(rows, information.levels.sigmas, stacked, sums, f"every prototype {name}, stacked", path)


def save(information, table, prototypes: list[int], lines: list[str], folder) -> tuple:
    """-> (file of the arrays, file of the table)."""
    import numpy as np

    from analysis.results import save_arrays
    from analysis.schemas import BITS, BITS_SUMS

    arrays = {"prototypes": np.array(prototypes), "sigma_edges": np.exp(information.levels.edges)}
    for key, estimate in (("alone", information.alone), ("beyond", information.beyond), ("total", information.total)):
        if estimate:
            arrays |= {f"{key}_{part}": getattr(estimate.bits, part) for part in ("total", "error", "density")}
            arrays |= {f"{key}_check": estimate.check.total, f"{key}_where": estimate.where}
    BITS_SUMS.write(folder, {"sums": lines})
    return save_arrays(folder / "information.npz", **arrays), BITS.write(folder, table)


def main() -> None:
    args = parse_args()

    from analysis.measures.information import measure_information
    from analysis.results import results_folder
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    if not 0 < args.sigma_min < run.model.sigma_max:
        raise UserError(f"--sigma_min {args.sigma_min}: must lie between 0 and the model's {run.model.sigma_max:g}")
    test = load_split(run.config.data, "test")
    scores = encode(run.model, test, device=device)
    prototypes = parse_prototypes(args.prototypes, scores.shape[1]) if args.prototypes else list(range(scores.shape[1]))
    if not run.model.masked:
        how = "beyond the others alone, each score set to its most probable value given them"
        print(f"this run cannot hide scores: {how}")
    information = measure_information(run.model, test, scores, prototypes, args.num_samples, args.sigma_min, args.seed)
    table = bits_table(information, prototypes, test, scores)

    whole, lines = len(table) == scores.shape[1], summary_of(information, table, scores.shape[1])
    folder = results_folder("information" if whole else "information_of_some", run, args.outdir)
    figure = draw_information(
        run, test, scores, information, table, prototypes=prototypes, device=device, path=folder / "information"
    )[0]
    arrays, csv = save(information, table, prototypes, lines, folder)
    columns = [f"{key}{part}" for key in ("alone", "beyond") for part in ("", "_error", "_check", "_sigma")]
    print(table[[c for c in (*columns, "attribute", "auroc") if c in table]].head(20).round(3).to_string())
    print("\n".join(lines))
    print(f"figure: {figure}; arrays: {arrays}; table of all {len(table)}: {csv}")


if __name__ == "__main__":
    run_script(main)
