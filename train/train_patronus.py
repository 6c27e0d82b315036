"""Train Patronus from a YAML config; with no arguments, on drawn faces.

A run goes to records/patronus/<name>/version_<n>/: config.yaml with every setting, metrics.jsonl, samples/ and
checkpoints/. Ctrl-C or SIGTERM saves and prints the command that goes on. The last lines name two commands to look at
the run. `torchrun --nproc_per_node N train/train_patronus.py ...` shares the work. docs/data.md lists the configs.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

import argparse
import signal
from typing import NamedTuple

from global_config import REPO_DIR
from train.errors import UserError, run_script
from train.versions import PRETRAINED, version_number

DEFAULT = REPO_DIR / "configs" / "faces.yaml"
CHANGEABLE = ("name=", "train.", "data.path=", "data.metadata=")  # with --resume


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file; see configs/ and configs/paper/ (default: configs/faces.yaml)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one entry, e.g. train.lr=1e-4; repeatable",
    )
    parser.add_argument(
        "--resume", type=int, metavar="VERSION", help="go on with that version of the config's data set"
    )
    text = "start a new run from the weights of another one, the authors' too; without --config with its own settings"
    parser.add_argument("--init_from", metavar="DATASET/VERSION", help=text)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    args = parser.parse_args()
    if args.init_from and args.resume is not None:
        parser.error("--resume goes on with a run, --init_from starts a new one; give one of them")
    return args


def load_origin(text: str):
    """The run that --init_from names. Raises UserError."""
    from train.runs import load_run

    name, slash, version = text.rpartition("/")
    if not slash or not (version.isdecimal() or version == PRETRAINED):
        raise UserError(f"--init_from {text}: must be DATASET/VERSION, e.g. CelebA/4")
    return load_run(name, version_number(version))


class Start(NamedTuple):
    """Where a training begins: its config; of a resumed one the checkpoint, if there is one yet, and the run's folder;
    the run whose weights it takes (--init_from)."""

    config: object  # train.config.Config, imported late
    state: dict | None = None
    folder: Path | None = None
    origin: object = None  # train.runs.Run


def read_start(args: argparse.Namespace) -> Start:
    from train.config import load_config, override, parse_yaml, validate, validate_stored
    from train.errors import reading
    from train.runs import RUNS_DIR, checkpoint_files, load_checkpoint, run_folder, versions

    if args.init_from:
        origin = load_origin(args.init_from)
        if args.config:
            return Start(load_config(args.config, args.set), origin=origin)
        values = override(origin.config.plain(), args.set)
        return Start(validate(values, f"--init_from {args.init_from} with --set"), origin=origin)
    if args.resume is None:
        return Start(load_config(args.config or DEFAULT, args.set))
    name = load_config(args.config or DEFAULT, [setting for setting in args.set if setting.startswith("name=")]).name
    folder = run_folder(name, args.resume)
    begun = folder / "config.yaml"
    if not checkpoint_files(folder) and not begun.is_file():
        raise UserError(
            f"--resume {args.resume}: {name} has no such version; versions: {versions(RUNS_DIR / name) or 'none'}"
        )
    state = load_checkpoint(folder) if checkpoint_files(folder) else None  # none: it was stopped before the first
    if state is not None and "optimizer" not in state:
        raise UserError(
            f"--resume {args.resume}: {folder} holds weights alone; start a new run from them: "
            f"--init_from {name}/{args.resume}"
        )
    fixed = [setting for setting in args.set if not setting.startswith(CHANGEABLE)]
    if fixed:
        changeable = "train.*, data.path and data.metadata can change"
        raise UserError(f"--set {fixed[0]}: with --resume only {changeable}, since the weights belong to the rest")
    if any(setting.startswith("train.minutes=") for setting in args.set):
        raise UserError("--set train.minutes: a budget belongs to the start of a run; with --resume give train.steps")
    with reading(begun):
        values = state["config"] if state else parse_yaml(begun.read_text(encoding="utf-8"), str(begun))
    return Start(validate_stored(override(values, args.set), f"{begun} with --set"), state, folder)


def build_from(config, origin):
    """The model to train: new, or with another run's weights. Raises UserError where they do not fit."""
    from train.build import build_model

    model = build_model(config)
    if origin is not None:
        ours, theirs = model.state_dict(), origin.model.state_dict()
        for name in sorted(ours.keys() | theirs.keys()):
            shapes = [tuple(state[name].shape) if name in state else "none" for state in (ours, theirs)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"--init_from {origin.name}/{origin.version}: '{name}' has shape {shapes[1]} there "
                    f"and {shapes[0]} in the config"
                )
        model.load_state_dict(theirs)
    return model


def main() -> None:
    args = parse_args()
    start = read_start(args)
    folder, origin = start.folder, start.origin
    config = start.config.model_copy(update={"data": start.config.data.absolute()})

    import numpy as np
    import torch

    from train import distributed, recipe
    from train.budget import TRIAL_IMAGES, budget_steps, fastest_formats
    from train.data.dataset import load_split
    from train.precision import pick_precision
    from train.runs import new_run_folder, save_checkpoint
    from train.trainer import Trainer

    device = distributed.pick_device(args.device)
    with distributed.processes(device) as (rank, world):
        train = distributed.first_process_first(lambda: load_split(config.data, "train"), rank, world)
        test = load_split(config.data, "test") if rank == 0 else None
        config = recipe.settle(config, train.pixels)

        def make_trainer(config, state=None, images=train) -> Trainer:
            torch.manual_seed(config.train.seed)
            return Trainer(config, build_from(config, origin), images, device, rank, world, state, fresh=origin is None)

        def make_trial(config) -> Trainer:
            few = train.subset(np.arange(min(TRIAL_IMAGES, len(train))))  # a trial should not encode a large set
            return make_trainer(config, images=few)

        config.train.precision = pick_precision(config.train.precision, device)
        formats = distributed.broadcast(fastest_formats(config, make_trial), world)
        config.train = config.train.model_copy(update=formats)
        if config.train.minutes:
            budget = distributed.broadcast(budget_steps(config, make_trial), world)
            if rank == 0:
                print_budget(config.train, budget)
            config.train = config.train.model_copy(update=budget.fitted | {"minutes": None})
        trainer = make_trainer(config, start.state)
        if folder is None:
            folder = distributed.broadcast(new_run_folder(config) if rank == 0 else None, world)
        version = folder.name.removeprefix("version_")
        if rank == 0:
            parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
            print(
                f"{config.name}: {len(train)} training images, {parameters:.1f} M parameters, "
                f"{', '.join(formats.values())} on {device}"
            )
            print(f"run: {folder}")
        if rank == 0 and args.set and trainer.step >= trainer.steps:  # no step is left that would save what was set
            save_checkpoint(folder, trainer.state())
        stopped_by = trainer.run(folder, test)
    if rank == 0:
        report(args, config, folder, version, trainer.step, stopped_by)
    if stopped_by:
        sys.exit(128 + stopped_by)


def print_budget(train, budget) -> None:
    """How many steps the minutes buy, beside those behind the published numbers of the config."""
    print(
        f"{train.minutes:g} minutes allow here: {', '.join(f'{name} {count}' for name, count in budget.fitted.items())}"
    )
    if train.reference_steps:
        share, minutes = budget.denoiser_steps / train.reference_steps, budget.minutes_for(train.reference_steps)
        print(
            f"that is {share:.0%} of the {train.reference_steps} denoiser steps behind the README's numbers; "
            f"--set train.minutes={max(0.1, round(minutes, 1)):g} would buy as many on this machine"
        )


def report(args, config, folder, version: str, step: int, stopped_by: int | None) -> None:
    from train.config import load_config

    if stopped_by:
        named = load_config(args.config or DEFAULT).name == config.name
        options = [f"--config {args.config}"] * bool(args.config) + [f"--set name={config.name}"] * (not named)
        print(f"stopped by {signal.Signals(stopped_by).name} after step {step}, saved; go on with:")
        print(f"  python train/train_patronus.py {' '.join([*options, f'--resume {version}'])}")
        return
    print(f"done: {folder} (samples below {folder / 'samples'}); next:")
    print(f"  python analysis/interpretability/visualize_prototype.py --dataset {config.name} --version_num {version}")
    print(f"  python train/conditional_sampling.py --dataset {config.name} --version_num {version} --total_gen_num 100")


if __name__ == "__main__":
    run_script(main)
