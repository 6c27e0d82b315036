"""Ratios measured side by side in this run: the published network's training step plain and ours; encoding batched and
one by one."""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from models.prototype_encoder import PrototypeEncoder
from models.unet import UNet
from train.config import DataConfig
from train.data import dataset
from train.data.dataset import ImageSet
from train.data.decode import to_pixels
from train.distributed import images_a_call
from train.images import to_tensor
from train.scores import encode

FILES = 1000
COUNT = 256  # images in memory


def timed(action, repeats: int) -> float:
    """Fastest of several calls, in seconds, after one for warming up."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def training_step(channels_last: bool, precision: str, fused: bool):
    torch.manual_seed(0)
    net = UNet(1, 30)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=fused)
    x, t, s = torch.randn(32, 1, 32, 32), torch.randint(0, 1000, (32,)).float(), torch.rand(32, 30)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = net(x, t, s).float().square().mean()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"{torch.get_num_threads()} threads, CPU capability {torch.backends.cpu.get_cpu_capability()}")

    plain = timed(training_step(False, "float32", False), repeats)
    times = {precision: timed(training_step(True, precision, True), repeats) for precision in ("float32", "bfloat16")}
    precision, ours = min(times.items(), key=lambda item: item[1])  # as train/budget.py chooses
    print(
        f"training step, published network, 1x32x32, batch 32: plain float32 {plain:.2f} s, ours "
        f"({precision}) {ours:.2f} s: {ours / plain:.0%}"
    )

    encoder = PrototypeEncoder(
        3, 128, [32, 64, 64], [3, 3, 1], [2, 1, 1], [1, 0, 0], 2.0, normalise=True, similarity="competing"
    )
    encoder.requires_grad_(False)
    model = type("Model", (), {"score": staticmethod(encoder), "encoder": encoder})()
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(pixels, [str(i) for i in range(COUNT)], pd.DataFrame(index=range(COUNT)), None)
    x = to_tensor(pixels).contiguous(memory_format=torch.channels_last)
    call = images_a_call(x.device, encoder.largest_map(32))  # as train/scores.py
    parts = x.split(call)
    whole = timed(lambda: encode(model, images, progress=False), repeats)
    network = timed(lambda: [encoder(part) for part in parts], repeats)
    single = timed(lambda: encode(model, images, batch=1, progress=False), repeats)
    print(
        f"encoding {COUNT} images from pixels: {whole:.3f} s, one at a time {single:.3f} s: "
        f"{single / whole:.1f} times faster; "
        f"bound: the network alone takes {network:.3f} s, so that encoding is within {whole / network:.2f} times of it"
    )

    with tempfile.TemporaryDirectory() as folder:
        dataset.DATA_DIR = Path(folder)  # of the cache
        paths = [Path(folder) / "images" / f"{i}.jpg" for i in range(FILES)]
        paths[0].parent.mkdir()
        coarse = np.random.default_rng(0).integers(0, 256, (FILES, 11, 9, 3), dtype=np.uint8)
        for path, pixels in zip(paths, coarse):
            Image.fromarray(pixels).resize((178, 218), Image.Resampling.BICUBIC).save(path)
        config = DataConfig(source="folder", path=str(paths[0].parent), image_size=32, channels=3)

        def encoded():
            pixels = dataset.load_all(config).pixels
            return [encoder(to_tensor(pixels[rows])) for rows in np.array_split(np.arange(FILES), FILES // call)]

        def decoded():
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(lambda path: to_pixels(Image.open(path), 32, 3), paths))

        start = time.perf_counter()
        encoded()  # the first time, which decodes into the cache
        first, again = time.perf_counter() - start, timed(encoded, repeats)
        decoding = timed(decoded, repeats)
        single = timed(lambda: [encoder(to_tensor(to_pixels(Image.open(path), 32, 3)[None])) for path in paths], 1)
    print(
        f"encoding {FILES} JPEGs of 178x218: the first time {first:.2f} s (decoding alone "
        f"{decoding:.2f} s), from the cache {again:.2f} s, "
        f"one at a time {single:.2f} s: {single / first:.1f} and {single / again:.1f} times faster; "
        "bound: decoding and the "
        f"network alone {decoding + network * FILES / COUNT:.2f} s, so that the first time is within "
        f"{first / (decoding + network * FILES / COUNT):.2f} times of it"
    )


if __name__ == "__main__":
    main()
