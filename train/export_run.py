"""Share a run as a folder of weights, config, provenance and model card (a Hugging Face repository's layout), or take
one over.

  python train/export_run.py --dataset faces --version_num 0 --folder pretrained/faces [--numbers FILE.json]
  python train/export_run.py --import FOLDER [--set data.path=/where/images/lie]

A run exported to pretrained/<name>/ is found by every script as --version_num pretrained, and taken where there is no
other. An imported one becomes a version of its own below records/patronus/. Folders from elsewhere are checked before
anything in them is used, and nothing in them is run.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

import argparse

from train.errors import UserError, run_script
from train.versions import add_run_options

PLACES = ("data.path=", "data.metadata=")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser, shipped=False)
    parser.add_argument(
        "--folder", type=Path, help="where the export goes; must not exist (default: records/exports/<dataset>_v<n>)"
    )
    parser.add_argument(
        "--storage", choices=("F32", "F16", "BF16"), default="F16", help="of U-Net and decoder (default: F16)"
    )
    parser.add_argument("--command", help="the command that trained the run, for the model card")
    text = "JSON file whose numbers go into run.json and the model card; repeatable"
    parser.add_argument("--numbers", type=Path, action="append", default=[], metavar="FILE", help=text)
    parser.add_argument(
        "--import", type=Path, dest="source", metavar="FOLDER", help="take over a folder that was exported"
    )
    text = "with --import: where the images lie here, data.path and data.metadata; repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)
    args = parser.parse_args()
    if args.source and (args.dataset or args.folder or args.numbers or args.command or args.version_num is not None):
        parser.error("--import takes no other option than --set")
    fixed = [setting for setting in args.set if not setting.startswith(PLACES)]
    if args.set and (fixed or not args.source):
        parser.error(f"--set {(fixed or args.set)[0]}: with --import data.path and data.metadata can be set, no more")
    return args


def read_numbers(path: Path) -> dict[str, float]:
    """The numbers at the top of a JSON file. Raises UserError."""
    import json

    from train.errors import reading

    with reading(f"--numbers {path}: not readable JSON"):
        values = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


def export(args: argparse.Namespace) -> None:
    from global_config import RECORDS_DIR
    from train.pretrained import Provenance, change_by_storage, date_of, stored_tensors, write_pretrained
    from train.runs import checkpoint_files, load_run
    from train.whole_files import new_folder, unclaimed

    run = load_run(args.dataset, args.version_num)
    files = checkpoint_files(run.folder)
    if not files:
        raise UserError(
            f"{run.name}/{run.version}: {run.folder} holds no checkpoint of ours; only trained runs are exported"
        )
    folder = args.folder or RECORDS_DIR / "exports" / f"{run.name}_v{run.version}"
    unclaimed(folder)
    state = stored_tensors(run.model.state_dict(), args.storage)
    provenance = Provenance(
        name=run.name,
        version=run.version,
        step=run.step,
        seed=run.config.train.seed,
        averaged=run.averaged,
        date=date_of(files[0]),
        command=args.command or "python train/train_patronus.py --config config.yaml",
        storage=args.storage,
        change=change_by_storage(run.config, run.model, state),
        numbers={name: value for path in args.numbers for name, value in read_numbers(path).items()},
    )
    new_folder(
        folder.parent,
        lambda partial: write_pretrained(partial, run.config, state, provenance),
        lambda: unclaimed(folder),
    )
    size = (folder / "model.safetensors").stat().st_size / 1e6
    print(
        f"exported {run.name}/{run.version} to {folder}: {size:.1f} MB, scores exact, "
        f"estimated pixels within {provenance.change:.1e}"
    )


def import_run(folder: Path, settings: list[str]) -> None:
    from train.config import override, validate
    from train.pretrained import read_pretrained
    from train.runs import new_run_folder, save_checkpoint

    config, weights, provenance = read_pretrained(folder)
    if settings:
        config = validate(override(config.plain(), settings), f"{folder} with --set")
        config = config.model_copy(update={"data": config.data.absolute()})
    run = new_run_folder(config)
    state = {
        "config": config.plain(),
        "step": provenance.step,
        "model": weights,
        "ema": weights if provenance.averaged else None,
    }
    save_checkpoint(run, state | {"origin": provenance.model_dump()})
    print(f"imported {folder} as {run}; next:")
    names = f"--dataset {config.name} --version_num {run.name.removeprefix('version_')}"
    print(f"  python analysis/interpretability/visualize_prototype.py {names}")


def main() -> None:
    args = parse_args()
    if args.source:
        import_run(args.source, args.set)
    else:
        export(args)


if __name__ == "__main__":
    run_script(main)
