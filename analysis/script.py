"""What the scripts that read a run have in common: options, opening the run, choosing images and prototypes."""

import argparse

from train.errors import UserError, listed
from train.versions import add_run_options

STEPS = 18  # Heun: 34 network calls to invert, 35 to regenerate
SIGMA_MIN = 0.5  # of information: through this noise parts are seen; below it scores tell ever finer details
CI = 1.96  # standard errors on each side of an estimate: its 95 % confidence interval
WAYS = ("transport", "keep", "joint", "release")  # keys of analysis.measures.scores.OTHERS, which would import torch


def run_parser(
    doc: str, steps: int | None = STEPS, several: bool = False, outdir: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options by which every script names its run; steps: default of --steps, None where there is
    none.

    several: --version_num takes more than one; outdir: whether there are results, which --outdir puts elsewhere.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(parser, several=several)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    if outdir:
        text = "results go to FOLDER/<dataset>_v<n>/, so that those of before stay (default: below records/)"
        parser.add_argument("--outdir", metavar="FOLDER", help=text)
    if steps:
        parser.add_argument(
            "--steps", type=int, default=steps, help=f"Heun steps to invert and to regenerate (default: {steps})"
        )
    return parser


def add_edit_options(parser: argparse.ArgumentParser, auto: bool = False) -> None:
    """How scores are set: --guidance, --others and --within (analysis/edits.py).

    auto: --guidance takes that word, too, and it is the default: no guidance but where an image needs it.
    """
    text = "how strongly an edit is pushed away from the image's own scores; above 0 a step takes two network calls"
    if auto:
        text += "; auto: none, and 0.5, 1, 2 in turn for those images in which the commanded scores are not found"
    read, default = (guidance_or_auto, "auto") if auto else (guidance, "0")
    parser.add_argument("--guidance", type=read, default=default, metavar="W", help=f"{text} (default: {default})")
    text = "scores that are not set: transport (carry what is related from images of the own to those of the commanded"
    text += " value), keep, joint (move by regression), release (hide what is correlated, move the rest by regression)"
    parser.add_argument("--others", default=WAYS[0], choices=WAYS, help=f"{text} (default: {WAYS[0]})")
    text = "which of them may follow: those that speak of the same place of the image as what is set, or of any"
    parser.add_argument("--within", default="place", choices=("place", "image"), help=f"{text} (default: place)")


def edit_parser(doc: str, prototypes: str, images: str, first: str | None = None) -> argparse.ArgumentParser:
    """run_parser with the options of edits, of prototypes and of test images; prototypes and images: the help's words
    for what is taken by default; first: default of --images, where one image is asked for."""
    parser = run_parser(doc)
    add_edit_options(parser)
    parser.add_argument("--prototypes", metavar="0,3,17", help=f"which prototypes (default: {prototypes})")
    parser.add_argument("--images", metavar="ID" if first else "0,17,ID", default=first, help=images)
    return parser


def prototypes_or_best(args: argparse.Namespace, run, images, scores, count: int) -> list[int]:
    """The prototypes of --prototypes, else the `count` that matter most, no two alike; scores (N, m) of images."""
    if args.prototypes:
        return parse_prototypes(args.prototypes, scores.shape[1])
    from analysis.measures.cards import matter_most

    return matter_most(run, images, scores, count)


def guidance(text: str) -> tuple[float, ...]:
    """'1.5' -> (1.5,), the strengths to be tried in turn. Raises argparse.ArgumentTypeError."""
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= 100:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0 to 100")
    return (strength,)


def guidance_or_auto(text: str) -> tuple[float, ...]:
    """The same, or 'auto' for analysis.edits.STRENGTHS."""
    if text == "auto":
        from analysis.edits import STRENGTHS

        return STRENGTHS
    return guidance(text)


def edit_options(args: argparse.Namespace, model, scores):
    """The EditOptions that the command line means for a model; scores (N, m) of a data set."""
    from analysis.edits import EditOptions, places
    from analysis.measures.scores import KnownScores

    known = KnownScores(scores.to(model.encoder.prototypes.device))
    spoken = places(model, known) if args.within == "place" else None
    return EditOptions(known, args.steps, args.guidance, args.others, spoken)


def require(parser: argparse.ArgumentParser, args: argparse.Namespace, **least) -> None:
    """Refuse options below their least value; options left at None pass."""
    for option, value in least.items():
        number = getattr(args, option)
        if number is not None and number < value:
            parser.error(f"--{option} must be at least {value}, not {number}")


def open_run(args: argparse.Namespace):
    """-> (run, device). Raises UserError for a run, device or number of steps that cannot be."""
    from train.distributed import pick_device
    from train.runs import load_run

    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    if getattr(args, "steps", None) is not None:
        try:
            run.model.sigmas(args.steps)
        except ValueError as error:
            raise UserError(f"--steps: {error}") from None
    return run, device


def parse_prototypes(text: str, count: int, option: str = "--prototypes") -> list[int]:
    """'0,3,17' -> numbers below count, as an option gives them. Raises UserError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text}: must be numbers separated by commas, e.g. 0,3,17") from None
    for number in numbers:
        check_prototype(number, count, option)
    return list(dict.fromkeys(numbers))  # each once


def check_prototype(number: int, count: int, where: str) -> None:
    """Raises UserError where a prototype does not exist."""
    if not 0 <= number < count:
        raise UserError(f"{where}: there is no prototype {number}; the run has 0 to {count - 1}")


def parse_image(text: str, images) -> int:
    """The row of the one image that is named. Raises UserError."""
    rows = parse_images(text, images)
    if len(rows) != 1:
        raise UserError(f"--images {text}: one image is shown, not {len(rows)}")
    return rows[0]


def parse_images(text: str, images) -> list[int]:
    """'0,17,face_06512' -> rows of an ImageSet, by number or by id. Raises UserError."""
    rows = []
    for part in text.split(","):
        if part in images.ids:
            rows.append(images.ids.index(part))
        elif part.isdecimal() and int(part) < len(images):
            rows.append(int(part))
        else:
            known = f"numbers 0 to {len(images) - 1} or ids such as {listed(images.ids, 3)}"
            raise UserError(f"--images: the test images have no '{part}'; there are {known}")
    return rows
