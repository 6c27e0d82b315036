"""Are prototypes what they are said to be: learnt, one for each attribute, where the attribute is, and able to bring it about when set alone?

Each attribute's best single prototype (AUROC on the test set) is judged, and random prototypes beside it. On drawn faces there are fresh faces that
no run has seen, with their true counterfactuals; other labelled sets go as far as labels do; a set without labels gets what needs none.

  pair, hit        on counterfactual pairs: it moves the right way (and by how many deviations); its best patch meets the attribute's true pixels
  region, inside   what it says, |E[x0 | s_k high] - E[x0 | s_k low]|, against the true region: correlation, and share of its mass inside
  appears          set to its 99 % quantile (1 % where it speaks against the attribute) and regenerated from the image's own x_T: share of
                   images without the attribute in which a classifier sees it; vanishes: the other way round; side: share of others that change
  taken            rise of the score found in the result / rise commanded
  single, latent   AUROC of that prototype, and of a logistic regression on all scores, beside the untrained encoder's; second: of the next best one

Several versions of --version_num are averaged, with deviations. Results go to records/faithfulness/<dataset>_v<n>/.
"""

import argparse

from analysis.script import add_edit_options, gesture_of, open_run, require, results_folder, run_parser
from train.errors import run_script

FRESH = 1_000_003  # added to a run's data seed: faces that no run has seen
NULLS = 3  # random prototypes an attribute
SHOWN = ("single", "untrained_single", "second", "latent", "untrained_latent", "pair", "hit", "hit_chance", "region", "inside", "appears", "vanishes")
SHOWN += ("side", "taken")


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=10, several=True)
    add_edit_options(parser)
    parser.add_argument("--num_samples", type=int, default=60, help="images edited an attribute, and counterfactual pairs (default: 60)")
    parser.add_argument("--untrained", action="store_true", help="judge the model as initialised, before any training (no edits)")
    parser.add_argument("--seed", type=int, default=0, help="of images and nulls (default: 0)")
    args = parser.parse_args()
    require(parser, args, num_samples=4, steps=2, seed=0)
    return args


def exclusive_of(name: str, names: list[str], source) -> list[int]:
    """Columns of attributes that an edit of `name` must leave alone: all but itself and those of which an image has one at most."""
    group = source.exclusive or tuple(n for n in names if n.startswith("Class_"))
    return [i for i, n in enumerate(names) if n != name and not (n in group and name in group)]


def images_for_edits(name: str, pairs, test, count: int):
    """uint8 images that lack and that have an attribute: counterfactuals, or test images."""
    import numpy as np

    if name in pairs:
        return pairs[name].absent[:count], pairs[name].present[:count]
    column = test.attributes[name].to_numpy(float)
    return tuple(np.array(test.pixels[np.flatnonzero(column == value)[:count]]) for value in (0, 1))


def judge(run, device, args) -> tuple:
    """-> (table of one row an attribute, the null's means, numbers of the whole run, what the figure shows)."""
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from analysis.measures import faithfulness as measures
    from analysis.measures.health import health_table, test_effects
    from analysis.measures.quality import evaluate, untrained_model
    from analysis.measures.readers import classifier_reader
    from train.data.dataset import load_split
    from train.data.table import SOURCES, resolve
    from train.scores import encode

    data = run.config.data
    source = SOURCES[data.source]
    labelled = data.model_copy(update={"where": None, "source": source.unrestricted or data.source})
    train, test = load_split(labelled, "train"), load_split(labelled, "test")
    bare = untrained_model(run, device)
    model = bare if args.untrained else run.model
    scores = encode(model, test, device=device)
    health = None if args.untrained else health_table(run, scores.numpy(), test.attributes, test_effects(run, test, scores))
    names = [n for n in test.attributes if all((test.attributes[n] == v).sum() >= 10 for v in (0, 1)) and test.attributes[n].notna().all()]
    attributes = test.attributes[names]
    numbers = {} if health is None else {"dead": int(health["dead"].sum()), "duplicates": int(health["duplicate"].sum())}
    if not names:
        return None, None, numbers, None

    table, captured, tad, _ = evaluate(scores.numpy(), attributes)
    plain = evaluate(encode(bare, test, device=device).numpy(), attributes)[0]
    single = measures_second(scores.numpy(), attributes)
    candidates = measures.best_candidates(scores.numpy(), attributes)
    rng = np.random.default_rng(args.seed)
    nulls = [measures.random_candidates(candidates, scores.shape[1], rng) for _ in range(NULLS)]
    made = resolve(source.counterfactuals)(data.image_size, data.seed + FRESH, args.num_samples) if source.counterfactuals else {}
    pairs = {name: measures.Pairs(*parts) for name, parts in made.items() if name in names}
    gesture = gesture_of(args, model, scores)
    reader = None if args.untrained else classifier_reader(train, train.attributes[names].to_numpy(float), device)
    shape = (data.channels, data.image_size, data.image_size)

    def row(candidate, edits: bool) -> dict:
        name, k = candidate.attribute, candidate.prototype
        found = {"prototype": k, "direction": candidate.direction}
        if name in pairs:
            found |= measures.pair_measures(model, pairs[name], candidate, scores[:, k].std().item())
            if not args.untrained:
                found |= measures.region_measures(measures.saying_map(model, [k], scores, shape)[0], pairs[name].region)
        if edits and reader is not None:
            without, having = images_for_edits(name, pairs, test, args.num_samples)
            others = exclusive_of(name, names, source)
            found |= measures.edit_measures(model, reader, without, having, candidate, names.index(name), others, gesture)
        return found

    rows = [row(candidate, True) for candidate in tqdm(candidates, desc="attributes", unit="attribute", leave=False)]
    result = pd.DataFrame(rows, index=pd.Index(names, name="attribute"))
    result["single"], result["second"] = measures.single_of(candidates, scores.numpy(), attributes), single
    result["latent"], result["untrained_single"], result["untrained_latent"] = table["latent"], plain["single"], plain["latent"]
    blind = []
    for number, null in enumerate(tqdm(nulls, desc="random prototypes", unit="set", leave=False)):
        drawn = pd.DataFrame([row(candidate, number == 0) for candidate in null])
        drawn["single"] = measures.single_of(null, scores.numpy(), attributes)
        blind.append(drawn.drop(columns=["prototype", "direction"]).mean())
    numbers |= {"tad": tad, "captured": len(captured), "guidance": gesture.guidance, "others": gesture.others, "images": args.num_samples}
    maps = None if args.untrained else measures.saying_map(model, [c.prototype for c in candidates], scores, shape)
    return result, pd.DataFrame(blind).mean(), numbers, (maps, pairs)


def measures_second(scores, attributes):
    """AUROC of the second best single prototype of each attribute."""
    import numpy as np

    from analysis.measures.quality import single_aurocs

    return np.sort(single_aurocs(scores, attributes.to_numpy(int).T), axis=1)[:, -2]


def draw(result, null, shown, path):
    """Left: bars of the main measures, an attribute each, the null as a line; below them what each prototype says, above the true region."""
    import numpy as np

    from analysis.drawing.figures import heat, plt, save_figure

    columns = [c for c in ("single", "pair", "hit", "region", "appears", "side", "taken") if c in result]
    maps, pairs = shown
    lines = 2 if pairs and maps is not None else 0
    figure = plt.figure(figsize=(1.3 * len(result) + 1.5, 3.2 + 1.4 * lines), layout="constrained")
    rows = figure.add_gridspec(1 + lines, len(result), height_ratios=[3, *[1.4] * lines])
    bars = figure.add_subplot(rows[0, :])
    width = 0.8 / len(columns)
    for i, column in enumerate(columns):
        at = np.arange(len(result)) + (i - len(columns) / 2 + 0.5) * width
        bars.bar(at, result[column].to_numpy(float), width, color=f"C{i}", label=f"{column} (random {null.get(column, np.nan):.2f})")
    bars.set_xticks(range(len(result)), [f"{n}\nprototype {k}" for n, k in zip(result.index, result["prototype"])], fontsize=7)
    bars.set_ylim(min(0.0, float(result[columns].min().min())), 1.15)
    bars.legend(fontsize=7, ncols=len(columns), loc="upper center", frameon=False)
    for i, name in enumerate(result.index if lines else []):
        for line, (values, label) in enumerate(((maps[i], "what it says"), (pairs[name].region.mean(0), "true region"))):
            axis = figure.add_subplot(rows[1 + line, i])
            heat(axis, values)
            if i == 0:
                axis.set_ylabel(label, fontsize=7)
    return save_figure(figure, path)


def report(run, device, args) -> dict:
    """Judge one run, print and save; -> its numbers."""
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
    print(", ".join(f"{key} {value}" for key, value in numbers.items() if key in ("tad", "captured", "dead", "duplicates")))
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
        table = pd.DataFrame(found).T.drop(columns=["null", "guidance", "others", "images"], errors="ignore").astype(float)
        print(f"versions {', '.join(map(str, found))}, mean and deviation:")
        print(table.agg(["mean", "std"]).T.round(3).to_string())


if __name__ == "__main__":
    run_script(main)
