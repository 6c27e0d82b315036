"""Fig. 5 by the paper's procedure on a network of the published size: inverting 20 images and regenerating them for
each of ten prototypes.

The published code takes 1000 + 1000 DDIM steps for every picture, one after the other (20 + 20 x 10 of them); ours
takes 18 + 18 Heun steps in batches. Ours is run whole. The published way is run whole on one image and prototype, which
gives the same picture (its PSNR is printed); the time of the rest is that time a network call, one image at a time as
published, and also as if it were batched like ours. The network is trained for a minute on mnist5k, so that its
pictures are of something.
"""

import argparse
import time

import numpy as np
import torch

from analysis.edits import EditOptions, edit, encode_and_invert
from analysis.measures.scores import KnownScores
from models.samplers import euler, invert
from models.schedule import ddim_sigmas
from train.build import build_model
from train.config import load_config, override, validate
from train.data.dataset import load_split
from train.images import to_tensor
from train.trainer import Trainer

IMAGES, PROTOTYPES, DDIM_STEPS, STEPS = 20, 10, 1000, 18
CONFIG = "configs/paper/mnist.yaml"


def brief_run(steps: int):
    """The published network after a few steps, and test images."""
    settings = [
        "data.source=mnist5k",
        f"train.steps={steps}",
        "train.batch_size=16",
        "train.lr=1e-4",
        "train.precision=auto",
    ]
    config = load_config(CONFIG)
    config = validate(override(config.plain() | {"data": config.plain()["data"] | {"path": None}}, settings), CONFIG)
    config.train.epochs, config.train.precision = None, "float32"
    torch.manual_seed(0)
    trainer = Trainer(config, build_model(config), load_split(config.data, "train"), torch.device("cpu"))
    while trainer.step < steps:
        trainer.train_step()
    return trainer.model.eval().requires_grad_(False), load_split(config.data, "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_steps", type=int, default=40, help="of the network, before (default: 40)")
    args = parser.parse_args()
    model, test = brief_run(args.train_steps)
    print(
        f"{sum(p.numel() for p in model.unet.parameters()) / 1e6:.1f} M parameters, {torch.get_num_threads()} threads"
    )
    x0 = to_tensor(test.pixels[:IMAGES]).contiguous(memory_format=torch.channels_last)
    prototypes = list(range(PROTOTYPES))

    start = time.perf_counter()
    encoding = encode_and_invert(model, x0, STEPS)
    highest, options = encoding.scores.amax(0), EditOptions(KnownScores(encoding.scores), STEPS, others="keep")
    edits = torch.cat([options.set(encoding.scores, [k], highest[k]) for k in prototypes])
    made = edit(model, encoding, edits, STEPS).clamp(-1, 1)  # (K n, C, H, W)
    ours = time.perf_counter() - start
    calls = IMAGES * (2 * STEPS - 2) + IMAGES * PROTOTYPES * (2 * STEPS - 1)
    print(f"ours: {calls} network calls an image, {ours:.0f} s")

    start, sigmas = time.perf_counter(), ddim_sigmas(model.schedule, DDIM_STEPS)
    noise = invert(model.denoiser(encoding.scores[:1]), x0[:1], sigmas, euler)
    picture = euler(model.denoiser(edits[:1]), noise, sigmas).clamp(-1, 1)
    call = (time.perf_counter() - start) / (2 * DDIM_STEPS - 1)
    error = (picture - made[:1]).square().mean().item()
    print(
        f"the same picture: PSNR {10 * np.log10(4 / max(error, 1e-12)):.1f} dB between both ways; a "
        f"published call of one image {call * 1000:.1f} ms"
    )

    batched = model.denoiser(encoding.scores)
    start = time.perf_counter()
    for _ in range(3):
        batched(x0, x0.new_full((IMAGES,), 1.0))
    shared = (time.perf_counter() - start) / 3 / IMAGES
    published = IMAGES * (1 + PROTOTYPES) * 2 * DDIM_STEPS  # every picture inverts and regenerates
    for name, seconds in (
        ("one image at a time", call),
        (f"{IMAGES} at a time ({shared * 1000:.1f} ms an image)", shared),
    ):
        print(
            f"published way, {name}: {published} calls, {published * seconds / 60:.0f} minutes: ours "
            f"is {published * seconds / ours:.0f} times faster"
        )


if __name__ == "__main__":
    main()
