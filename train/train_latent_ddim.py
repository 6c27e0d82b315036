"""Train the latent model of a run: a small diffusion model over its prototype scores, for sampling without any image.

The scores of the training images are encoded once. The default network is a fully connected one; --network unet1d is
the published one (eps on 100 timesteps, learning rate 1e-4; --set multipliers=[1,2] for FashionMNIST). Results go to
records/latent_ddim/<dataset>_v<n>/version_<l>/: best.pt (averaged weights of the lowest held-out loss), last.pt,
metrics.jsonl. Then sample: train/unconditional_sampling.py.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

import argparse
import signal

from train.errors import UserError, listed, run_script
from train.versions import add_run_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    parser.add_argument("--network", default="mlp", choices=["mlp", "unet1d"], help="default: mlp")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one setting, e.g. epochs=100; repeatable",
    )
    parser.add_argument("--resume", type=int, metavar="L", help="go on with that version of the run's latent models")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import torch

    from train.config import override, parse_yaml
    from train.distributed import pick_device
    from train.errors import reading
    from train.latent_loop import LatentTrainer
    from train.latents import (
        PRESETS,
        RESUMABLE,
        build_latent,
        cached_scores,
        check_origin,
        latent_config,
        latent_files,
        latents_folder,
        origin_of,
    )
    from train.runs import claim_version, load_run, load_state, save_config

    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    state = None
    values = PRESETS[args.network]
    if args.resume is not None:
        folder = latents_folder(run) / f"version_{args.resume}"
        begun = folder / "config.yaml"
        if (folder / "last.pt").is_file():
            state = load_state(
                folder / "last.pt", {"config", "model", "averaged", "optimizer", "step", "best", "run_step"}
            )
            values = state["config"]
        elif begun.is_file():  # stopped before the first checkpoint
            with reading(begun):
                values = parse_yaml(begun.read_text(encoding="utf-8"), str(begun))
        else:
            known = [path.parent.name for path in latents_folder(run).glob("version_*/config.yaml")]
            raise UserError(f"--resume {args.resume}: {folder} holds no training; there are {listed(sorted(known))}")
        if state is not None:
            check_origin(state, run, folder)
        fixed = [setting for setting in args.set if setting.partition("=")[0] not in RESUMABLE]
        if fixed:
            raise UserError(
                f"--set {fixed[0]}: with --resume only {', '.join(RESUMABLE)} can change, since the weights belong to "
                "the rest"
            )
    config = latent_config(override(values, args.set), "--set")
    scores = cached_scores(run, device)
    torch.manual_seed(config.seed)
    model = build_latent(config, scores.train.shape[1], run.model.encoder.highest)
    trainer = LatentTrainer(config, model, scores, origin_of(run), device, state)
    if args.resume is None:
        folder = claim_version(
            latents_folder(run), lambda folder: save_config(folder, config.model_dump(mode="json")), latent_files(run)
        )
    version = folder.name.removeprefix("version_")
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{run.name} version {run.version}: {len(scores.train)} vectors of {scores.train.shape[1]} "
        f"scores, {parameters:.1f} M parameters on {device}"
    )
    stopped_by = trainer.run(folder)
    names = f"--dataset {run.name} --version_num {run.version}"
    if stopped_by:
        print(f"stopped by {signal.Signals(stopped_by).name} after step {trainer.step}, saved; go on with:")
        print(f"  python train/train_latent_ddim.py {names} --resume {version}")
        sys.exit(128 + stopped_by)
    print(f"done: {folder}; lowest held-out loss {trainer.best:.4f}; next:")
    print(f"  python train/unconditional_sampling.py {names} --latent_version {version} --total_gen_num 100")


if __name__ == "__main__":
    run_script(main)
