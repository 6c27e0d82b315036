"""Are prototypes what they are said to be: learnt, one for each attribute, where the attribute is, and able to bring it about when set alone?

Each attribute's best single prototype (AUROC on the test set) is judged, and random prototypes beside it. On drawn faces there are fresh faces that
no run has seen, with their true counterfactuals; other labelled sets go as far as labels do; a set without labels gets what needs none.

  pair, hit        on counterfactual pairs: it moves the right way (and by how many deviations); its best patch meets the attribute's true pixels
  region, inside   what it says, |E[x0 | s_k high] - E[x0 | s_k low]|, against the true region: correlation, and share of its mass inside
  map              on single images: average precision of its information (beyond the others) for the attribute's pixels in that very image; beside
                   it map_inside, the share of those bits inside, and the same of its information alone, its patch box, its gradient, and chance
  appears          set to its 99 % quantile (1 % where it speaks against the attribute) and regenerated from the image's own x_T: share of
                   images without the attribute in which a classifier sees it; vanishes: the other way round; side: share of others that change
  taken            rise of the score found in the result / rise commanded
  single, latent   AUROC of that prototype, and of a logistic regression on all scores, beside the untrained encoder's; second: of the next best one

Several versions of --version_num are averaged, with deviations. Results go to records/faithfulness/<dataset>_v<n>/.
"""

import argparse

from analysis.script import add_edit_options, gesture_of, open_run, require, results_folder, run_parser
from train.errors import run_script

SHOWN = ("single", "untrained_single", "second", "latent", "untrained_latent", "pair", "hit", "hit_chance", "region", "inside", "appears", "vanishes")
SHOWN += ("side", "taken", "map", "map_inside", "map_alone", "map_box", "map_gradient", "map_chance")


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=10, several=True)
    add_edit_options(parser)
    parser.add_argument("--num_samples", type=int, default=60, help="images edited an attribute, and counterfactual pairs (default: 60)")
    parser.add_argument("--untrained", action="store_true", help="judge the model as initialised, before any training (no edits)")
    parser.add_argument("--seed", type=int, default=0, help="of images and nulls (default: 0)")
    args = parser.parse_args()
    require(parser, args, num_samples=4, steps=2, seed=0)
    return args


def judge(run, device, args) -> tuple:
    """-> (table of one row an attribute, the null's means, numbers of the whole run, what the figure shows)."""
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from analysis.measures import faithfulness as measures
    from analysis.measures.cards import matter_most
    from analysis.measures.health import health_table, test_effects
    from analysis.measures.quality import evaluate, untrained_model
    from analysis.measures.readers import classifier_reader
    from train.scores import encode

    train, test, names = measures.labelled_splits(run)
    bare = untrained_model(run, device)
    model = bare if args.untrained else run.model
    scores, attributes = encode(model, test, device=device), test.attributes[names]
    numbers, gesture = {}, gesture_of(args, model, scores)
    if not args.untrained:
        effects = test_effects(run, test, scores)
        health = health_table(run, scores.numpy(), test.attributes, effects)
        numbers = {"dead": int(health["dead"].sum()), "duplicates": int(health["duplicate"].sum())}
    if not names and not args.untrained:
        used = matter_most(run, test, scores, 10)
        taken = measures.taken_alone(model, np.array(test.pixels[: args.num_samples]), used, gesture)
        numbers |= {"taken": float(np.mean(list(taken.values()))), "taken_by_prototype": taken}
    if not names:
        return None, None, numbers, None
    reader = None if args.untrained else classifier_reader(train, train.attributes[names].to_numpy(float), device)
    court = measures.Court(run, model, scores, test, names, measures.pairs_of(run, names, args.num_samples), reader, gesture, args.num_samples)

    candidates = measures.best_candidates(scores.numpy(), attributes)
    rows = [court.judge(candidate) for candidate in tqdm(candidates, desc="attributes", unit="attribute", leave=False)]
    result = pd.DataFrame(rows, index=pd.Index(names, name="attribute"))
    told, captured, tad, _ = evaluate(scores.numpy(), attributes)
    untrained = evaluate(encode(bare, test, device=device).numpy(), attributes)[0]
    result["single"], result["second"] = measures.single_of(candidates, scores.numpy(), attributes), told["second"]
    result["latent"], result["untrained_single"], result["untrained_latent"] = told["latent"], untrained["single"], untrained["latent"]
    null = measures.against_random(court, candidates, attributes, args.seed)
    numbers |= {"tad": tad, "captured": len(captured), "guidance": gesture.guidance, "others": gesture.others, "images": args.num_samples}
    maps = measures.saying_map(model, [c.prototype for c in candidates], scores, court.shape)
    return result, null, numbers, (maps, court.pairs)


def report(run, device, args) -> dict:
    """Judge one run, print and save; -> its numbers."""
    from analysis.drawing.faithfulness import draw
    from analysis.drawing.results import save_json, save_table

    result, null, numbers, shown = judge(run, device, args)
    folder, name = results_folder("faithfulness", run), "untrained" if args.untrained else "faithfulness"
    print(f"{run.name} version {run.version}{' (untrained)' if args.untrained else ''}")
    if result is not None:
        columns = [c for c in SHOWN if c in result]
        means = result[columns].mean().to_dict()
        print(result[["prototype", "direction", *columns]].round(2).to_string())
        print("mean of the attributes: " + ", ".join(f"{c} {means[c]:.3f}" for c in columns))
        print("random prototypes:      " + ", ".join(f"{c} {null[c]:.3f}" for c in columns if c in null))
        print(f"worst single {result['single'].min():.3f}, worst latent {result['latent'].min():.3f}")
        table = save_table(folder / f"{name}.csv", result)
        figure = draw(result, null, shown, folder / name)[0]
        numbers = means | {"worst_single": result["single"].min(), "worst_latent": result["latent"].min()} | numbers
        numbers |= {"null": {c: float(null[c]) for c in null.index}}
        print(f"table: {table}; figure: {figure}")
    print(", ".join(f"{key} {value:.3g}" for key, value in numbers.items() if key in ("tad", "captured", "dead", "duplicates", "taken")))
    file = save_json(folder / f"{name}.json", {"run": f"{run.name}/{run.version}", "step": run.step} | numbers)
    print(f"numbers: {file}")
    return numbers


def main() -> None:
    args = parse_args()

    import pandas as pd

    found = {}
    for version in args.version_num or [None]:
        run, device = open_run(argparse.Namespace(**vars(args) | {"version_num": version}))
        found[run.version] = report(run, device, args)
    if len(found) > 1:
        table = pd.DataFrame(found).T.drop(columns=["null", "guidance", "others", "images", "taken_by_prototype"], errors="ignore").astype(float)
        print(f"versions {', '.join(map(str, found))}, mean and deviation:")
        print(table.agg(["mean", "std"]).T.round(3).to_string())


if __name__ == "__main__":
    run_script(main)
