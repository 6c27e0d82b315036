"""Sampling images into a folder: whole PNGs alone, numbered, resumable, the same for every batch size and number of
processes."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from global_config import RECORDS_DIR
from train.errors import UserError, reading
from train.versions import add_run_options

SAMPLERS = ["euler", "heun", "dpmpp_2m", "ancestral"]  # of models/samplers.py, which needs torch; --help must not
SAMPLES_DIR = RECORDS_DIR / "FID"
STEPS = 18  # of a sampler that was chosen, and of scores at least
MOST_SEED = 2**31 - 1  # torch's CPU generators look at 32 bits of a seed alone
LATENT_SEEDS = 2**31  # added to an image's seed for its scores, so that they do not share their noise with its pixels
WRITERS = 4  # threads that write PNGs while the next images are made


class Sampling(NamedTuple):
    """How to sample; image i has seed `seed` + i. eta is of the ancestral sampler alone."""

    total_gen_num: int
    sampler: str
    steps: int
    eta: float = 1.0
    seed: int = 0


def sampling_parser(doc: str) -> argparse.ArgumentParser:
    """The options that both sampling scripts share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser)
    parser.add_argument(
        "--total_gen_num", metavar="N", type=int, default=10000, help="number of images (default: 10000)"
    )
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="default: ancestral where the run has a decoder, else heun, which calls the network twice a step",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help=f"1 previews E[x0 | s] (default: 5 of ancestral where the run has a decoder, else {STEPS})",
    )
    parser.add_argument("--eta", type=float, help="of the ancestral sampler: 0 is DDIM, 1 is DDPM (default: 1)")
    parser.add_argument(
        "--batch", type=int, help="images sampled together (default: by the size of the model's feature maps)"
    )
    parser.add_argument("--seed", type=int, default=0, help="image i has seed SEED + i (default: 0)")
    parser.add_argument("--run", type=int, metavar="K", help="go on with run_K (default: a new one)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    return parser


def parse_sampling(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    for option, least in (("total_gen_num", 1), ("batch", 1), ("steps", 1), ("seed", 0)):
        if getattr(args, option) is not None and getattr(args, option) < least:
            parser.error(f"--{option} must be at least {least}")
    if args.seed + args.total_gen_num > MOST_SEED:
        parser.error(f"--seed and --total_gen_num must not exceed {MOST_SEED} together")
    if args.sampler is None and args.eta is not None:
        args.sampler = "ancestral"
    if args.eta is not None and args.sampler != "ancestral":
        parser.error(f"--eta belongs to --sampler ancestral, not to {args.sampler}")
    if args.eta is not None and not 0 <= args.eta <= 1:
        parser.error("--eta must lie between 0 and 1")
    return args


def sampling_of(args: argparse.Namespace, model) -> Sampling:
    """What the options leave open as it is best for a model."""
    sampler, steps = model.best_sampling
    if args.sampler not in (None, sampler):
        sampler, steps = args.sampler, STEPS
    return Sampling(args.total_gen_num, sampler, args.steps or steps, 1.0 if args.eta is None else args.eta, args.seed)


def grid_of_levels(model, steps: int):
    """The model's noise levels for a number of steps given by the user. Raises UserError."""
    try:
        return model.sigmas(steps)
    except ValueError as error:
        raise UserError(f"--steps: {error}") from None


def open_folder(parent: Path, number: int | None, settings: dict) -> Path:
    """Claim a new run_<k>, or check that run_<number> was begun with the same settings. The settings lie beside it as
    run_<k>.json."""
    from train.whole_files import replace_file

    def begin(folder: Path) -> None:
        replace_file(
            folder.with_name(f"{folder.name}.json"), lambda path: path.write_text(json.dumps(settings, indent=1))
        )

    if number is not None:
        folder, file = parent / f"run_{number}", parent / f"run_{number}.json"
        if not folder.is_dir():
            known = sorted(path.stem for path in parent.glob("run_*.json"))
            raise UserError(f"--run {number}: {folder} does not exist; there are: {', '.join(known) or 'none'}")
        if not file.is_file():  # killed between the two
            begin(folder)
        with reading(file):
            begun = json.loads(file.read_text())
        different = [key for key in settings if begun.get(key) != settings[key]]
        if different:
            key = different[0]
            raise UserError(
                f"--run {number} was begun with {key} = {begun.get(key)}, not {settings[key]}; give "
                "the same or start a new run"
            )
        return folder
    number = 0
    while True:
        folder = parent / f"run_{number}"
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            number += 1
    begin(folder)
    return folder


def sample_files(run, batches, scores_of: Callable, sampling: Sampling, folder: Path, *, sigmas, device) -> None:
    """Sample batches of image numbers into PNGs in a folder; one batch is written while the next is sampled."""
    from concurrent.futures import ThreadPoolExecutor

    from train.images import save_png

    writing = []
    with ThreadPoolExecutor(WRITERS) as pool:
        for numbers in batches:
            images = sample_batch(
                run.model, scores_of, numbers, sampling, sigmas=sigmas, data=run.config.data, device=device
            )
            for future in writing:
                future.result()  # raises what writing the last batch raised
            writing = [
                pool.submit(save_png, pixels, folder / f"{number:06d}.png", folder.parent)
                for number, pixels in zip(numbers, images)
            ]
        for future in writing:
            future.result()


def generate(
    run,
    kind: str,
    sampling: Sampling,
    about: dict,
    scores_of: Callable,
    device,
    *,
    number: int | None = None,
    batch: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Path:
    """Sample images from the scores scores_of(image numbers) -> s (B, m), into records/FID/<kind>_<run>/run_<k>; what
    is there stays.

    kind: 'cond' or 'uncond'; about: further facts for the settings file; number: k of a run to go on with. Returns the
        folder.
    """
    import torch
    from tqdm import tqdm

    from train import distributed
    from train.errors import enough_memory

    device = torch.device(device)
    sigmas = grid_of_levels(run.model, sampling.steps)  # refuses steps before a folder is there
    parent = SAMPLES_DIR / f"{kind}_{run.name}_{run.version}"
    settings = (
        {"run": str(run.folder), "training_step": run.step, "averaged_weights": run.averaged}
        | sampling._asdict()
        | about
    )
    folder = distributed.broadcast(open_folder(parent, number, settings) if rank == 0 else None, world)
    data = run.config.data
    # listed once: the others would already find what the first process has sampled meanwhile, and share the rest
    # differently
    missing = distributed.broadcast(
        [i for i in range(sampling.total_gen_num) if not (folder / f"{i:06d}.png").exists()], world
    )
    batch = batch or distributed.images_a_call(device, run.model.largest_map(data.image_size))
    mine = missing[rank::world]
    batches = [mine[start : start + batch] for start in range(0, len(mine), batch)]
    with enough_memory(device, f"give --batch {max(1, batch // 2)}"):
        batches = tqdm(batches, desc="sampling", unit="batch", disable=rank != 0)
        sample_files(run, batches, scores_of, sampling, folder, sigmas=sigmas, device=device)
    if world > 1:
        torch.distributed.barrier()
    if rank == 0:
        print(f"{sampling.total_gen_num} images in {folder} ({len(missing)} of them new); settings in {folder}.json")
    return folder


def sample_batch(model, scores_of: Callable, numbers: list[int], sampling: Sampling, *, sigmas, data, device):
    """Images of those numbers, uint8 (n, H, W, C); data: their DataConfig."""
    import torch

    from models.samplers import SeededNoise, sample
    from train.images import to_uint8

    shape = (data.channels, data.image_size, data.image_size)
    noise = SeededNoise([sampling.seed + n for n in numbers], shape, device)
    with torch.no_grad():
        s = scores_of(numbers)
    z = (sigmas[0].float() * noise()).contiguous(memory_format=torch.channels_last)
    return to_uint8(sample(sampling.sampler, model.denoiser(s), z, sigmas, noise, sampling.eta))


def sample_run(args: argparse.Namespace, kind: str, prepare: Callable) -> None:
    """What both sampling scripts do, in each of their processes: join, load the run, sample, say what to do next.

    prepare(run, sampling, device, rank, world) -> (facts for the settings file, image numbers -> scores).
    """
    from train import distributed
    from train.runs import load_run

    device = distributed.pick_device(args.device)
    with distributed.processes(device) as (rank, world):
        run = load_run(args.dataset, args.version_num, device)
        sampling = sampling_of(args, run.model)
        about, scores_of = prepare(run, sampling, device, rank, world)
        folder = generate(
            run, kind, sampling, about, scores_of, device, number=args.run, batch=args.batch, rank=rank, world=world
        )
    if rank == 0:
        print(
            f"next: python analysis/evaluation/fid.py --images {folder} --dataset {run.name} "
            f"--version_num {run.version}"
        )


def conditional_scores(run, images, device) -> Callable:
    """Image number -> the scores of image (number mod N) of a set."""
    import torch

    from train.images import to_tensor

    def scores_of(numbers):
        pixels = torch.from_numpy(images.pixels[[n % len(images) for n in numbers]])
        return run.model.score(to_tensor(pixels.to(device)))

    return scores_of


def unconditional_scores(latent, sampling: Sampling, device) -> Callable:
    """Image number -> scores sampled from the latent model, one seed an image: by Heun's steps, or those of the images
    in the published formulation."""
    from models.samplers import SeededNoise, sample

    # scores cost little and take their steps even in a preview; in the published formulation they have fewer timesteps
    # than images
    steps = max(sampling.steps, STEPS)
    steps = min(steps, latent.schedule.timesteps) if latent.schedule is not None else steps
    sigmas = latent.sigmas(steps)
    # 18 ancestral steps lose variance of the scores that Heun's keep, and a call of so small a network costs nothing
    sampler = "heun" if latent.schedule is None else sampling.sampler

    def scores_of(numbers):
        noise = SeededNoise([LATENT_SEEDS + sampling.seed + n for n in numbers], latent.mean.shape, device)
        z = sample(sampler, latent.denoise, sigmas[0].float() * noise(), sigmas, noise, sampling.eta)
        return latent.scores(z)

    return scores_of
