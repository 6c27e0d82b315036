"""Sample images from the scores of real test images: PNGs alone in records/FID/cond_<dataset>_<version>/run_<k>/, ready for FID.

Image i has seed --seed + i and the scores of test image i (beginning anew after the last), so batch size, number of processes and
interruptions change nothing. `torchrun --nproc_per_node N train/conditional_sampling.py ...` shares the work.
"""

import argparse
import json
from pathlib import Path

from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", help="name of the run's data set (default: that of the newest run)")
    parser.add_argument("--version_num", type=int, help="version of the run (default: the newest)")
    parser.add_argument("--total_gen_num", type=int, default=10000, help="number of images")
    parser.add_argument("--sampler", default="heun", choices=["euler", "heun", "dpmpp_2m", "ancestral"])
    parser.add_argument("--steps", type=int, default=18, help="steps of the sampler; heun calls the network twice a step")
    parser.add_argument("--batch", type=int, default=250, help="images sampled together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="test", choices=["train", "val", "test"], help="whose scores")
    parser.add_argument("--run", type=int, metavar="K", help="go on with run_K (default: a new one)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    for option, least in (("total_gen_num", 1), ("batch", 1), ("steps", 2), ("seed", 0)):
        if getattr(args, option) < least:
            parser.error(f"--{option} must be at least {least}")
    return args


def open_folder(parent: Path, number: int | None, settings: dict) -> Path:
    """Claim a new run_<k>, or check that run_<number> was begun with the same settings. The settings lie beside it as run_<k>.json."""
    from train.images import replace_file

    if number is not None:
        folder, file = parent / f"run_{number}", parent / f"run_{number}.json"
        if not file.is_file():
            known = sorted(path.stem for path in parent.glob("run_*.json"))
            raise UserError(f"--run {number}: {folder} does not exist; there are: {', '.join(known) or 'none'}")
        begun = json.loads(file.read_text())
        different = [key for key in settings if begun.get(key) != settings[key]]
        if different:
            key = different[0]
            raise UserError(f"--run {number} was begun with {key} = {begun.get(key)}, not {settings[key]}; give the same or start a new run")
        return folder
    number = 0
    while True:
        folder = parent / f"run_{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    replace_file(parent / f"run_{number}.json", lambda path: path.write_text(json.dumps(settings, indent=1)))
    return folder


def main() -> None:
    args = parse_args()

    import torch
    from tqdm import tqdm

    from global_config import RECORDS_DIR
    from models.samplers import SeededNoise, sample
    from train import distributed
    from train.data.dataset import load_split
    from train.images import save_png, to_tensor, to_uint8
    from train.runs import load_run

    device = distributed.pick_device(args.device)
    rank, world = distributed.start(device)
    run = load_run(args.dataset, args.version_num, device)
    try:
        sigmas = run.model.sigmas(args.steps)
    except ValueError as error:
        raise UserError(f"--steps: {error}") from None
    parent = RECORDS_DIR / "FID" / f"cond_{run.name}_{run.version}"
    settings = {"run": str(run.folder), "training_step": run.step, "averaged_weights": run.config.train.ema is not None}
    settings |= {key: getattr(args, key) for key in ("total_gen_num", "sampler", "steps", "seed", "split")}
    folder = distributed.broadcast(open_folder(parent, args.run, settings) if rank == 0 else None, world)
    images = distributed.first_process_first(lambda: load_split(run.config.data, args.split), rank, world)

    missing = [i for i in range(args.total_gen_num) if not (folder / f"{i:06d}.png").exists()]
    mine = missing[rank::world]
    for start in tqdm(range(0, len(mine), args.batch), desc="sampling", unit="batch", disable=rank != 0):
        numbers = mine[start : start + args.batch]
        x0 = to_tensor(images.pixels[[n % len(images) for n in numbers]]).to(device).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            s = run.model.score(x0)
        noise = SeededNoise([args.seed + n for n in numbers], x0.shape[1:], device)
        made = sample(args.sampler, run.model.denoiser(s), sigmas[0].float() * noise(), sigmas, noise)
        for number, pixels in zip(numbers, to_uint8(made)):
            save_png(pixels, folder / f"{number:06d}.png", workshop=parent)
    if world > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    if rank == 0:
        print(f"{args.total_gen_num} images in {folder} ({len(missing)} of them new); settings in {folder}.json")


if __name__ == "__main__":
    run_script(main)
