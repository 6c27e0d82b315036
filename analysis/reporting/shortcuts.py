"""What a report says of shortcuts, in plain words: what was asked, what could have been found, what was found, and
three edits of each suspect; and of the ties that need no labels."""

from pathlib import Path

import pandas as pd

from analysis.drawing.web import figure_uri, pixels_uri, strip
from analysis.measures.shortcuts import LEAST_EFFECT, LEVEL
from analysis.schemas import EDITS, EFFECTS, READERS, TIES

MOST_TIES = 3  # ties told of


def share(value: float) -> str:
    """'42 %' of a share."""
    return f"{100 * abs(value):.0f} %"


def plain(name: str) -> str:
    return str(name).replace("_", " ")


def describe_question(table: pd.DataFrame) -> str:
    names = sorted({*table["raised"], *table["moved"]})
    return (
        f"{len(table)} questions were asked, one of each ordered pair of {len(names)} attributes: does raising the "
        f"prototypes of the one move the other, in edited images and in generated ones?"
    )


def describe_power(table: pd.DataFrame) -> str:
    """What could have been found: by the column `detectable` where the diagnosis has it, the effect that would be found
    in eight of ten such diagnoses."""
    bar = (
        f"Named is what reaches {share(LEAST_EFFECT)} of the difference between having an attribute and not, in both "
        f"ways, beyond chance (corrected p below {LEVEL})."
    )
    if "detectable" not in table or table["detectable"].isna().all():
        return bar
    middle, worst = table["detectable"].median(), table.loc[table["detectable"].idxmax()]
    return (
        f"{bar} With these images an effect of {share(middle)} would be found in eight of ten cases, for half of the "
        f"pairs; the hardest, {plain(worst.raised)} on {plain(worst.moved)}, would need {share(worst.detectable)}."
    )


def describe_suspects(table: pd.DataFrame) -> list[str]:
    """A sentence a suspect, the strongest first."""
    least = table[["edit", "generated"]].abs().min(axis=1)
    suspects = table.assign(least=least)[table["shortcut"]].sort_values("least", ascending=False)
    return [
        f"Raising {plain(row.raised)} {'adds' if row.edit > 0 else 'takes away'} {plain(row.moved)}: by "
        f"{share(row.edit)} of the way between having it and not when images are edited, by {share(row.generated)} "
        f"when they are generated (corrected p {row.p:.1e})."
        for row in suspects.itertuples()
    ]


def describe_others(table: pd.DataFrame, suspects: int) -> str:
    """What the other pairs come to: by the column `verdict` where the diagnosis has it, which tells 'not found' from
    'cannot tell'."""
    other = len(table) - suspects
    if "verdict" not in table:
        return f"None was found in {'the others' if suspects else 'any pair'} ({other})."
    unclear = int((table["verdict"] == "cannot tell").sum())
    text = f"In {other - unclear} of {len(table)} pairs there is none as large as could have been found."
    return text + (f" Of {unclear} nothing can be said: these images are too few." if unclear else "")


def edit_pictures(folder: Path) -> list[dict]:
    """Three images of each suspect: as they are, and with its prototypes lowered and raised."""
    arrays = EDITS.read(folder)
    if arrays is None:
        return []
    return [
        {"name": plain(name), "pictures": [pixels_uri(strip(list(three)), 92) for three in images]}
        for name, images in zip(arrays["raised"], arrays["pictures"])
    ]


def describe_shortcuts(folder: Path) -> dict | None:
    """All that diagnose.py left in its folder; None where its table is damaged."""
    table = next((table for reader in READERS if (table := EFFECTS.read(folder, reader)) is not None), None)
    if table is None:
        return None
    suspects = describe_suspects(table)
    return {
        "asked": describe_question(table),
        "power": describe_power(table),
        "suspects": suspects,
        "others": describe_others(table, len(suspects)),
        "edits": edit_pictures(folder) if suspects else [],
        "matrix": figure_uri(folder / "effects.png"),
    }


def describe_ties(folder: Path) -> dict | None:
    """The strongest ties that ties.py left in its folder, and the picture of the first; None where they are damaged."""
    numbers = TIES.read(folder)
    if numbers is None:
        return None
    lines = [
        f"Prototype {tie['a']} and its unit {'bring' if tie['generated'] > 0 else 'take away'} prototype {tie['b']} "
        f"and its unit: by {share(tie['generated'])} of their range in generated images, {share(tie['data'])} in the "
        f"training images, of which {rare_corner(tie)}."
        for tie in numbers["ties"][:MOST_TIES]
    ]
    picture = folder / "tie_0.png"
    return {
        "asked": f"{numbers['pairs']} pairs of units of prototypes; of {len(numbers['ties'])} that the images do not "
        f"force, {numbers['sure']} are tied beyond chance. The strongest:",
        "ties": lines,
        "figure": figure_uri(picture) if lines and picture.is_file() else None,
    }


def rare_corner(tie: dict) -> str:
    """'46 have 3 low with 95 high', the rarest of the four cases."""
    case = min(("high_high", "high_low", "low_high", "low_low"), key=tie.get)
    first, second = case.split("_")
    return f"{tie[case]} have {tie['a']} {first} with {tie['b']} {second}"
