"""The table of the paper for any labelled data set: Patronus as published, ours, DiffAE, InfoDiffusion and the
untrained encoder, by one judge.

  python analysis/evaluation/peers.py --config configs/faces.yaml [--seeds 0 1 2] [--models ours diffae] [--minutes 9]

All are trained on the same images by the same loop within the same budget; only the encoder and its loss differ (of the
published model the network too). Each training, sampling and measure is kept when it is through: started again, the
command goes on where it was stopped. Hours are to be expected. Where a peer is better, the table says so: * marks the
best of each column.

  all           accuracy of classes, else mean AUROC of attributes, of a logistic regression on all scores
  single        AUROC of the best single score, mean of attributes
  captured, tad, disentanglement, completeness   how single scores and attributes answer to each other
  fd, fd_uncond Frechet distance (EfficientNet-lite0) of conditional and of unconditional samples
  fd_floor      the same between two halves of real images
  psnr, psnr_random   of reconstructions, from the image's own noise and from random noise
  appears, vanishes, side   single edits (analysis/evaluation/faithfulness.py --meanings)
  appears_all, vanishes_all, side_all   edits of all scores along a linear read-out, as DiffAE's are made

Results go to records/peers/<name>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from train.errors import UserError, run_script

MODELS = ("paper", "ours", "diffae", "infodiffusion", "untrained")
BEST = {"all": max, "single": max, "captured": max, "tad": max, "disentanglement": max, "completeness": max}
BEST |= {"fd": min, "fd_uncond": min, "psnr": max, "psnr_random": max, "appears": max, "vanishes": max, "side": min}
BEST |= {"appears_all": max, "vanishes_all": max, "side_all": min}
DENSE = {"kind": "dense"} | dict.fromkeys(("templates", "channels", "kernels", "strides", "paddings"), "auto")
MMD = 0.1  # the weight of InfoDiffusion


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML of a labelled data set and of ours")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one entry of all models; repeatable"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        choices=MODELS,
        default=list(MODELS),
        help=f"of {', '.join(MODELS)} (default: all)",
    )
    parser.add_argument("--seeds", nargs="+", metavar="N", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--minutes", type=float, help="of each training (default: as in the config)")
    parser.add_argument("--count", type=int, default=1000, help="images a side of a distance (default: 1000)")
    parser.add_argument("--num_samples", type=int, default=60, help="images edited an attribute (default: 60)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    args = parser.parse_args()
    if args.minutes:
        args.set.append(f"train.minutes={args.minutes}")
    return args


def settings_of(model: str, config, seed: int) -> dict:
    """The plain settings of one model on the images and within the budget of `config`."""
    from global_config import REPO_DIR
    from train.config import LENGTHS, merged, read_settings

    own = config.plain()
    budget = {length: own["train"][length] for length in LENGTHS if own["train"][length] is not None}
    changes = {"name": f"{config.name}_{model}", "train": {"seed": seed, **budget}}
    if model == "paper":
        published = read_settings(REPO_DIR / "configs" / "base" / "paper.yaml")
        return merged(published, changes | {"data": own["data"]})
    if model in ("diffae", "infodiffusion"):
        loss = {"spread": 0.0, "score_noise": 0.0, "mmd": MMD if model == "infodiffusion" else 0.0}
        changes = merged(changes, {"model": {"encoder": DENSE}, "train": loss})
    return merged(own, changes)


class Entry:
    """What is known of one model and seed, kept in a JSON file; `numbers` by stage."""

    def __init__(self, folder: Path, model: str, seed: int, settings: dict, device: str):
        self.model, self.settings, self.device = model, settings, device
        self.file, self.config = folder / f"{model}_{seed}.json", folder / f"{model}_{seed}.yaml"
        self.state = self._read()

    def _read(self) -> dict:
        import json

        from train.errors import reading

        if not self.file.is_file():
            return {"settings": self.settings, "stages": {}}
        with reading(self.file):
            state = json.loads(self.file.read_text())
            if state["settings"] != self.settings:
                raise UserError(
                    f"{self.file}: was begun with other settings; remove {self.file.parent} or give --set name=OTHER"
                )
        return state

    def save(self) -> None:
        from analysis.results import save_json

        save_json(self.file, self.state)

    def stage(self, name: str, measure) -> None:
        """Keep what measure() returns, unless it is there already. A measure that cannot be taken is said and left
        out."""
        if name in self.state["stages"]:
            return
        print(f"{self.file.stem}: {name}", flush=True)
        try:
            self.state["stages"][name] = measure()
        except UserError as error:
            print(f"{self.file.stem}: {name} is left out: {error}", flush=True)
            return
        self.save()

    @property
    def run(self) -> tuple[str, int]:
        return self.settings["name"], self.state["version"]

    @property
    def numbers(self) -> dict[str, float]:
        return {key: value for stage in self.state["stages"].values() for key, value in stage.items()}

    def script(self, path: str, *options) -> None:
        """Run a script on this run. Raises UserError where it fails."""
        name, version = self.run
        call(path, "--dataset", name, "--version_num", version, "--device", self.device, *options)

    def results(self, what: str, schema, of: str = "") -> dict:
        """The numbers that a script left in records/<what>/<run>/; of several files the newest."""
        from analysis.results import read_json
        from global_config import RECORDS_DIR

        name, version = self.run
        files = (RECORDS_DIR / what / f"{name}_v{version}").glob(schema.file.format(of))
        return read_json(max(files, key=lambda path: path.stat().st_mtime))


def call(path: str, *options, on_line=None) -> None:
    """Run a script to its end, its progress bars shown; its last line of errors becomes a UserError. on_line gets each
    line of its output."""
    import subprocess
    import sys

    from global_config import REPO_DIR

    command = [sys.executable, str(REPO_DIR / path), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if on_line:
                on_line(line)
    if process.returncode in (130, 128 + 2, 128 + 15, -2):
        raise KeyboardInterrupt
    if process.returncode:
        raise UserError(f"{path} failed with status {process.returncode}")


def train(entry: Entry) -> dict:
    """Train, or go on with what was begun."""
    import yaml

    from train.runs import RUNS_DIR, load_checkpoint
    from train.whole_files import replace_file

    text = yaml.safe_dump(entry.settings, sort_keys=False)
    replace_file(entry.config, lambda file: file.write_text(text))

    def remember(line: str) -> None:
        if line.startswith("run: "):
            entry.state["version"] = int(Path(line.removeprefix("run: ").strip()).name.removeprefix("version_"))
            entry.save()

    begun = ["--resume", entry.state["version"]] if "version" in entry.state else []
    call("train/train_patronus.py", "--config", entry.config, "--device", entry.device, *begun, on_line=remember)
    state = load_checkpoint(RUNS_DIR / entry.settings["name"] / f"version_{entry.state['version']}")
    return {"steps": state["step"]}


def quality(entry: Entry, untrained: bool) -> dict:
    from analysis.schemas import QUALITY

    entry.script("analysis/evaluation/prototype_quality.py", *(["--untrained"] if untrained else []))
    numbers = entry.results("prototype_quality", QUALITY, "untrained" if untrained else "quality")
    shares = {key: numbers[key] for key in ("single", "captured", "tad")}
    return {"all": numbers.get("accuracy", numbers["latent"])} | shares


def disentanglement(entry: Entry, untrained: bool) -> dict:
    from analysis.measures.dci import dci
    from analysis.measures.labels import labelled_splits
    from analysis.measures.quality import untrained_model
    from train.distributed import pick_device
    from train.runs import load_run
    from train.scores import encode

    device = pick_device(entry.device)
    run = load_run(*entry.run, device)
    train_set, _, names = labelled_splits(run)
    images = train_set.subset(list(range(min(len(train_set), 1500))))
    model = untrained_model(run, device) if untrained else run.model
    known = images.attributes[names].dropna(axis=1)
    if known.empty:
        raise UserError(f"{run.name}: no attribute is known of all of {len(images)} training images")
    return dci(encode(model, images, device=device).numpy(), known.to_numpy(int))


def edits(entry: Entry, count: int) -> dict:
    from analysis.schemas import FAITHFULNESS_MEANS

    entry.script("analysis/evaluation/faithfulness.py", "--num_samples", count)
    numbers = entry.results("faithfulness", FAITHFULNESS_MEANS, "faithfulness")
    together = numbers.get("all_means", {})
    kinds = ("appears", "vanishes", "side")
    return {key: numbers[key] for key in kinds} | {f"{key}_all": together.get(key, float("nan")) for key in kinds}


def distance(entry: Entry, kind: str, count: int) -> dict:
    """Of samples made anew."""
    from analysis.schemas import DISTANCE, distance_of

    if kind == "uncond":
        entry.script("train/train_latent_ddim.py")
    entry.script(f"train/{'un' if kind == 'uncond' else ''}conditional_sampling.py", "--total_gen_num", count)
    options = ("--kind", kind, "--features", "efficientnet-lite0", "--limit", count)
    entry.script("analysis/evaluation/fid.py", *options)
    numbers = entry.results("fid_scores", DISTANCE, f"{kind}_*_efficientnet")
    suffix = "_uncond" if kind == "uncond" else ""
    return {f"fd{suffix}": distance_of(numbers)[1], "fd_floor": numbers["floor"]}


def reconstruction(entry: Entry) -> dict:
    from analysis.schemas import RECONSTRUCTION

    entry.script("analysis/evaluation/reconstruct.py")
    numbers = entry.results("reconstruct", RECONSTRUCTION)
    return {"psnr": numbers["own"]["psnr"], "psnr_random": numbers["random"]["psnr"]}


def judge(entry: Entry, args: argparse.Namespace) -> None:
    """All stages of one model and seed."""
    untrained = entry.model == "untrained"
    entry.stage("quality", lambda: quality(entry, untrained))
    entry.stage("dci", lambda: disentanglement(entry, untrained))
    if untrained:
        return
    entry.stage("reconstruction", lambda: reconstruction(entry))
    entry.stage("edits", lambda: edits(entry, args.num_samples))
    entry.stage("samples", lambda: distance(entry, "cond", args.count))
    entry.stage("unconditional", lambda: distance(entry, "uncond", args.count))


def table_of(entries: list[Entry]):
    """Mean and deviation over seeds: two tables of one row a model."""
    import pandas as pd

    rows = pd.DataFrame([{"model": entry.model} | entry.numbers for entry in entries])
    groups = rows.groupby("model", sort=False)
    return groups.mean(), groups.std()


def as_text(means, deviations) -> str:
    """The table with its deviations, and * beside the best trained model of each column."""
    import pandas as pd

    cells = pd.DataFrame(index=means.index, columns=means.columns, dtype=object)
    trained = means.index != "untrained"
    for column in means:
        best = BEST[column](means.loc[trained, column].dropna(), default=None) if column in BEST else None
        for model, value in means[column].items():
            spread = deviations.loc[model, column]
            text = "" if pd.isna(value) else f"{value:.3g}" + ("" if pd.isna(spread) else f" +- {spread:.2g}")
            cells.loc[model, column] = text + (
                " *" if best is not None and value == best and model != "untrained" else ""
            )
    return cells.T.to_string()


def main() -> None:
    args = parse_args()

    from functools import partial

    from analysis.results import save_table
    from global_config import RECORDS_DIR
    from train.config import load_config, validate

    config = load_config(args.config, args.set)
    folder = RECORDS_DIR / "peers" / config.name
    entries = []
    for seed in args.seeds:
        by_model = {}
        for model in sorted(args.models, key=MODELS.index):
            origin = "ours" if model == "untrained" else model  # the encoder of ours before its first step
            settings = validate(settings_of(origin, config, seed), f"{args.config} as {model}").plain()
            entry = trained = by_model[model] = Entry(folder, model, seed, settings, args.device)
            if model == "untrained":
                trained = by_model.get("ours") or Entry(folder, "ours", seed, settings, args.device)
            trained.stage("training", partial(train, trained))
            if "training" not in trained.state["stages"]:
                print(f"{entry.file.stem}: is left out of the table, since its run has no training", flush=True)
                continue
            entry.state["version"] = trained.state["version"]
            judge(entry, args)
            entries.append(entry)
    if not entries:
        raise UserError(f"{config.name}: no training came to its end; the lines above say why")
    means, deviations = table_of(entries)
    for name, table in (("mean", means), ("deviation", deviations)):
        save_table(folder / f"{name}.csv", table)
    print(
        f"{config.name}: {len(args.seeds)} seed{'s' * (len(args.seeds) > 1)}, mean +- deviation; "
        "* best of those that are trained"
    )
    print(as_text(means, deviations))
    print(f"tables: {folder}")


if __name__ == "__main__":
    run_script(main)
