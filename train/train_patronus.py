"""Train Patronus from a YAML config; with no arguments, on drawn faces."""

import argparse
import signal
import sys

from global_config import REPO_DIR
from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", default=str(REPO_DIR / "configs" / "faces.yaml"), help="YAML file; see configs/ and configs/paper/")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one entry, e.g. train.lr=1e-4; repeatable")
    parser.add_argument("--resume", type=int, metavar="VERSION", help="go on with that version of the config's data set")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    return parser.parse_args()


def read_config(args: argparse.Namespace):
    """-> (config, checkpoint state or None, run folder or None)."""
    from train.config import load_config, override, validate
    from train.runs import RUNS_DIR, checkpoint_path, load_checkpoint, run_folder, versions

    if args.resume is None:
        return load_config(args.config, args.set), None, None
    name = load_config(args.config).name
    folder = run_folder(name, args.resume)
    if not checkpoint_path(folder).is_file():
        raise UserError(f"--resume {args.resume}: {name} has no such version with a checkpoint; versions: {versions(RUNS_DIR / name) or 'none'}")
    state = load_checkpoint(checkpoint_path(folder))
    fixed = [setting for setting in args.set if not setting.startswith("train.")]
    if fixed:
        raise UserError(f"--set {fixed[0]}: with --resume only train.* can change, since the weights belong to the rest")
    config = validate(override(state["config"], args.set), f"{folder / 'config.yaml'} with --set")
    return config, state, folder


def main() -> None:
    args = parse_args()
    config, state, folder = read_config(args)

    import torch

    from train import distributed
    from train.build import build_model
    from train.data.dataset import load_split
    from train.loop import Trainer
    from train.precision import pick_precision
    from train.runs import new_run_folder

    device = distributed.pick_device(args.device)
    rank, world = distributed.start(device)
    try:
        config.train.precision = distributed.broadcast(pick_precision(config.train.precision, device) if rank == 0 else None, world)
        train = distributed.first_process_first(lambda: load_split(config.data, "train"), rank, world)
        test = load_split(config.data, "test") if rank == 0 else None
        torch.manual_seed(config.train.seed)
        trainer = Trainer(config, build_model(config), train, device, rank, world, state)
        if folder is None:
            folder = distributed.broadcast(new_run_folder(config) if rank == 0 else None, world)
        version = folder.name.removeprefix("version_")
        if rank == 0:
            parameters = sum(p.numel() for p in trainer.model.parameters()) / 1e6
            print(f"{config.name}: {len(train)} training images, {parameters:.1f} M parameters, {config.train.precision} on {device}")
            print(f"run: {folder}")
        stopped_by = trainer.run(folder, test)
    finally:
        distributed.stop(world)
    if rank == 0:
        report(args, config, folder, version, trainer.step, stopped_by)
    if stopped_by:
        sys.exit(128 + stopped_by)


def report(args, config, folder, version: str, step: int, stopped_by: int | None) -> None:
    if stopped_by:
        print(f"stopped by {signal.Signals(stopped_by).name} after step {step}, saved; go on with:")
        print(f"  python train/train_patronus.py --config {args.config} --resume {version}")
        return
    print(f"done: {folder} (samples below {folder / 'samples'}); next:")
    print(f"  python analysis/interpretability/visualize_prototype.py --dataset {config.name} --version_num {version}")
    print(f"  python train/conditional_sampling.py --dataset {config.name} --version_num {version} --total_gen_num 100")


if __name__ == "__main__":
    run_script(main)
