"""How much do the scores tell about known attributes? (Weng et al. 2026, Sec. 4.2; protocol of Wang et al. 2023)

Over five shuffled folds of encoded images (test images first, then the others: the encoder saw no labels of either): AUROC of a logistic
regression on all scores (latent; accuracy where images have one class label), of the best single prototype, and TAD with the number of
captured attributes (Yeats et al. 2022). --untrained shows the same for the model before its first step, since random features of patches already
tell a good deal. Several versions of --version_num are compared. Results go to records/prototype_quality/<dataset>_v<n>/.
"""

import argparse

from analysis.script import results_folder, run_parser
from train.errors import UserError, run_script

FOLDS = 5
CAPTURED_AUROC, CAPTURED_SHARED = 0.75, 0.2  # at least, at most


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None, several=True)
    parser.add_argument("--limit", type=int, default=10000, help="at most so many images (default: 10000)")
    parser.add_argument("--untrained", action="store_true", help="the encoder as initialised, before any training")
    args = parser.parse_args()
    if args.limit < 4 * FOLDS:
        parser.error(f"--limit must be at least {4 * FOLDS}")
    return args


def entropy_bits(labels):
    """Entropy of binary labels (..., N) in bits, over the last axis."""
    import numpy as np

    p = np.clip(np.mean(labels, axis=-1), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def mutual_bits(labels):
    """Mutual information in bits of every pair of binary labels (A, N), from their counts: (A, A)."""
    import numpy as np

    labels = np.asarray(labels, dtype=float)
    n = labels.shape[1]
    share = np.stack([1 - labels.mean(1), labels.mean(1)])  # (2, A)
    total = np.zeros((len(labels), len(labels)))
    for x, left in enumerate((1 - labels, labels)):
        for y, right in enumerate((1 - labels, labels)):
            joint = left @ right.T / n
            expected = np.outer(share[x], share[y])
            total += np.where(joint > 0, joint * np.log2(np.maximum(joint, 1e-300) / np.maximum(expected, 1e-300)), 0)
    return total


def captured_and_tad(single, labels) -> tuple[list[int], float]:
    """Which attributes (rows of single (A, m): AUROC, better direction; labels (A, N)) are captured, and TAD.

    Captured: best AUROC at least 0.75 and at most 0.2 of the entropy shared with any other attribute (Wang et al. 2023). TAD: sum over
    those of best minus second-best AUROC.
    """
    import numpy as np

    shared = mutual_bits(labels)
    np.fill_diagonal(shared, 0)
    share = shared.max(1) / entropy_bits(labels)
    second, best = np.sort(single, axis=1)[:, -2:].T
    captured = np.flatnonzero((best >= CAPTURED_AUROC) & (share <= CAPTURED_SHARED))
    return captured.tolist(), float((best - second)[captured].sum())


def single_aurocs(scores, labels):
    """AUROC, in the better direction, of every score (N, m) for every row of labels (A, N): (A, m)."""
    import numpy as np
    from scipy.stats import rankdata

    from analysis.measures.auroc import auroc_of_ranks

    ranks = rankdata(scores, axis=0)
    auroc = np.array([auroc_of_ranks(ranks, row > 0) for row in labels])
    return np.maximum(auroc, 1 - auroc)


def folds_of(scores):
    from sklearn.model_selection import KFold
    from tqdm import tqdm

    return tqdm(list(KFold(FOLDS, shuffle=True, random_state=0).split(scores)), desc="folds", leave=False)


def regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def evaluate(scores, attributes):
    """scores (N, m), attributes (N rows, no unknowns) -> (table of one row an attribute, captured names, TAD mean, TAD deviation)."""
    import numpy as np
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    names, labels = list(attributes.columns), attributes.to_numpy(int).T
    latent, tads = np.empty((FOLDS, len(names))), []
    for fold, (fit, held) in enumerate(folds_of(scores)):
        for a in range(len(names)):
            fitted = regression().fit(scores[fit], labels[a, fit])
            latent[fold, a] = roc_auc_score(labels[a, held], fitted.decision_function(scores[held]))
        tads.append(captured_and_tad(single_aurocs(scores[held], labels[:, held]), labels[:, held])[1])
    single = single_aurocs(scores, labels)
    rows = {"latent": latent.mean(0), "deviation": latent.std(0), "single": single.max(1), "prototype": single.argmax(1)}
    captured, _ = captured_and_tad(single, labels)
    return pd.DataFrame(rows, index=pd.Index(names, name="attribute")), [names[a] for a in captured], np.mean(tads), np.std(tads)


def class_accuracy(scores, labels) -> tuple[float, float]:
    """Accuracy of a logistic regression from scores (N, m) to classes (N,): mean and deviation over folds."""
    import numpy as np

    found = [np.mean(regression().fit(scores[fit], labels[fit]).predict(scores[held]) == labels[held]) for fit, held in folds_of(scores)]
    return float(np.mean(found)), float(np.std(found))


def usable_attributes(attributes, run_name: str) -> tuple[list[str], list[str]]:
    """Binary attributes known for every image, with enough of each class for the folds; and the others. Raises UserError."""
    least = 2 * FOLDS
    usable = [c for c in attributes if attributes[c].notna().all() and attributes[c].nunique() == 2 and attributes[c].value_counts().min() >= least]
    left_out = [c for c in attributes if c not in usable]
    if not usable:
        raise UserError(f"{run_name}: no attribute with both classes known and at least {least} images of each; left out: {left_out or 'none'}")
    return usable, left_out


def judge_run(args, version: int | None) -> dict:
    """Print and save the table of one run; returns its numbers."""
    import numpy as np
    import pandas as pd
    import torch

    from analysis.drawing.results import save_json, save_table
    from train.build import build_model
    from train.data.dataset import list_source, load_split
    from train.distributed import pick_device
    from train.loop import initialise
    from train.runs import load_run
    from train.scores import encode

    device = pick_device(args.device)
    run = load_run(args.dataset, version, device)
    present = set(list_source(run.config.data).splits)
    splits = [load_split(run.config.data, split) for split in ("test", "val", "train") if split in present]
    model = run.model
    if args.untrained:
        torch.manual_seed(run.config.train.seed)
        model = build_model(run.config).to(device)
        initialise(model, run.config, load_split(run.config.data, "train"), device)
    attributes = pd.concat([images.attributes for images in splits], ignore_index=True)[: args.limit]
    usable, left_out = usable_attributes(attributes, run.name)
    scores = torch.cat([encode(model, images, device=device) for images in splits])[: args.limit].numpy()
    table, captured, tad, deviation = evaluate(scores, attributes[usable])
    numbers = {"version": run.version, "images": len(scores), "latent": table["latent"].mean(), "single": table["single"].mean()}
    numbers |= {"tad": tad, "tad_deviation": deviation, "captured": len(captured)}

    name = "untrained" if args.untrained else "quality"
    file = save_table(results_folder("prototype_quality", run) / f"{name}.csv", table)
    print(f"{run.name} version {run.version}")
    print(table.round(3).to_string())
    print(f"{len(scores)} images, {FOLDS} folds; mean latent AUROC {table['latent'].mean():.3f}; TAD {tad:.3f} +- {deviation:.3f}")
    if splits[0].labels is not None:
        labels = np.concatenate([images.labels for images in splits])[: args.limit]
        numbers["accuracy"], spread = class_accuracy(scores, labels)
        print(f"accuracy of {len(np.unique(labels))} classes {numbers['accuracy']:.3f} +- {spread:.3f}")
    print(f"captured attributes, {len(captured)}: {', '.join(captured) or 'none'}")
    if left_out:
        print(f"left out (unknown values or too few of a class): {', '.join(left_out)}")
    summary = save_json(file.with_suffix(".json"), {key: float(value) for key, value in numbers.items()})
    print(f"table: {file}; numbers: {summary}")
    return numbers


def main() -> None:
    args = parse_args()

    import pandas as pd

    rows = [judge_run(args, version) for version in args.version_num or [None]]
    if len(rows) > 1:
        table = pd.DataFrame(rows).set_index("version")
        print(pd.concat([table, table.agg(["mean", "std"])]).round(3).to_string())


if __name__ == "__main__":
    run_script(main)
