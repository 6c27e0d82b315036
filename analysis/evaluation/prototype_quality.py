"""How much do the scores tell about known attributes? (Weng et al. 2026, Sec. 4.2; protocol of Wang et al. 2023)

Over five shuffled folds of encoded images (test images first, then the others: the encoder saw no labels of either): AUROC of a logistic
regression on all scores (latent), of the best single prototype, and TAD with the number of captured attributes (Yeats et al. 2022).
--untrained shows the same for the model before its first step, since random features of patches already tell a good deal.
Results go to records/prototype_quality/<dataset>_v<n>/.
"""

import argparse

from train.errors import UserError, run_script

FOLDS = 5


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="name of the run's data set (default: that of the newest run)")
    parser.add_argument("--version_num", type=int, help="version of the run (default: the newest)")
    parser.add_argument("--limit", type=int, default=10000, help="at most so many images (default: 10000)")
    parser.add_argument("--untrained", action="store_true", help="the encoder as initialised, before any training")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def entropy_bits(labels):
    """Entropy of binary labels in bits."""
    import numpy as np

    p = np.clip(np.mean(labels), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def captured_and_tad(single, labels) -> tuple[list[int], float]:
    """Which attributes (rows of single (A, m): AUROC, better direction; labels (A, N)) are captured, and TAD.

    Captured: best AUROC at least 0.75 and at most 0.2 of the entropy shared with any other attribute (Wang et al. 2023). TAD: sum over
    those of best minus second-best AUROC.
    """
    import numpy as np
    from sklearn.metrics import mutual_info_score

    captured, tad = [], 0.0
    for a, auroc in enumerate(single):
        shared = max((mutual_info_score(labels[a], other) / np.log(2) for b, other in enumerate(labels) if b != a), default=0.0)
        second, best = np.sort(auroc)[-2:]
        if best >= 0.75 and shared / entropy_bits(labels[a]) <= 0.2:
            captured.append(a)
            tad += best - second
    return captured, float(tad)


def evaluate(scores, attributes):
    """scores (N, m), attributes (N rows, no unknowns) -> (table of one row an attribute, captured names, TAD mean, TAD deviation)."""
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from tqdm import tqdm

    from analysis.auroc import single_auroc

    names, labels = list(attributes.columns), attributes.to_numpy(int).T
    latent, tads = np.empty((FOLDS, len(names))), []
    folds = list(KFold(FOLDS, shuffle=True, random_state=0).split(scores))
    for fold, (fit, held) in enumerate(tqdm(folds, desc="folds", leave=False)):
        for a in range(len(names)):
            regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(scores[fit], labels[a, fit])
            latent[fold, a] = roc_auc_score(labels[a, held], regression.decision_function(scores[held]))
        single = np.array([single_auroc(scores[held], labels[a, held].astype(float)) for a in range(len(names))])
        tads.append(captured_and_tad(np.maximum(single, 1 - single), labels[:, held])[1])
    single = np.array([single_auroc(scores, row.astype(float)) for row in labels])
    single = np.maximum(single, 1 - single)
    rows = {"latent": latent.mean(0), "deviation": latent.std(0), "single": single.max(1), "prototype": single.argmax(1)}
    captured, _ = captured_and_tad(single, labels)
    return pd.DataFrame(rows, index=pd.Index(names, name="attribute")), [names[a] for a in captured], np.mean(tads), np.std(tads)


def main() -> None:
    args = parse_args()

    import pandas as pd
    import torch

    from global_config import RECORDS_DIR
    from train.build import build_model
    from train.data.dataset import list_source, load_split
    from train.distributed import pick_device
    from train.images import replace_file
    from train.loop import initialise
    from train.runs import load_run
    from train.scores import encode

    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    present = set(list_source(run.config.data).splits)
    splits = [load_split(run.config.data, split) for split in ("test", "val", "train") if split in present]
    model = run.model
    if args.untrained:
        torch.manual_seed(run.config.train.seed)
        model = build_model(run.config).to(device)
        initialise(model, run.config, load_split(run.config.data, "train"), device)
    attributes = pd.concat([images.attributes for images in splits], ignore_index=True)[: args.limit]
    usable = [
        c for c in attributes if attributes[c].notna().all() and attributes[c].value_counts().min() >= 2 * FOLDS and attributes[c].nunique() == 2
    ]
    left_out = [c for c in attributes if c not in usable]
    if not usable:
        raise UserError(f"{run.name}: no attribute with both classes known and at least {2 * FOLDS} images of each; left out: {left_out or 'none'}")
    scores = torch.cat([encode(model, images, device=device) for images in splits])[: args.limit].numpy()
    table, captured, tad, deviation = evaluate(scores, attributes[usable])

    name = "untrained" if args.untrained else "quality"
    folder = RECORDS_DIR / "prototype_quality" / f"{run.name}_v{run.version}"
    file = replace_file(folder / f"{name}.csv", lambda target: table.to_csv(target))
    print(table.round(3).to_string())
    print(f"{len(scores)} images, {FOLDS} folds; mean latent AUROC {table['latent'].mean():.3f}; TAD {tad:.3f} +- {deviation:.3f}")
    print(f"captured attributes, {len(captured)}: {', '.join(captured) or 'none'}")
    if left_out:
        print(f"left out (unknown values or too few of a class): {', '.join(left_out)}")
    print(f"table: {file}")


if __name__ == "__main__":
    run_script(main)
