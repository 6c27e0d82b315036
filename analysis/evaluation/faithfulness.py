"""Are prototypes what they are said to be: learnt, one for each attribute, where the attribute is, and able to bring it
about when set alone?

For each attribute two single prototypes are chosen on training and validation images: the best detector, and the best
setter (whose setting brings the attribute about and changes least beside it). They are judged on test images and, on
drawings, on fresh ones that no run has seen, with their true counterfactuals. Beside them are judged: states of groups
of prototypes, both found without labels; all scores together, moved along a linear read-out of the attribute; and
random prototypes. A set without labels gets what needs none.
--meanings prints what every number means. Several versions of --version_num are averaged, with deviations. Results go
to records/faithfulness/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import SIGMA_MIN, add_edit_options, edit_options, open_run, require, run_parser
from train.errors import UserError, run_script

MEANINGS = {  # column -> better where, what it is
    "single": ("high", "AUROC of the detector on test images, chosen on training images"),
    "untrained_single": ("", "the same of the encoder before training"),
    "second": ("low", "AUROC of the second best prototype by the test images themselves"),
    "latent": ("high", "AUROC of a logistic regression on all scores"),
    "untrained_latent": ("", "the same of the encoder before training"),
    "pair": ("high", "share of counterfactual pairs in which the score moves the right way"),
    "pair_deviations": ("high", "by how many deviations of the score"),
    "hit": ("high", "share of images in which the patch box meets the attribute's true pixels"),
    "hit_chance": ("", "the same of any box"),
    "region": ("high", "correlation of its map, |E[x0 | s high] - E[x0 | s low]|, with the true region"),
    "inside": ("high", "share of that inside the true region"),
    "inside_chance": ("", "share of the image that the region covers"),
    "appears": ("high", "set for it: share of images without the attribute in which a classifier then sees it"),
    "vanishes": ("high", "set against it: share of images with it in which it is no longer seen"),
    "side": ("low", "share of the other attributes that change with it"),
    "side_vanishes": ("low", "the same of vanishing"),
    "effectiveness": ("one", "rise of the score found in the result / rise commanded"),
    "guided": ("low", "share of images that took guidance"),
    "unreached": ("low", "share of images whose commanded score is not found within a tenth of its range"),
    "mnac": ("one", "mean number of attributes that change"),
    "cd_data": ("low", "sum of |correlation of an attribute's change with the edited one's - the data's|"),
    "cd_truth": ("low", "the same against the truth: nothing else changes"),
    "cout": ("high", "area under p(target) - p(source) while the most changed pixels go first, -1 to 1"),
    "distance": ("low", "mean squared difference of the edit to the true counterfactual, [-1, 1]"),
    "distance_none": ("", "the same of doing nothing"),
    "distance_joint": ("", "the same of moving the others by regression, guided with 1"),
    "composition": ("low", "squared distance to the image after two edits to its own scores"),
    "reversibility": ("low", "squared distance to the image after the edit and its undoing"),
    "deletion": ("high", ".5 + .5 Spearman(importance of a part, fall of the score when the part is truly removed)"),
    "consistent": ("high", "share of prototypes whose box meets one part in 80 % of the images that show it"),
    "stable": ("high", "share of images whose parts in the box survive noise"),
    "perturbed_inside": ("high", "fall of the score, in deviations, with noise in the patch box"),
    "perturbed_outside": ("low", "the same with noise in all but the patch box"),
    "map": ("high", "average precision of the information beyond the others for the true pixels of single images"),
    "map_inside": ("high", "share of those bits inside the true pixels"),
    "map_alone": ("high", "average precision of the information alone"),
    "map_box": ("", "of the patch box"),
    "map_gradient": ("", "of the score's gradient"),
    "map_chance": ("", "of any order of the pixels"),
    "agreement": ("", "Kendall's tau of the rankings of all prototypes by detecting and by setting"),
}
TITLES = {
    "groups": "groups of prototypes and their states, found without labels",
    "all": "all scores together, by a linear read-out of each attribute",
}
EDITS = ("appears", "vanishes", "side", "effectiveness", "distance", "distance_none", "distance_joint")
FIGURE_IMAGES = 10  # images of each attribute in --figure
KNOWN = 20_000  # training images at most whose scores are known
VALIDATION = 32  # images on which setters are chosen


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=10, several=True)
    add_edit_options(parser, auto=True)
    parser.add_argument(
        "--num_samples", type=int, default=60, help="images edited an attribute, and counterfactual pairs (default: 60)"
    )
    parser.add_argument(
        "--untrained", action="store_true", help="judge the model as initialised, before any training (no edits)"
    )
    parser.add_argument(
        "--figure",
        action="store_true",
        help="only draw ten images before and after, not chosen: by each attribute's setter, and by all scores",
    )
    parser.add_argument(
        "--meanings", action="store_true", help="print what every number means, and which way is better"
    )
    parser.add_argument("--seed", type=int, default=0, help="of images and nulls (default: 0)")
    args = parser.parse_args()
    require(parser, args, num_samples=4, steps=2, seed=0)
    return args


def prepare(run, model, device, args) -> tuple:
    """-> (Judge, training images whose scores are known, those scores)."""
    import numpy as np
    import pandas as pd

    from analysis.measures.counterfactuals import pairs_of
    from analysis.measures.faithfulness import Judge, others_of
    from analysis.measures.labels import labelled_splits
    from analysis.measures.readers import classifier_reader
    from train.data.table import SOURCES
    from train.scores import encode

    train, test, names = labelled_splits(run)
    rows = np.sort(np.random.default_rng(args.seed).permutation(len(train))[:KNOWN])
    images = train.subset(rows) if len(rows) < len(train) else train
    known, scores = encode(model, images, device=device), encode(model, test, device=device)
    options, labels = edit_options(args, model, known), train.attributes[names].to_numpy(float)
    reader = classifier_reader(train, labels, device) if names and not args.untrained else None
    pairs = pairs_of(run, names, args.num_samples)
    others = others_of(pd.concat([train.attributes, test.attributes])[names], SOURCES[run.config.data.source])
    judge = Judge(run, model, options, scores, test, names, others, pairs, reader, args.num_samples, SIGMA_MIN)
    return judge, images, known


def choose(judge, attributes, known) -> tuple:
    """-> (detectors, setters, agreement of the two rankings), chosen on training and validation images."""
    from analysis.measures import candidates as choice
    from analysis.measures.labels import labelled_data
    from train.data.dataset import load_split

    detectors = choice.best_candidates(known.numpy(), attributes)
    if judge.reader is None:
        return detectors, detectors, {}
    train = load_split(labelled_data(judge.run), "train")
    effects = choice.setting_effects(
        judge.model, judge.reader, choice.validation_images(judge.run, train, VALIDATION), judge.options
    )
    setters = choice.best_setters(effects, judge.names, judge.others)
    return detectors, setters, choice.rankings_agree(effects, known.numpy(), attributes, judge.others)


def judge_untrained(judge, bare, images):
    """-> (A, 2): single, chosen on training images like that of the trained encoder, and latent."""
    import numpy as np

    from analysis.measures.candidates import best_candidates, single_of
    from analysis.measures.quality import evaluate
    from train.scores import encode

    attributes, device = judge.test.attributes[judge.names], judge.model.encoder.prototypes.device
    known, scores = (encode(bare, of, device=device).numpy() for of in (images, judge.test))
    detectors = best_candidates(known, images.attributes[judge.names])
    return np.stack([single_of(detectors, scores, attributes), evaluate(scores, attributes).table["latent"]], axis=1)


def judge_singles(judge, detectors, setters, agreement):
    """-> (table of one row an attribute, numbers of all scores together)."""
    import pandas as pd
    from tqdm import tqdm

    from analysis.measures.candidates import single_of
    from analysis.measures.quality import evaluate

    attributes, rows = judge.test.attributes[judge.names], []
    for detector, setter in tqdm(list(zip(detectors, setters)), desc="attributes", unit="attribute", leave=False):
        row = {"prototype": detector.prototype, "direction": detector.direction} | judge.detection(detector)
        if judge.reader is not None:
            row |= {"setter": setter.prototype, "setter_direction": setter.direction} | judge.set_single(setter)
        rows.append(row)
    table = pd.DataFrame(rows, index=pd.Index(judge.names, name="attribute"))
    trained = evaluate(judge.scores.numpy(), attributes)
    table["single"] = single_of(detectors, judge.scores.numpy(), attributes)
    table[["second", "latent"]] = trained.table[["second", "latent"]]
    if agreement:
        table["agreement"] = pd.Series(agreement)
    return table, {"tad": trained.tad, "captured": len(trained.captured)}


def judge_groups(judge, attributes):
    """-> (a table of one row an attribute that a state of a group tells, its edits judged like those of a single
    prototype; the number of groups)."""
    import pandas as pd

    from analysis.measures.cards import groups_of
    from analysis.measures.groups import best_states

    known, rows, fewer = judge.options.known, {}, judge._replace(count=max(judge.count // 2, 2))
    groups = groups_of(judge.run)
    for name, best in best_states(groups, known, attributes).items():
        members, states = groups[best.group]
        row = {"group": best.group, "state": best.present, "absent": best.absent}
        row |= {"prototypes": " ".join(map(str, members)), "auroc": best.auroc}
        rows[name] = row | fewer.edits(name, members, states[best.present].tolist(), states[best.absent].tolist())
    return pd.DataFrame(rows).T.rename_axis("attribute"), len(groups)


def learnable(attributes) -> list[str]:
    """Attributes of which the training images have both classes; test images alone may have the other one."""
    return [name for name in attributes if {0.0, 1.0} <= set(attributes[name])]


def judge_readouts(judge, attributes, seed: int):
    """-> (a table of one row an attribute, set by all scores together, on half as many images; the means of read-outs
    learnt from labels in random order)."""
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from analysis.measures.readouts import read_out

    known, rng, tables = judge.options.known, np.random.default_rng(seed), []
    for share, shuffled in ((2, False), (4, True)):
        fewer, rows = judge._replace(count=max(judge.count // share, 2)), {}
        for name in tqdm(learnable(attributes), desc="all scores", unit="attribute", leave=False):
            labels = attributes[name].to_numpy(float)
            told = read_out(known, rng.permutation(labels) if shuffled else labels)
            rows[name] = fewer.set_attribute(name, told)
        tables.append(pd.DataFrame(rows).T.rename_axis("attribute"))
    return tables[0], tables[1].mean()


def unlabelled_measures(judge, args) -> dict:
    """What needs no labels: the effectiveness of edits of the prototypes that matter most."""
    import numpy as np

    from analysis.measures.cards import matter_most
    from analysis.measures.faithfulness import effectiveness_by_prototype

    used = matter_most(judge.run, judge.test, judge.scores, 10)
    shares = effectiveness_by_prototype(
        judge.model, np.array(judge.test.pixels[: args.num_samples]), used, judge.options
    )
    return {"effectiveness": float(np.mean(list(shares.values()))), "effectiveness_by_prototype": shares}


def measure(run, device, args) -> tuple:
    """-> (table of single prototypes, further tables of edits by name, the null's means, numbers of the whole run, what
    the figure shows)."""
    from analysis.measures.faithfulness import against_random, pairs_of_commands
    from analysis.measures.health import health_table, test_effects
    from analysis.measures.quality import untrained_model
    from analysis.measures.regions import expected_maps

    bare = untrained_model(run, device)
    model = bare if args.untrained else run.model
    judge, images, known = prepare(run, model, device, args)
    numbers = {"guidance": judge.options.guidance, "others": judge.options.others, "images": args.num_samples}
    if not args.untrained:
        health = health_table(
            run, judge.scores.numpy(), judge.test.attributes, test_effects(run, judge.test, judge.scores)
        )
        numbers |= {"dead": int(health["dead"].sum()), "duplicates": int(health["duplicate"].sum())}
    if not judge.names:
        return None, {}, None, numbers | (unlabelled_measures(judge, args) if not args.untrained else {}), None
    attributes = images.attributes[judge.names]
    detectors, setters, agreement = choose(judge, attributes, known)
    table, sums = judge_singles(judge, detectors, setters, agreement)
    columns = ["untrained_single", "untrained_latent"]
    table[columns] = table[["single", "latent"]] if args.untrained else judge_untrained(judge, bare, images)
    edits = {}
    if judge.reader is not None:
        edits["groups"], count = judge_groups(judge, attributes)
        edits["all"], shuffled = judge_readouts(judge, attributes, args.seed)
        numbers["shuffled"] = shuffled.to_dict()
        commands = pairs_of_commands(judge, setters)
        numbers |= {"groups": count, "both_by_pair": commands}
        if commands:  # none where classes exclude one another
            numbers["both"] = sum(commands.values()) / len(commands)
    null = against_random(judge, detectors, judge.test.attributes[judge.names], args.seed)
    maps = expected_maps(model, [c.prototype for c in detectors], judge.options.known, judge.shape)
    return table, edits, null, numbers | sums, (maps, judge.pairs)


def print_table(table, edits: dict, null, means: dict) -> None:
    """The numbers, one line an attribute, then what each means with its mean, that of random prototypes, of groups and
    of all scores together."""
    columns = [c for c in ("single", "latent", "pair", "hit", "region", "map", *EDITS) if c in table]
    lead = [c for c in ("prototype", "direction", "setter", "setter_direction") if c in table]
    print(table[lead + columns].round(2).to_string())
    for name, title in TITLES.items():
        if len(edits.get(name, ())):
            about = ("group", "state", "absent", "prototypes", "auroc")
            columns = [c for c in (*about, "guided", *EDITS) if c in edits[name]]
            print(f"{title}:\n{edits[name][columns].to_string(float_format='{:.2f}'.format)}")
    print(f"{'mean over the attributes':26s} {'best':>7s} {'random':>7s} {'groups':>7s} {'all':>7s}")
    for name, (better, meaning) in MEANINGS.items():
        if name in means:
            values = [means[name], null.get(name, float("nan"))]
            values += [edits[key][name].mean() if name in edits.get(key, ()) else float("nan") for key in TITLES]
            cells = " ".join(f"{value:7.3f}" if value == value else " " * 7 for value in values)
            print(f"{name:18s} {better:>7s} {cells}  {meaning}")


def report(run, device, args) -> dict:
    """Judge one run, print and save; -> its numbers."""
    from analysis.drawing.faithfulness import draw
    from analysis.results import results_folder, save_table
    from analysis.schemas import FAITHFULNESS, FAITHFULNESS_MEANS

    table, edits, null, numbers, maps = measure(run, device, args)
    folder = results_folder("faithfulness", run, args.outdir, "_untrained" * args.untrained)
    name = "untrained" if args.untrained else "faithfulness"
    print(f"{run.name} version {run.version}{' (untrained)' if args.untrained else ''}")
    if table is not None:
        means = {c: float(table[c].mean()) for c in MEANINGS if c in table}
        print_table(table, edits, null, means)
        worst = {f"worst_{c}": float(table[c].min()) for c in ("single", "latent", "appears", "vanishes") if c in table}
        print(", ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in worst.items()))
        files = [FAITHFULNESS.write(folder, table, name)]
        numbers = means | worst | numbers | {"null": {c: float(null[c]) for c in null.index}}
        for kind, frame in edits.items():
            if len(frame):
                files.append(save_table(folder / f"{kind}.csv", frame))
                numbers[f"{kind.removesuffix('s')}_means"] = {c: float(frame[c].mean()) for c in MEANINGS if c in frame}
                if "appears" in frame:
                    print(f"worst appears of {kind} {frame['appears'].min():.3f}")
        print(f"tables: {', '.join(map(str, files))}; figure: {draw(table, null, maps, folder / name)[0]}")
    whole = ("tad", "captured", "dead", "duplicates", "groups", "both", "effectiveness")
    print(", ".join(f"{key} {numbers[key]:.3g}" for key in whole if key in numbers))
    about = {"run": f"{run.name}/{run.version}", "step": run.step}
    print(f"numbers: {FAITHFULNESS_MEANS.write(folder, about | numbers, name)}")
    return numbers


def figure(run, device, args) -> None:
    """Ten images before and after for each attribute, the first that lack it, none chosen: by its setter, and by all
    scores together."""
    import numpy as np

    from analysis.drawing.faithfulness import draw_before_after
    from analysis.measures.faithfulness import images_for_edits, set_attribute, set_scores
    from analysis.measures.labels import LEAST
    from analysis.measures.readouts import read_out
    from analysis.results import results_folder
    from train.images import to_uint8

    judge, images, known = prepare(run, run.model, device, args)
    if not judge.names:
        raise UserError(
            f"{run.name}: --figure needs an attribute that at least {LEAST} test images have and as many have not"
        )
    attributes, options, single, together = images.attributes[judge.names], judge.options, [], []
    for setter in choose(judge, attributes, known)[1]:
        name, k, high = setter.attribute, setter.prototype, setter.direction > 0
        pixels = np.array(images_for_edits(name, judge.pairs, judge.test, FIGURE_IMAGES)[0])
        set_alone = set_scores(judge.model, pixels, [k], [options.known.limits[k, int(high)].item()], options)
        title = f"{name}\nprototype {k} {'high' if high else 'low'}"
        single.append((title, pixels, to_uint8(set_alone.result.images)))
        if name in learnable(attributes):
            told = read_out(options.known, attributes[name].to_numpy(float))
            set_all = set_attribute(judge.model, pixels, told, 1.0, options)
            together.append((f"{name}\nall scores", pixels, to_uint8(set_all.result.images)))
    folder = results_folder("faithfulness", run, args.outdir, "_figure")
    for rows, name in ((single, "before_after"), (together, "before_after_all")):
        if rows:
            print(f"figure: {draw_before_after(rows, folder / name)[0]} and .pdf")


def main() -> None:
    args = parse_args()
    if args.meanings:
        for name, (better, meaning) in MEANINGS.items():
            print(f"{name:18s} {better:>5s}  {meaning}")
        return

    import pandas as pd

    by_version = {}
    for version in args.version_num or [None]:
        run, device = open_run(argparse.Namespace(**vars(args) | {"version_num": version}))
        if args.figure:
            figure(run, device, args)
        else:
            by_version[run.version] = report(run, device, args)
    if len(by_version) > 1:
        rows = {
            version: {k: v for k, v in numbers.items() if isinstance(v, (int, float))}
            for version, numbers in by_version.items()
        }
        print(f"versions {', '.join(map(str, by_version))}, mean and deviation:")
        print(pd.DataFrame(rows).T.drop(columns=["images"]).astype(float).agg(["mean", "std"]).T.round(3).to_string())


if __name__ == "__main__":
    run_script(main)
