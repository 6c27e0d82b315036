"""FID of generated images against real ones by pytorch-fid, with everything that makes the number comparable; precision
and recall beside it.

Real images are exported once through the very transform of training, as PNG; both sides hold equally many images of one
size. Without --images the newest samples of the run are judged (--kind says which), or conditional ones are made where
there are none. Printed beside the FID: the counts and the floor, the same distance between two halves of the real
images. The number is that of `python -m pytorch_fid A B` on the two folders named. Precision and recall (Kynkaanniemi
et al. 2019), density and coverage (Naeem et al. 2020) are taken of the same features. Machines without Inception's
weights use --features efficientnet-lite0, whose weights lie in a pip package: a Frechet distance too, but no FID, and
comparable only to its like. The whole protocol goes to records/fid_scores/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse
from collections.abc import Callable
from typing import NamedTuple

from analysis.script import open_run, require, run_parser
from train.errors import UserError, run_script

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"
MOST = 10000  # images, as in the paper


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--images", metavar="FOLDER", help="generated images (default: the run's newest samples)")
    parser.add_argument(
        "--kind", default="cond", choices=["cond", "uncond"], help="which of the run's samples (default: cond)"
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=["train", "val", "test"],
        help="the real images (default: test, the paper's choice)",
    )
    parser.add_argument("--limit", type=int, default=MOST, help=f"at most so many images a side (default: {MOST})")
    parser.add_argument(
        "--features",
        default="inception",
        choices=["inception", "efficientnet-lite0"],
        help="default: inception, for FID",
    )
    parser.add_argument(
        "--dims",
        type=int,
        default=2048,
        choices=[64, 192, 768, 2048],
        help="Inception features (default: 2048, the usual FID)",
    )
    text = (
        "of conditional samples: do they keep their source's attributes, by the word of a "
        "classifier trained on the labels"
    )
    parser.add_argument("--attributes", action="store_true", help=text)
    parser.add_argument("--batch", type=int, default=50, help="images a call of the network (default: 50)")
    parser.add_argument("--inception-weights", metavar="FILE", help=f"{WEIGHTS}, for machines without a network")
    args = parser.parse_args()
    require(parser, args, limit=2, batch=1)
    return args


def load_inception(weights: str | None, dims: int, device):
    """pytorch-fid's Inception and the checksum of its weights. Raises UserError where they are missing or are something
    else."""
    import hashlib
    import tempfile
    from pathlib import Path

    import torch
    from pytorch_fid.inception import InceptionV3

    from train.safe_files import read_tensors

    hub = Path(torch.hub.get_dir())
    file = Path(weights) if weights else hub / "checkpoints" / WEIGHTS
    if weights and not file.is_file():
        raise UserError(f"--inception-weights {weights}: no such file")
    block = InceptionV3.BLOCK_INDEX_BY_DIM[dims]
    try:
        if not file.is_file():
            InceptionV3([block])  # downloads them
        read_tensors(file)  # pytorch-fid itself would run code in a hostile file
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "checkpoints").mkdir()
            (Path(folder) / "checkpoints" / WEIGHTS).symlink_to(file.resolve())
            torch.hub.set_dir(folder)
            try:
                model = InceptionV3([block]).to(device)
            finally:
                torch.hub.set_dir(str(hub))
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{file}: not the weights of Inception that pytorch-fid expects ({' '.join(str(error).split())[:100]})"
        ) from None
    except OSError as error:
        raise UserError(
            f"Inception weights: {file} is not there and cannot be downloaded ({error}); fetch {URL} "
            "elsewhere and put it there, or give "
            "it as --inception-weights FILE"
        ) from None
    return model, hashlib.sha256(file.read_bytes()).hexdigest()


def generated_folder(args, run, device, real: int):
    """The folder to judge; samples are made where a run has none. Raises UserError."""
    from pathlib import Path

    from analysis.results import newest_samples
    from train.data.dataset import load_split
    from train.generation import Sampling, conditional_scores, generate

    if args.images:
        folder = Path(args.images)
        if not folder.is_dir():
            raise UserError(f"--images {args.images}: no such folder")
        return folder
    if folder := newest_samples(run, args.kind):
        return folder
    if args.kind == "uncond":
        names = f"--dataset {run.name} --version_num {run.version}"
        raise UserError(
            f"{run.name} version {run.version} has no unconditional samples of its present training step; make some: "
            f"python train/unconditional_sampling.py {names}"
        )
    images = load_split(run.config.data, "test")
    return generate(
        run,
        "cond",
        Sampling(real, *run.model.best_sampling),
        {"split": "test"},
        conditional_scores(run, images, device),
        device,
    )


def frechet(a, b) -> float:
    """FID of two arrays of activations (N, dims), from the statistics that pytorch-fid takes of them."""
    import warnings

    import numpy as np
    from pytorch_fid.fid_score import calculate_frechet_distance
    from scipy.linalg import LinAlgWarning

    statistics = [(np.mean(act, axis=0), np.cov(act, rowvar=False)) for act in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # of too few images, which the note below says in plain words
        return float(calculate_frechet_distance(*statistics[0], *statistics[1]))


class Features(NamedTuple):
    """compute(folder of PNGs) -> features (N, dims); what their distance is called; the weights' checksum."""

    compute: Callable
    title: str
    dims: int
    checksum: str


def features_of(args, device) -> Features:
    if args.features == "inception":
        from pytorch_fid.fid_score import get_activations

        model, checksum = load_inception(args.inception_weights, args.dims, device)

        def activations(folder):
            files = sorted(folder.glob("*.png"))
            return get_activations(files, model, min(args.batch, len(files)), args.dims, device, num_workers=0)

        return Features(activations, "FID", args.dims, checksum)
    import numpy as np
    from PIL import Image

    from analysis.measures.features import efficientnet_features, load_efficientnet

    network, checksum = load_efficientnet(device)

    def activations(folder):
        pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in sorted(folder.glob("*.png"))])
        return efficientnet_features(network, pixels, device, args.batch)

    return Features(activations, "Frechet distance (EfficientNet-lite0)", 1280, checksum)


class Sources(NamedTuple):
    """Of a folder of conditional samples: its files, the images whose scores they are made from, labelled training
    images, and the names of usable attributes."""

    files: list
    images: object
    train: object
    names: list[str]


def sources_of(run, folder) -> Sources:
    """Raises UserError where samples or labels cannot be judged."""
    import json

    from analysis.measures.labels import LEAST, labelled_splits
    from train.data.dataset import load_split
    from train.errors import reading

    settings, files = settings_of(folder), sorted(folder.glob("*.png"))
    with reading(settings):
        split = json.loads(settings.read_text()).get("split") if settings.is_file() else None
    if split is None or not all(file.stem.isdecimal() for file in files):
        raise UserError(
            f"--attributes: {folder} holds no conditional samples: {settings} names no split whose "
            "scores they are made from"
        )
    train, _, names = labelled_splits(run)
    if not names:
        raise UserError(
            f"--attributes: {run.name} has no attribute that at least {LEAST} test images have and as many have not"
        )
    return Sources(files, load_split(run.config.data, split), train, names)


def attribute_agreement(sources: Sources, device) -> dict[str, float]:
    """The share of conditional samples that keep each attribute of their source."""
    import numpy as np
    from PIL import Image

    from analysis.measures.readers import attributes_kept, classifier_reader

    source, files, names = sources.images, sources.files, sources.names
    mode = "L" if source.pixels.shape[-1] == 1 else "RGB"
    samples = np.stack([np.asarray(Image.open(file).convert(mode)).reshape(source.pixels.shape[1:]) for file in files])
    reader = classifier_reader(sources.train, sources.train.attributes[names].to_numpy(float), device)
    shares = attributes_kept(reader, source.pixels[[int(file.stem) % len(source) for file in files]], samples, device)
    return dict(zip(names, shares.tolist()))


def settings_of(folder):
    """The file beside a folder of samples, or of the first of them, that says how they were made."""
    from analysis.evaluation.fid_folders import PART

    return folder.with_name(folder.name.split(PART)[0] + ".json")


def protocol(args, run, folders: dict, features: Features) -> dict:
    """What has to be equal for two distances to be comparable."""
    import json
    from importlib.metadata import version

    settings, data = settings_of(folders["generated"]), run.config.data
    return {
        "run": str(run.folder),
        "training_step": run.step,
        "averaged_weights": run.averaged,
        "sampling": json.loads(settings.read_text()) if settings.is_file() else None,
        "folders": {name: str(folder) for name, folder in folders.items()},
        "real_split": args.split,
        "transform": (
            "training's own: PIL bicubic with antialiasing to "
            f"{data.image_size}x{data.image_size}, {data.channels} channels, uint8, PNG"
        ),
        "features": args.features,
        "dims": features.dims,
        "weights_sha256": features.checksum,
        "versions": {
            name: version(name) for name in ("torch", "torchvision", "pytorch-fid", "scipy", "numpy", "pillow")
        },
    }


def distances(activations: dict, title: str) -> dict:
    """The distance, its floor, precision and recall, of activations (N, dims) of generated and real images."""
    from analysis.measures.features import NEIGHBOURS, fidelity

    generated, real = activations["generated"], activations["real"]
    count, half = len(generated), len(generated) // 2
    distance, floor = frechet(generated, real), frechet(real[0::2][:half], real[1::2][:half])
    floor_text = f"floor {floor:.3f}, between two halves of the real images ({half} a side)"
    print(f"{title} {distance:.3f} from {count} images a side; {floor_text}")
    numbers = {"fid" if title == "FID" else "frechet_distance": distance}
    numbers |= {"images_a_side": count, "floor": floor, "images_a_side_of_floor": half}
    if count > NEIGHBOURS:
        shares = fidelity(real, generated)
        numbers |= shares
        print(", ".join(f"{key} {value:.3f}" for key, value in shares.items()) + f" ({NEIGHBOURS} neighbours)")
    return numbers


def looks(folders: dict, sources: Sources | None, device) -> dict:
    """The grain of both sides and, where their sources are known, the attributes that samples keep."""
    from analysis.measures.features import grain

    rough = {name: grain(sorted(folder.glob("*.png"))) for name, folder in folders.items()}
    print(f"grain {rough['generated']:.1f} grey levels, of real images {rough['real']:.1f} (median absolute Laplacian)")
    numbers = {"grain": rough["generated"], "grain_of_real": rough["real"]}
    if sources is not None:
        shares = attribute_agreement(sources, device)
        least, mean = min(shares, key=shares.get), sum(shares.values()) / len(shares)
        print(f"attributes of the source kept: {mean:.3f}, least of all {least} with {shares[least]:.3f}")
        numbers["attributes_kept"] = shares
    return numbers


def print_notes(args, run, folders: dict, count: int, dims: int) -> None:
    """What the number does not say."""
    if count < dims:
        compares = f"with {count} the number compares only to others of equal count"
        print(f"note: {dims} features need at least as many images a side; {compares}")
    if run.config.data.channels == 1:
        means = "features learnt on colour photographs mean little on them"
        print(f"note: grey images are replicated to three channels on both sides; {means}")
    if args.features == "inception":
        option = "" if dims == 2048 else f" --dims {dims}"
        print(f"the same by hand: python -m pytorch_fid {folders['generated']} {folders['real']}{option}")


def main() -> None:
    args = parse_args()

    from analysis.evaluation.fid_folders import check_images, exactly, export_real
    from analysis.results import results_folder
    from analysis.schemas import DISTANCE
    from train.data.dataset import load_split

    run, device = open_run(args)
    features = features_of(args, device)
    real = load_split(run.config.data, args.split)
    files = check_images(generated_folder(args, run, device, min(len(real), args.limit)), run.config.data)
    count = min(len(files), len(real), args.limit)
    if count < 4:
        raise UserError(
            f"a distance needs at least 4 images a side to be computed and {features.dims} to mean something, "
            f"not {count}"
        )
    folders = {"generated": exactly(files, count), "real": export_real(real, count, run, args.split)}
    sources = sources_of(run, folders["generated"]) if args.attributes else None
    activations = {}
    for name, folder in folders.items():
        print(f"{name}: {count} images in {folder}")
        activations[name] = features.compute(folder)
    numbers = distances(activations, features.title) | looks(folders, sources, device)

    kind = "" if args.features == "inception" else "_efficientnet"
    name = f"{folders['generated'].parent.name}_{folders['generated'].name}_{args.split}_{features.dims}{kind}"
    numbers |= protocol(args, run, folders, features)
    file = DISTANCE.write(results_folder("fid_scores", run, args.outdir), numbers, name)
    print_notes(args, run, folders, count, features.dims)
    print(f"protocol: {file}")


if __name__ == "__main__":
    run_script(main)
