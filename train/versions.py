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
