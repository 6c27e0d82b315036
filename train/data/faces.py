"""Drawn portraits with exact attributes and true counterfactuals, made on the fly; nothing is downloaded.

The drawings are of the style "ToonHead" by Johan Melin (https://www.johanmelin.com), CC BY 4.0, remixed by DiceBear.
Every option is drawn by our own generator, one seed an image, independently of the others; a face is a plain dict of
DiceBear options.
"""

import io
import json
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image

HAIR_COLOURS = {
    "Black_Hair": ["#2c1b18"],
    "Brown_Hair": ["#724133"],
    "Blond_Hair": ["#d6b370", "#b58143"],
    "Red_Hair": ["#a55728"],
}
OTHER_SKINS = ["#5c3829", "#a36b4f", "#c68e7a", "#b98e6a"]
OTHER_CLOTHES = ["#151613", "#0b3286", "#545454", "#147f3c", "#f97316", "#ec4899", "#731ac3", "#e8e9e6", "#eab308"]
BACKGROUNDS = ["#b6e3f4", "#c0aede", "#d1d4f9", "#ffd5dc", "#ffdfbf", "#d8f0d0"]

# attribute -> (the option it rules, values where it holds, values where it does not, how often it holds)
BINARY = {
    "Smiling": ("mouthVariant", ["laugh"], ["sad"], 0.5),
    "Beard": ("beardVariant", ["fullBeard", "longBeard"], [None], 0.4),
    "Long_Hair": ("rearHairVariant", ["longStraight", "longWavy", "shoulderHigh"], [None, "neckHigh"], 0.5),
    "Eyes_Closed": ("eyesVariant", ["bow", "humble"], ["happy", "wide"], 0.5),
    "Pale_Skin": ("skinColor", ["#f1c3a5"], OTHER_SKINS, 0.4),
    "Red_Clothes": ("clothesColor", ["#b11f1f"], OTHER_CLOTHES, 0.4),
}
ATTRIBUTES = [*HAIR_COLOURS, *BINARY]

LICENCE = """These images are drawn with the avatar style "ToonHead" by Johan Melin (https://www.johanmelin.com), a
remix of https://www.figma.com/community/file/1589627891082866389, licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). The images are rendered by DiceBear and resvg; options were drawn at
random.
"""


def _pick(rng: np.random.Generator, values: list):
    return values[int(rng.integers(len(values)))]


def draw_options(seed: int, index: int) -> dict:
    """The DiceBear options of face `index` of a set: the same for the same seed, whatever the size of the set."""
    rng = np.random.default_rng([seed, index])
    options = {
        "hairColor": _pick(rng, _pick(rng, list(HAIR_COLOURS.values()))),
        "hairVariant": _pick(rng, ["bun", "sideComed", "spiky", "undercut"]),
        "eyebrowsVariant": _pick(rng, ["neutral", "raised", "happy", "sad", "angry"]),
        "clothesVariant": _pick(rng, ["openJacket", "shirt", "tShirt", "turtleNeck"]),
        "backgroundColor": _pick(rng, BACKGROUNDS),
        "scale": float(rng.uniform(1.22, 1.32)),
        "translateX": float(rng.uniform(-2, 2)),
        "translateY": float(rng.uniform(-3, 0)),
        "rotate": float(rng.uniform(-4, 4)),
    }
    for option, present, absent, share in BINARY.values():
        options[option] = _pick(rng, present if rng.random() < share else absent)
    return options


def attributes(options: dict) -> dict[str, int]:
    """The binary attributes, 1 or 0, that a face's options mean."""
    found = {name: int(options["hairColor"] in colours) for name, colours in HAIR_COLOURS.items()}
    return found | {name: int(options[option] in present) for name, (option, present, _, _) in BINARY.items()}


def with_attribute(options: dict, attribute: str, value: bool) -> dict:
    """The same face with one attribute set and nothing else changed: a counterfactual. Raises KeyError for an unknown
    attribute.

    Taking a hair colour away needs another one in its place: black, or brown where black goes.
    """
    if attribute in HAIR_COLOURS:
        fallback = "Brown_Hair" if attribute == "Black_Hair" else "Black_Hair"
        option, present = "hairColor", HAIR_COLOURS[attribute]
        absent = HAIR_COLOURS[fallback]
    else:
        option, present, absent, _ = BINARY[attribute]
    if bool(attributes(options)[attribute]) == bool(value):
        return dict(options)
    return options | {option: (present if value else absent)[0]}


@cache
def _style():
    from dicebear import Style

    return Style(json.loads(files("dicebear_styles").joinpath("toon-head.json").read_text("utf-8")))


def render(options: dict, size: int) -> np.ndarray:
    """Draw a face: uint8 (size, size, 3)."""
    import resvg_py
    from dicebear import Avatar

    shown = {"seed": "patronus", "size": 768}  # everything is given, so the style's own seed has nothing left to decide
    for key, value in options.items():
        if key.endswith("Variant"):
            shown[key.replace("Variant", "Probability")] = 0 if value is None else 100
        if value is not None:
            shown[key] = value
    svg = Avatar(_style(), shown).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def counterfactual(
    options: dict, attribute: str, size: int, threshold: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The face without and with the attribute, uint8 (size, size, 3) each, and the region it rules, bool (size, size).

    The region holds the pixels of which some channel differs by more than `threshold` of 255.
    """
    absent, present = (render(with_attribute(options, attribute, value), size) for value in (False, True))
    return absent, present, (np.abs(absent.astype(int) - present).max(-1) > threshold)


def counterfactual_pairs(size: int, seed: int, count: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Each attribute's counterfactuals of the first `count` faces of a seed: attribute -> absent, present (n, size,
    size, 3) and regions.
    """
    options = [draw_options(seed, i) for i in range(count)]
    return {
        name: tuple(np.stack(part) for part in zip(*(counterfactual(o, name, size) for o in options)))
        for name in ATTRIBUTES
    }
