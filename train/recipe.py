"""Settings that are derived rather than typed: from the size of images, the images, and the length of a training.

docs/recipe.md says how they were chosen.
"""

import math

import numpy as np

ENCODER_EPOCHS = 30  # of the encoder alone, within the next two
FEWEST_ENCODER_STEPS, MOST_ENCODER_STEPS = 3000, 10_000
LONGEST_SHARE = 4  # encoder and decoder alone take a quarter of the steps each at most
TEMPLATES = 64  # of whole images, where there are some
PLACED = 0.05  # images count as aligned where place explains more of the variance: of textures 0, of faces .3 to .5
COORDINATES = 2.0  # scale of the coordinate channels of aligned images
LOOKED_AT = 512  # images that are looked at


def encoder_layers(size: int, image_channels: int) -> dict[str, list[int]]:
    """Convolutions of stride 2 until 16 to 31 cells a side are left, and two more.

    Colours are told by small patches, a fifth of the side; the last kernel of colour images is 1. Grey images are told
    by shapes, which need patches of a third.
    """
    halvings = max(1, int(math.log2(size / 16)))
    last = 3 if image_channels == 1 and size >= 16 else 1
    return {
        "channels": [32] + [64] * (halvings + 1),
        "kernels": [3] * (halvings + 1) + [last],
        "strides": [2] * halvings + [1, 1],
        "paddings": [1] * halvings + [0, 0],
    }


def dense_layers(size: int) -> dict[str, list[int]]:
    """Levels of a dense encoder (models/dense_encoder.py): halved until 4 to 7 pixels a side are left."""
    levels = max(1, int(math.log2(size / 4)))
    widths = [32, 64, *[128] * levels]
    return {"channels": widths[:levels], "kernels": [3] * levels, "strides": [2] * levels, "paddings": [1] * levels}


def temperature(image_channels: int) -> float:
    """Of the competition of prototypes; grey images keep more of what tells them apart in a softer one."""
    return 0.2 if image_channels == 1 else 0.1


def multipliers(size: int, unshuffle: int) -> list[int]:
    """Levels of the U-Net: halved until fewer than 8 pixels a side are left, at most four."""
    side, levels = size // unshuffle, [1]
    while side >= 8 and side % 2 == 0 and len(levels) < 4:
        side //= 2
        levels.append(2)
    return levels


def highest_sigma(size: int) -> float:
    """The noise level that hides an image: twice the side needs twice the noise, since neighbours average it away."""
    return 20.0 * max(1.0, size / 32)


def noise_mean(size: int) -> float:
    """Mean of ln(sigma) in training: for the same reason higher for larger images, by half."""
    return round(-2.0 + max(0.0, math.log(size / 32)) / 2, 2)


def place_share(pixels: np.ndarray) -> float:
    """The share of the variance of images, uint8 (N, H, W, C), that the place in the image explains."""
    rows = np.linspace(0, len(pixels) - 1, min(LOOKED_AT, len(pixels))).astype(int)
    x = pixels[rows].astype(np.float64)
    total = x.var(axis=(0, 1, 2)).sum()
    mean = x.mean(0).reshape(-1, x.shape[-1]).var(0).sum()
    return float(mean / total - 1 / len(x)) if total else 0.0  # the mean of N images varies by chance too


def coordinates(pixels: np.ndarray) -> float:
    """model.encoder.coordinates: a prototype looks at a place where images are aligned, anywhere where they are not."""
    return COORDINATES if place_share(pixels) > PLACED else 0.0


def templates(pixels: np.ndarray) -> int:
    """model.encoder.templates: grey images that are aligned are told by the shape of the whole."""
    grey, enough = pixels.shape[-1] == 1, len(pixels) >= 4 * TEMPLATES
    return TEMPLATES if grey and enough and place_share(pixels) > PLACED else 0


def first_steps(images: int, batch_size: int, steps: int | None) -> int:
    """Steps of the encoder alone, and of the decoder alone.

    steps: of the whole training; None where a budget of minutes will shorten them (train/budget.py).
    """
    most = min(max(ENCODER_EPOCHS * images // batch_size, FEWEST_ENCODER_STEPS), MOST_ENCODER_STEPS)
    return most if steps is None else min(most, steps // LONGEST_SHARE)


def settle(config, pixels: np.ndarray):
    """A config (train/config.py) with what follows from the training images, uint8 (N, H, W, C), filled in."""
    model, train = config.model, config.train
    encoder = model.encoder
    if encoder.coordinates == "auto":
        encoder = encoder.model_copy(update={"coordinates": coordinates(pixels)})
    if encoder.templates == "auto":
        fit = encoder.kind == "prototypes" and encoder.similarity == "competing"
        encoder = encoder.model_copy(update={"templates": templates(pixels) if fit else 0})
    steps = train.steps or (train.epochs and math.ceil(train.epochs * len(pixels) / train.batch_size))
    first = first_steps(len(pixels), train.encoder_batch_size or train.batch_size, steps) if model.residual else 0
    names = [name for name in ("encoder_steps", "decoder_steps") if getattr(train, name) == "auto"]
    train = train.model_copy(update=dict.fromkeys(names, first))
    return config.model_copy(update={"model": model.model_copy(update={"encoder": encoder}), "train": train})
