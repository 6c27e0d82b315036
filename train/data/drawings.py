"""Drawn people with exact attributes and true counterfactuals, made on the fly; nothing is downloaded.

A world is one style of the drawing package DiceBear and the options that are drawn at random for it, by our own
generator, one seed an image, each independently of the others. An image is a plain dict of DiceBear options.
"""

import io
import json
from functools import cache, partial
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from train.data.listing import Listing

SPLITS = {"train": 6000, "val": 500, "test": 2500}
BACKGROUNDS = ["#b6e3f4", "#c0aede", "#d1d4f9", "#ffd5dc", "#ffdfbf", "#d8f0d0"]


def _pick(rng: np.random.Generator, values: list):
    return values[int(rng.integers(len(values)))]


class World(NamedTuple):
    """A style and what is drawn of it. An option called ...Variant is a part of the drawing; None leaves the part out.

    style: file of the package dicebear-styles, without its ending.
    noun: what one image is called.
    licence: a text to lie beside cached images.
    hair_colours: attribute -> colours of the hair; one of them holds.
    free: option -> values of which one is drawn.
    framing: option -> range from which a number is drawn.
    binary: attribute -> (the option it rules, values where it holds, values where it does not, how often it holds).
    """

    style: str
    noun: str
    licence: str
    hair_colours: dict[str, list]
    free: dict[str, list]
    framing: dict[str, tuple[float, float]]
    binary: dict[str, tuple[str, list, list, float]]

    @property
    def names(self) -> list[str]:
        return [*self.hair_colours, *self.binary]

    def draw_options(self, seed: int, index: int) -> dict:
        """The options of image `index` of a set: the same for the same seed, whatever the size of the set."""
        rng = np.random.default_rng([seed, index])
        options = {"hairColor": _pick(rng, _pick(rng, list(self.hair_colours.values())))}
        options |= {option: _pick(rng, values) for option, values in self.free.items()}
        options |= {option: float(rng.uniform(*limits)) for option, limits in self.framing.items()}
        for option, present, absent, share in self.binary.values():
            options[option] = _pick(rng, present if rng.random() < share else absent)
        return options

    def attributes(self, options: dict) -> dict[str, int]:
        """The binary attributes, 1 or 0, that an image's options mean."""
        hair = {name: int(options["hairColor"] in colours) for name, colours in self.hair_colours.items()}
        return hair | {name: int(options[option] in present) for name, (option, present, _, _) in self.binary.items()}

    def with_attribute(self, options: dict, attribute: str, value: bool) -> dict:
        """The same image with one attribute set and nothing else changed: a counterfactual. Raises KeyError for an
        unknown attribute.

        Taking a hair colour away needs another one in its place: the first, or the second where the first goes.
        """
        if attribute in self.hair_colours:
            first, second, *_ = self.hair_colours
            option, present = "hairColor", self.hair_colours[attribute]
            absent = self.hair_colours[second if attribute == first else first]
        else:
            option, present, absent, _ = self.binary[attribute]
        if bool(self.attributes(options)[attribute]) == bool(value):
            return dict(options)
        return options | {option: (present if value else absent)[0]}

    def render(self, options: dict, size: int) -> np.ndarray:
        """Draw an image: uint8 (size, size, 3)."""
        import resvg_py
        from dicebear import Avatar

        settings = {"seed": "patronus", "size": 768}  # all options are set, so the style's own seed decides nothing
        for key, value in options.items():
            if key.endswith("Variant"):
                settings[key.replace("Variant", "Probability")] = 0 if value is None else 100
            if value is not None:
                settings[key] = value
        svg = Avatar(_style(self.style), settings).to_string()
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def counterfactual(
        self, options: dict, attribute: str, size: int, threshold: int = 8
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The image without and with the attribute, uint8 (size, size, 3) each, and the region it rules, bool (size,
        size).

        The region holds the pixels of which some channel differs by more than `threshold` of 255.
        """
        absent, present = (self.render(self.with_attribute(options, attribute, value), size) for value in (False, True))
        return absent, present, (np.abs(absent.astype(int) - present).max(-1) > threshold)

    def counterfactual_pairs(
        self, size: int, seed: int, count: int
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Each attribute's counterfactuals of the first `count` images of a seed: attribute -> absent, present (n,
        size, size, 3) and regions.
        """
        options = [self.draw_options(seed, i) for i in range(count)]
        return {
            name: tuple(np.stack(part) for part in zip(*(self.counterfactual(o, name, size) for o in options)))
            for name in self.names
        }

    def draw(self, seed: int, size: int, index: int) -> np.ndarray:
        """Image `index` of a seed: uint8 (size, size, 3)."""
        return self.render(self.draw_options(seed, index), size)

    def listing(self, config) -> Listing:
        """A data set of the world; image i of a seed is the same whatever the selection."""
        splits = np.repeat(list(SPLITS), list(SPLITS.values()))
        count = len(splits)
        return Listing(
            ids=[f"{self.noun}_{i:05d}" for i in range(count)],
            splits=splits,
            load=partial(self.draw, config.seed, config.image_size),
            fingerprint=f"dicebear-styles 10.6.0 {self} seed {config.seed}",
            attributes=pd.DataFrame([self.attributes(self.draw_options(config.seed, i)) for i in range(count)]),
            processes=True,
            licence=self.licence,
        )


@cache
def _style(name: str):
    from dicebear import Style

    return Style(json.loads(files("dicebear_styles").joinpath(f"{name}.json").read_text("utf-8")))


FACES = World(
    style="toon-head",
    noun="face",
    licence="""These images are drawn with the avatar style "ToonHead" by Johan Melin (https://www.johanmelin.com), a
remix of https://www.figma.com/community/file/1589627891082866389, licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). The images are rendered by DiceBear and resvg; options were drawn at
random.
""",
    hair_colours={
        "Black_Hair": ["#2c1b18"],
        "Brown_Hair": ["#724133"],
        "Blond_Hair": ["#d6b370", "#b58143"],
        "Red_Hair": ["#a55728"],
    },
    free={
        "hairVariant": ["bun", "sideComed", "spiky", "undercut"],
        "eyebrowsVariant": ["neutral", "raised", "happy", "sad", "angry"],
        "clothesVariant": ["openJacket", "shirt", "tShirt", "turtleNeck"],
        "backgroundColor": BACKGROUNDS,
    },
    framing={"scale": (1.22, 1.32), "translateX": (-2, 2), "translateY": (-3, 0), "rotate": (-4, 4)},
    binary={
        "Smiling": ("mouthVariant", ["laugh"], ["sad"], 0.5),
        "Beard": ("beardVariant", ["fullBeard", "longBeard"], [None], 0.4),
        "Long_Hair": ("rearHairVariant", ["longStraight", "longWavy", "shoulderHigh"], [None, "neckHigh"], 0.5),
        "Eyes_Closed": ("eyesVariant", ["bow", "humble"], ["happy", "wide"], 0.5),
        "Pale_Skin": ("skinColor", ["#f1c3a5"], ["#5c3829", "#a36b4f", "#c68e7a", "#b98e6a"], 0.4),
        "Red_Clothes": (
            "clothesColor",
            ["#b11f1f"],
            ["#151613", "#0b3286", "#545454", "#147f3c", "#f97316", "#ec4899", "#731ac3", "#e8e9e6", "#eab308"],
            0.4,
        ),
    },
)

# smaller parts than those of FACES, darker skins, whole figures
VOXELS = World(
    style="voxel-art",
    noun="figure",
    licence="""These images are drawn with the avatar style "Voxel Art" by DiceBear (https://www.dicebear.com), licensed
under CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/). The images are rendered by DiceBear and resvg;
options were drawn at random.
""",
    hair_colours={
        "Black_Hair": ["#2c222b"],
        "Brown_Hair": ["#5a3825"],
        "Blond_Hair": ["#e8d4a8"],
        "Red_Hair": ["#b55239"],
    },
    free={
        "eyebrowsVariant": ["flat", "raised", "angry", "soft", None],
        "noseVariant": ["block", "wide", "small", "tall"],
        "cheeksVariant": ["blush", "freckles", None],
        "outfitVariant": ["plain", "stripes", "overalls", "hoodie", "tie"],
        "pantsColor": ["#3b5b8c", "#4a4e69", "#6b4f3a", "#7a86a8"],
        "shoesColor": ["#f1f3f5", "#343a40", "#d6336c", "#f08c00"],
        "backgroundColor": BACKGROUNDS,
        "animationVariant": ["none"],
        "jacketColor": ["#f8f9fa"],
        "hatColor": ["#f2f2f2"],
    },
    framing={"scale": (0.98, 1.08), "translateX": (-3, 3), "translateY": (-2, 2), "rotate": (-4, 4)},
    binary={
        "Smiling": ("mouthVariant", ["laugh", "bigSmile"], ["flat", "frown"], 0.5),
        "Beard": ("beardVariant", ["full"], [None], 0.4),
        "Glasses": ("glassesVariant", ["square", "round", "cat"], [None], 0.4),
        "Long_Hair": (
            "topVariant",
            ["longStraight", "longWavy", "partedLong"],
            ["short", "spiky", "sideSwept", "curly", "bowl"],
            0.5,
        ),
        "Eyes_Closed": ("eyesVariant", ["closed", "happy"], ["open", "soft", "wide"], 0.5),
        "Dark_Skin": ("skinColor", ["#7d4a26", "#8a5029"], ["#b98252", "#c99062", "#dda878"], 0.5),
        "Blue_Clothes": (
            "shirtColor",
            ["#228be6", "#4c6ef5"],
            ["#e64980", "#f76707", "#fab005", "#40c057", "#495057", "#e8590c"],
            0.4,
        ),
    },
)
