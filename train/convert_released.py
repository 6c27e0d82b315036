"""Turn a published run into one of ours, or one of ours (published formulation) into the published format.

  python train/convert_released.py records/diffusion/patronus/CelebA-train/Logs_Checkpoints/checkpoints/version_4
  python train/convert_released.py --export --dataset fmnist_paper --version_num 0

Conversion is not needed for use: a published run works in place wherever a run is named. It gives a run of ours,
records/patronus/<name>/version_<n>/, that needs no pickle any more.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

import argparse

from train.errors import UserError, listed, run_script
from train.versions import add_run_options


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", help="folder with ckpt.tar and config.pickle")
    parser.add_argument("--name", help="published data set name (default: read off the path)")
    parser.add_argument(
        "--export",
        action="store_true",
        help="write a run of ours in the published format, below records/released_format/",
    )
    add_run_options(parser, before="with --export: ")
    args = parser.parse_args()
    if args.export == bool(args.path):
        parser.error("give either the folder of a published run, or --export")
    return args


def storable(value):
    """Plain values as checkpoints may hold them: torch.device as text, frozenset as tuple."""
    import torch

    if isinstance(value, dict):
        return {storable(key): storable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return (tuple if isinstance(value, frozenset) else type(value))(map(storable, value))
    return str(value) if isinstance(value, torch.device) else value


def convert(path: Path, name: str | None) -> None:
    from train.released import SOURCES, read_released
    from train.runs import new_run_folder, save_checkpoint
    from train.safe_files import read_plain_pickle

    folder = path.parent if path.name == "ckpt.tar" else path
    if not (folder / "ckpt.tar").is_file():
        raise UserError(f"{folder}: holds no ckpt.tar")
    known = [part.removesuffix("-train") for part in folder.resolve().parts if part.removesuffix("-train") in SOURCES]
    if not name and not known:
        raise UserError(f"{folder}: no published data set name in the path; give --name, one of {listed(SOURCES)}")
    config, weights = read_released(folder, name or known[-1])
    published = storable(read_plain_pickle(folder / "config.pickle"))
    converted = new_run_folder(config)
    state = {"config": config.plain(), "step": 0, "model": weights, "ema": None, "published": published}
    save_checkpoint(converted, state)
    version = converted.name.removeprefix("version_")
    print(f"converted to {converted}; next:")
    print(f"  python analysis/interpretability/visualize_prototype.py --dataset {config.name} --version_num {version}")


def export(dataset: str | None, version: int | None) -> None:
    import pickle

    from global_config import RECORDS_DIR
    from train.released import to_released
    from train.runs import checkpoint_files, load_checkpoint, load_run
    from train.safe_files import read_plain_pickle
    from train.whole_files import replace_file, save_tensors

    run, origin = load_run(dataset, version), None  # none of shipped runs
    if checkpoint_files(run.folder):
        origin = load_checkpoint(run.folder).get("published")
    elif (run.folder / "config.pickle").is_file():
        origin = read_plain_pickle(run.folder / "config.pickle")
    checkpoint, config = to_released(run.config, run.model, origin)
    folder = RECORDS_DIR / "released_format" / f"{run.name}_v{run.version}"
    save_tensors(folder / "ckpt.tar", checkpoint)
    replace_file(folder / "config.pickle", lambda file: file.write_bytes(pickle.dumps(config)))
    print(f"exported to {folder} (ckpt.tar and config.pickle)")


def main() -> None:
    args = parse_args()
    if args.export:
        export(args.dataset, args.version_num)
    else:
        convert(Path(args.path), args.name)


if __name__ == "__main__":
    run_script(main)
