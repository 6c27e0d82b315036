"""How strong must a shortcut be to be found? Trainings on images in which rules tie attributes at several strengths,
each diagnosed with labels and ranked without, and their dose-response.

  python tests/campaigns/shortcuts.py [--worlds hair_smile fmnist_tag] [--strengths 0.5 0.9] [--seeds 0] [--summary]

Hours (75 trainings by default). Each training, diagnosis and ranking is kept when it is through: started again, the
command goes on where it was stopped, and sums up whatever is done. All strengths of a world have as many images and
steps; seeds are of the training alone, the images of a world and strength are the same. Encoders are trained anew each
time. What nothing ties (strength .5) says what an unbiased model does.

Results go to records/shortcuts/<steps>/: a JSON a training, pairs.csv, curves.csv, curves.json and curves.png.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from analysis.evaluation.peers import Entry, call, train
from analysis.measures.dose import Tie
from global_config import DATA_DIR, RECORDS_DIR, REPO_DIR
from train.data.table import FASHION, HAIR, HAIR_SMILE, ONE_HAIR
from train.errors import UserError, run_script

STRENGTHS = (0.5, 0.6, 0.75, 0.9, 1.0)
RANKS = ["world", "tie", "strength", "seed", "rank", "of", "tie_strength", "strongest", "auroc_a", "auroc_b"]
STAGES = 3  # training, diagnosis, ties
EDITED, GENERATED = 32, 400  # images of each diagnosis
HAIR_TIE = Tie("Black_Hair", "Smiling", -1, HAIR, ("Smiling",))
EYES_TIE = Tie("Long_Hair", "Eyes_Closed", 1, ("Long_Hair",), ("Eyes_Closed",))
EYES = "Long_Hair == Eyes_Closed"
CELLS = "Defect == Poly"
QUANTILE = 0.99  # of the effects of unbiased models
BARS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)  # least effects that could be named


class World(NamedTuple):
    """config: YAML of the unbiased set; rules and what they tie, or the class that a tag marks; limit: training
    images, as many as the strongest of the rules leaves."""

    config: str
    ties: tuple[Tie, ...]
    limit: int
    rules: tuple[str, ...] = ()
    among: str | None = None
    marked: str | None = None
    labelled: int | None = None  # at most so many images of each split judge


WORLDS = {
    "hair_smile": World("faces", (HAIR_TIE,), 2200, (HAIR_SMILE,), ONE_HAIR),
    "hair_eyes": World("faces", (EYES_TIE,), 2200, (EYES,)),
    "fmnist_tag": World("fmnist", (Tie("Bag", "Mark", 1, FASHION, ("Mark",)),), 6000, marked="Bag", labelled=4000),
    "solar_cells": World("elpv", (Tie("Poly", "Defect", 1, ("Poly",), ("Defect",)),), 808, (CELLS,)),
    "two_rules": World("faces", (HAIR_TIE, EYES_TIE), 1100, (HAIR_SMILE, EYES), ONE_HAIR),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), help="default: all")
    parser.add_argument(
        "--strengths", nargs="+", type=float, default=list(STRENGTHS), help="default: 0.5 0.6 0.75 0.9 1"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    text = "of encoder, decoder and denoiser (default: 700 700 400)"
    parser.add_argument("--steps", nargs=3, type=int, default=[700, 700, 400], metavar="N", help=text)
    text = (
        "other diagnosed runs without a shortcut, as DATASET_vVERSION below records/diagnose/, that count for the bar"
    )
    parser.add_argument("--unbiased", nargs="+", default=[], metavar="RUN", help=text)
    parser.add_argument("--summary", action="store_true", help="sum up what is done, train nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    args = parser.parse_args()
    for strength in args.strengths:
        if not 0.5 <= strength <= 1:
            parser.error(f"--strengths {strength:g}: must be from 0.5, where nothing is planted, to 1")
    if min(args.steps) < 1 or min(args.seeds) < 0:
        parser.error("--steps must be at least 1, --seeds at least 0")
    return args


class Trial(NamedTuple):
    world: str
    strength: float
    seed: int

    @property
    def name(self) -> str:
        """Of its data set."""
        return f"dose_{self.kind}"

    @property
    def kind(self) -> str:
        return f"{self.world}_{100 * self.strength:g}"

    @classmethod
    def of(cls, file: Path) -> "Trial":
        """<world>_<percent>_<seed>.json"""
        world, percent, seed = file.stem.rsplit("_", 2)
        return cls(world, float(percent) / 100, int(seed))


def planted(trial: Trial) -> dict:
    """The plain settings of the unbiased config on the images of a trial; a tag is drawn unless it is there."""
    from train.config import load_config

    world = WORLDS[trial.world]
    config = REPO_DIR / "configs" / f"{world.config}.yaml"
    if world.marked is None:
        values = load_config(config).plain()
        rules = dict.fromkeys(world.rules, trial.strength)
        values["data"] |= {"where": world.among, "rules": rules, "limit": world.limit}
        return values
    folder = DATA_DIR / trial.name
    if not folder.exists():
        options = ("--attribute", world.marked, "--strength", trial.strength, "--name", trial.name, "--folder", folder)
        call("analysis/diagnosis/plant_mark.py", "--config", config, "--set", f"data.limit={world.limit}", *options)
    return load_config(folder / "planted.yaml").plain()


def settings_of(trial: Trial, steps: list[int]) -> dict:
    """Fixed steps, so that trials of one machine differ in their images and seed alone."""
    from train.config import validate

    values = planted(trial)
    values["name"] = trial.name
    values["train"] |= {"minutes": None, "epochs": None, "reference_steps": None, "steps": sum(steps)}
    values["train"] |= {"encoder_steps": steps[0], "decoder_steps": steps[1], "seed": trial.seed}
    return validate(values, trial.name).plain()


def reference_of(trial: Trial, folder: Path) -> Path:
    """The config of the labelled images in which nothing is tied."""
    import yaml

    from train.whole_files import replace_file

    world = WORLDS[trial.world]
    if world.marked is None:
        return REPO_DIR / "configs" / f"{world.config}.yaml"
    values = {"base": str(DATA_DIR / trial.name / "reference.yaml"), "data": {"limit": world.labelled}}
    text = yaml.safe_dump(values)
    return replace_file(folder / f"{trial.name}_reference.yaml", lambda file: file.write_text(text))


def trained(entry: Entry, trial: Trial) -> dict:
    """Raises UserError where a strength leaves fewer images than the others have."""
    from train.config import validate
    from train.data.dataset import load_split

    count, limit = len(load_split(validate(entry.settings, trial.name).data, "train")), WORLDS[trial.world].limit
    if count != limit:
        raise UserError(f"{trial.name}: has {count} training images, the other strengths {limit}")
    return train(entry) | {"images": count}


def diagnosed(entry: Entry, trial: Trial, reference: Path) -> dict:
    """Every pair's effects by the classifier."""
    from analysis.schemas import EFFECTS

    options = ("--num_samples", EDITED, "--generated", GENERATED, "--seed", trial.seed, "--reference", reference)
    entry.script("analysis/diagnosis/diagnose.py", *options)
    name, version = entry.run
    return {"rows": EFFECTS.read(RECORDS_DIR / "diagnose" / f"{name}_v{version}", "classifier").to_dict("records")}


def ranked(entry: Entry, trial: Trial, reference: Path) -> dict:
    """Where ties.py puts what is planted. What axes and prototypes stand for is told by the reference's labels; the
    ranking does not use it."""
    import numpy as np
    import torch

    from analysis.measures.auroc import best_attributes, both_ways
    from analysis.measures.dose import rank_of
    from analysis.measures.labels import TELLS
    from analysis.measures.ties import Axis
    from analysis.schemas import TIES
    from train.config import load_config
    from train.data.dataset import load_split
    from train.runs import load_run
    from train.scores import encode

    entry.script("analysis/diagnosis/ties.py", "--figures", 1, "--seed", trial.seed)
    ties, test = entry.results("ties", TIES)["ties"], load_split(load_config(reference).data, "test")
    scores = encode(load_run(*entry.run).model, test)

    def told(values) -> list[str]:
        """Attributes of columns, '' below TELLS."""
        names, auroc = best_attributes(values.numpy(), test.attributes)
        return [name.removeprefix("not ") if value >= TELLS else "" for name, value in zip(names, auroc)]

    axes = [[Axis(tie[f"members_{side}"], tie[f"weights_{side}"]).of(scores) for tie in ties] for side in "ab"]
    sides = list(zip(*(told(torch.stack(values, dim=1)) for values in axes))) if ties else []
    aurocs = {name: both_ways(scores.numpy(), column.to_numpy(float)) for name, column in test.attributes.items()}
    best = {name: None if np.isnan(auroc).all() else float(np.nanmax(auroc)) for name, auroc in aurocs.items()}
    ranks = {tie.name: rank_of(sides, tie) for tie in WORLDS[trial.world].ties}
    strengths = [tie["strength"] for tie in ties]
    return {"ranks": ranks, "strengths": strengths, "told": sides, "prototypes": scores.shape[1], "best": best}


def timed(measure: Callable[[], dict]) -> Callable[[], dict]:
    def measured() -> dict:
        start = time.monotonic()
        return measure() | {"seconds": round(time.monotonic() - start)}

    return measured


def run_trial(entry: Entry, trial: Trial, folder: Path) -> None:
    """All stages of one trial."""
    entry.stage("training", timed(lambda: trained(entry, trial)))
    if "training" not in entry.state["stages"]:
        return
    reference = reference_of(trial, folder)
    entry.stage("diagnosis", timed(lambda: diagnosed(entry, trial, reference)))
    entry.stage("ties", timed(lambda: ranked(entry, trial, reference)))


def remaining(done: dict[Trial, dict], left: int) -> str:
    """The time that trials yet to come should take, by the mean of those that are done."""
    spent = [sum(stage["seconds"] for stage in state["stages"].values()) for state in done.values()]
    if not spent or not left:
        return f"{left} left"
    minutes = left * sum(spent) / len(spent) / 60
    return f"{left} left, about {minutes // 60:.0f} h {minutes % 60:.0f} min"


def read_states(folder: Path) -> dict[Trial, dict]:
    """What is kept of every trial begun."""
    from analysis.results import read_json

    found = {Trial.of(file): read_json(file) for file in sorted(folder.glob("*_*_*.json"))}
    return {trial: state for trial, state in found.items() if state and trial.world in WORLDS}


class Summary(NamedTuple):
    pairs: object  # pandas: of every diagnosis, one row an unordered pair
    curves: object
    overall: object
    ranks: object  # one row a trial and planted tie
    bars: object  # what would be found and what named falsely by other bars
    unbiased: object  # sizes of effects, (pairs,)


def rank_row(stage: dict, tie: Tie) -> dict:
    """The rank of what is planted among the ranked ties, its strength and that of the first, and the AUROC of the best
    prototypes for its two sides, chosen on the images that it is of."""
    rank, strengths = stage["ranks"][tie.name], stage["strengths"]
    own = strengths[rank - 1] if rank else None
    best = {f"auroc_{side}": stage["best"].get(getattr(tie, side)) for side in "ab"}
    return {"rank": rank, "of": len(strengths), "tie_strength": own, "strongest": max(strengths, default=None)} | best


def pairs_table(tables: dict):
    """`dose.pairs_of` of every trial."""
    import pandas as pd

    from analysis.measures.dose import pairs_of

    about = [pairs_of(table, WORLDS[t.world].ties, t.strength).assign(**t._asdict()) for t, table in tables.items()]
    return pd.concat(about, ignore_index=True)


def bar_row(bar: float, pairs) -> dict:
    """What is found of planted pairs from STRONG on, and what falsely among free ordered ones."""
    from analysis.measures.dose import STRONG

    free, strong = pairs[pairs["kind"] == "free"], pairs[(pairs["kind"] == "planted") & (pairs["strength"] >= STRONG)]
    counts = {"found": strong["found"].sum(), "planted": len(strong)}
    return {"bar": bar} | counts | {"alarms": free["alarms"].sum(), "pairs": free["ordered"].sum()}


def sum_up(states: dict[Trial, dict], others: list) -> Summary | None:
    """Of whatever is done; others: tables of other unbiased diagnoses. None where there is no diagnosis."""
    import numpy as np
    import pandas as pd

    from analysis.measures import dose

    tables = {
        t: pd.DataFrame(s["stages"]["diagnosis"]["rows"]) for t, s in states.items() if "diagnosis" in s["stages"]
    }
    if not tables:
        return None
    pairs = pairs_table(tables)
    curves = dose.curves(pairs)
    ranks = [
        trial._asdict() | {"tie": tie.name} | rank_row(state["stages"]["ties"], tie)
        for trial, state in states.items()
        if "ties" in state["stages"]
        for tie in WORLDS[trial.world].ties
    ]
    unbiased = [table for trial, table in tables.items() if trial.strength == dose.NOTHING] + others
    effects = dose.unbiased_effects(unbiased) if unbiased else np.array([])
    ranks = pd.DataFrame(ranks, columns=RANKS).sort_values(["world", "tie", "strength", "seed"])
    named = {
        bar: pairs_table({t: table.assign(shortcut=dose.named_at(table, bar)) for t, table in tables.items()})
        for bar in BARS
    }
    bars = pd.DataFrame([bar_row(bar, found) for bar, found in named.items()])
    return Summary(pairs, curves, dose.overall(pairs, curves), ranks.astype({"rank": "Int64"}), bars, effects)


def tell(summary: Summary) -> None:
    import numpy as np

    from analysis.measures.dose import STRONG

    print("\n".join(trial_lines(summary)))
    print(summary.curves.round(3).to_string(index=False))
    for row in summary.overall.itertuples():
        strength = "at none of these strengths" if np.isnan(row.half_found) else f"at strength {row.half_found:.2f}"
        print(
            f"{row.world}, {row.tie}: found in half of the runs {strength}; AUROC over strengths from {STRONG:g} on "
            f"{row.auroc:.3f}; {row.alarms} false alarms among {row.pairs} ordered pairs that nothing ties"
        )
    if len(summary.ranks):
        print("rank of the planted tie among those that ties.py ranks (empty: not ranked):")
        print(summary.ranks.round(2).to_string(index=False, na_rep=""))
    print(f"by the least effect that is named: planted pairs found from strength {STRONG:g} on, false alarms")
    print(summary.bars.to_string(index=False))
    if len(summary.unbiased):
        print(
            f"unbiased models: of {len(summary.unbiased)} effects of ordered pairs the largest is "
            f"{summary.unbiased.max():.3f}, {QUANTILE:.0%} are below {np.quantile(summary.unbiased, QUANTILE):.3f}"
        )


def number(value: float, digits: int) -> str:
    """'.25' of 0.25."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("0.", ".", 1)  # + 0: no '-.00'


def rank_cell(row) -> str:
    """'2 of 20 (.21; .22)': the rank by ties.py, its strength and the first's; '' where not asked."""
    import pandas as pd

    if pd.isna(row.of):
        return ""
    if pd.isna(row.rank):
        return f"none of {row.of:.0f}"
    return f"{row.rank} of {row.of:.0f} ({number(row.tie_strength, 2)}; {number(row.strongest, 2)})"


def trial_lines(summary: Summary) -> list[str]:
    """A Markdown table of the planted ties, a line a training: effect along the rule with its interval over images,
    verdict, the largest effect of a pair that nothing ties, rank."""
    pairs, keys = summary.pairs, ["world", "tie", "strength", "seed"]
    free = pairs[pairs["kind"] == "free"].assign(size=lambda table: table["effect"].abs())
    lines = ["| world and tie | share | seed | effect | verdict | others | rank |", "|---|---|---|---|---|---|---|"]
    for row in pairs[pairs["tie"] != ""].merge(summary.ranks, how="left", on=keys).sort_values(keys).itertuples():
        same = (free["world"] == row.world) & (free["strength"] == row.strength) & (free["seed"] == row.seed)
        others = free[same & (free["tie"] != row.tie)]["size"].max()
        effect = f"{number(row.effect, 3)} ({number(row.low, 2)} to {number(row.high, 2)})"
        name = f"{row.world}: {row.tie}"
        cells = (name, f"{row.strength:g}", row.seed, effect, row.verdict, number(others, 3), rank_cell(row))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def draw(summary: Summary, path: Path) -> list[Path]:
    """A column a tie: effects of every trial, of free pairs in grey; the share found; AUROC."""
    import numpy as np

    from analysis.drawing.figures import plt, save_figure
    from analysis.measures.shortcuts import LEAST_EFFECT

    groups = list(summary.curves.groupby(["world", "tie"], sort=False))
    size = (3.6 * len(groups) + 0.4, 5.6)
    figure, axes = plt.subplots(
        2, len(groups), figsize=size, squeeze=False, sharex=True, sharey="row", layout="constrained"
    )
    for (upper, lower), ((world, tie), table) in zip(axes.T, groups):
        own = summary.pairs[(summary.pairs["world"] == world) & (summary.pairs["tie"] == tie)]
        free = summary.pairs[(summary.pairs["world"] == world) & (summary.pairs["kind"] == "free")]
        free = free[free["tie"] != tie]
        upper.scatter(
            free["strength"] - 0.012, free["effect"].abs(), s=5, color="grey", label="pairs that nothing ties"
        )
        errors = [(own["effect"] - own["low"]).clip(lower=0), (own["high"] - own["effect"]).clip(lower=0)]
        upper.errorbar(own["strength"], own["effect"], errors, fmt="o", ms=4, label="planted, a training")
        upper.plot(table["strength"], table["effect"])
        if (table["interval"] == "runs").all():
            upper.fill_between(table["strength"], table["low"], table["high"], alpha=0.2)
        upper.axhline(LEAST_EFFECT, color="black", linestyle=":", linewidth=1, label="bar")
        upper.set_title(f"{world}\n{tie}", fontsize=9)
        limits = np.abs([table["found"] - table["found_low"], table["found_high"] - table["found"]])
        lower.errorbar(table["strength"], table["found"], limits, fmt="o-", ms=4, capsize=2, label="found")
        lower.plot(table["strength"] + 0.006, table["auroc"], "s--", ms=4, label="AUROC of the effect")
        alarms = table["alarms"] / table["pairs"]
        lower.plot(table["strength"], alarms, "x-", ms=4, color="grey", label="false alarms a pair")
        lower.set(xlim=(0.46, 1.04), ylim=(-0.05, 1.05))
        lower.set_xlabel("strength", fontsize=8)
    axes[0, 0].set_ylabel("effect, share of the class gap", fontsize=8)
    axes[1, 0].set_ylabel("share", fontsize=8)
    for axis in axes[:, 0]:
        axis.legend(fontsize=7)
    return save_figure(figure, path)


def save(summary: Summary, folder: Path) -> None:
    """Tables, numbers and figure."""
    from analysis.results import save_json, save_table

    for name in ("pairs", "curves", "ranks", "bars"):
        save_table(folder / f"{name}.csv", getattr(summary, name))
    tables = {name: getattr(summary, name).astype(object) for name in ("curves", "overall", "ranks", "bars")}
    plain = {name: table.where(table.notna(), None).to_dict("records") for name, table in tables.items()}
    save_json(folder / "curves.json", plain | {"unbiased": sorted(summary.unbiased.round(4).tolist())})
    draw(summary, folder / "curves")


def other_tables(runs: list[str]) -> list:
    """Diagnoses of --unbiased. Raises UserError."""
    from analysis.schemas import EFFECTS

    tables = [EFFECTS.read(RECORDS_DIR / "diagnose" / run, "classifier") for run in runs]
    for run, table in zip(runs, tables):
        if table is None:
            raise UserError(
                f"--unbiased {run}: no diagnosis in {RECORDS_DIR / 'diagnose'}; run diagnose.py on it first"
            )
    return tables


def main() -> None:
    args = parse_args()
    others = other_tables(args.unbiased)
    folder = RECORDS_DIR / "shortcuts" / "_".join(map(str, args.steps))
    trials = [Trial(w, p, seed) for seed in args.seeds for w in args.worlds for p in args.strengths]
    for trial in [] if args.summary else trials:
        done = {trial: state for trial, state in read_states(folder).items() if len(state["stages"]) == STAGES}
        if trial in done:
            continue
        print(f"{trial.name}, seed {trial.seed}: {remaining(done, len(set(trials) - set(done)))}", flush=True)
        run_trial(Entry(folder, trial.kind, trial.seed, settings_of(trial, args.steps), args.device), trial, folder)
        if summary := sum_up(read_states(folder), others):
            save(summary, folder)
    summary = sum_up(read_states(folder), others)
    if summary is None:
        raise UserError(f"nothing is diagnosed in {folder} yet")
    save(summary, folder)
    tell(summary)
    print(f"tables and figure: {folder}")


if __name__ == "__main__":
    run_script(main)
