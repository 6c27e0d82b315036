"""How scripts name the version of a run: a number, or the one that is shipped."""

import argparse

PRETRAINED = "pretrained"


def version_number(text: str) -> int | str:
    """The type of --version_num: an integer, or 'pretrained'."""
    if text == PRETRAINED:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor '{PRETRAINED}'") from None


def add_run_options(
    parser: argparse.ArgumentParser, of: str = "the run", before: str = "", shipped: bool = True, several: bool = False
) -> None:
    """--dataset and --version_num, which name a run; `before` stands before their help."""
    text = f"{before}name of {of}, as its config gives it (default: that of the newest run)"
    parser.add_argument("--dataset", metavar="NAME", help=text)
    which = "or pretrained for a shipped one" if shipped else "of those trained here"
    text = f"{before}version{'s' * several} of {of}, {which} (default: the newest)"
    nargs = "+" if several else None
    parser.add_argument("--version_num", metavar="N", type=version_number, nargs=nargs, help=text)
