"""What the page asks of a run, without the page: load an image, set its scores, generate images from scores."""

import io
import shlex
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from analysis.edits import EditOptions, Encoding, edit, encode_and_invert, places, regenerate
from analysis.measures.auroc import best_attributes
from analysis.measures.cards import FLAT, best_patches, choose, contrast, expected_extremes, groups_of, moves
from analysis.measures.groups import state_names
from analysis.measures.labels import TELLS
from analysis.measures.scores import OTHERS, KnownScores, show_only
from models.prototype_encoder import Match
from models.samplers import SeededNoise, sample
from train.data.dataset import load_split
from train.data.decode import to_pixels
from train.errors import UserError, reading
from train.generation import Sampling, unconditional_scores
from train.images import to_tensor, to_uint8
from train.latents import load_latent
from train.runs import Run
from train.scores import encode

FULL, FEW = 18, 6  # Heun steps, and while a slider moves
PATCHES = 3
MOST_BYTES, MOST_PIXELS = 20_000_000, 40_000_000  # of an uploaded image
STAGES = 9  # pictures of a trajectory


class LoadedImage(NamedTuple):
    """One loaded image: pixels uint8 (H, W, C); how the command line names it; its match; its encodings by number
    of steps."""

    pixels: np.ndarray
    option: str
    match: Match
    encodings: dict[int, Encoding]

    @property
    def scores(self) -> torch.Tensor:
        """(m,)"""
        return self.match.scores[0]


class Edited(NamedTuple):
    """reconstruction and image uint8 (H, W, C), difference (H, W) in grey levels, scores found in the image (m,), its
    match."""

    reconstruction: np.ndarray
    image: np.ndarray
    difference: np.ndarray
    match: Match


def decode(data: bytes, size: int, channels: int) -> np.ndarray:
    """Bytes of an uploaded image -> uint8 (size, size, channels). Raises UserError."""
    if len(data) > MOST_BYTES:
        raise UserError(f"the file has {len(data) / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} are taken")
    too_large = UserError(
        f"the image claims to have more than the {MOST_PIXELS // 1_000_000} million pixels that are taken"
    )
    with reading("the file is no image that can be read"):
        try:
            image = Image.open(io.BytesIO(data))
        except Image.DecompressionBombError:
            raise too_large from None
        if image.width * image.height > MOST_PIXELS:
            raise too_large
        return to_pixels(image, size, channels)


class Explorer:
    """A run with its test images and all that is known of its prototypes; made once, in some seconds."""

    def __init__(self, run: Run, device: torch.device):
        self.run, self.model, self.device = run, run.model, device
        self.train, self.test = (load_split(run.config.data, split) for split in ("train", "test"))
        scores = encode(run.model, self.test, device=device, progress=False)
        self.known = KnownScores(scores.to(device))
        self.places = places(run.model, self.known)
        self.expected = expected_extremes(run, scores)
        self.groups = groups_of(run)
        self.state_names = [state_names(group, self.known, self.test.attributes) for group in self.groups]
        self.rows, self.boxes = best_patches(run, self.train, PATCHES)
        self.low, self.high = self.known.limits.T.tolist()
        self.attributes, self.auroc = best_attributes(scores.numpy(), self.test.attributes)
        flat = contrast(self.train, self.rows, self.boxes) < FLAT
        self.order = choose(
            self.expected, moves(self.expected, scores), flat, len(flat)
        )  # those that matter most first

    @property
    def name(self) -> str:
        return f"{self.run.name}/{self.run.version}"

    @property
    def others(self) -> list[str]:
        """What can become of scores that are not set."""
        return [way for way in OTHERS if self.model.masked or way != "release"]

    def label(self, k: int) -> str:
        """A prototype's number, and the attribute that it tells."""
        tells = self.auroc[k] >= TELLS if self.attributes[k] else False
        return f"{k} {self.attributes[k].replace('_', ' ')} ({self.auroc[k]:.2f})" if tells else str(k)

    def state_choices(self) -> list[tuple[str, str]]:
        """(label, "GROUP=STATE") of every state of every group; the label tells the attribute that it tells, or the
        group's first members."""
        choices = []
        for number, (group, names) in enumerate(zip(self.groups, self.state_names)):
            members = "of " + ", ".join(map(str, group.members[:6])) + ", ..." * (len(group.members) > 6)
            for j, name in enumerate(names):
                choices.append((f"group {number} state {j}: {name or members}", f"{number}={j}"))
        return choices

    def state_settings(self, choice: str) -> dict[int, float]:
        """The scores of a group's members in one of its states; choice: "GROUP=STATE"."""
        number, state = map(int, choice.split("="))
        group = self.groups[number]
        return dict(zip(group.members, group.states[state].tolist()))

    def load(self, pixels: np.ndarray, option: str) -> LoadedImage:
        """Encode an image and invert it, with full and with few steps."""
        x0 = to_tensor(pixels[None], self.device)
        return LoadedImage(
            pixels, option, self.model.encoder.match(x0), {n: encode_and_invert(self.model, x0, n) for n in (FULL, FEW)}
        )

    def test_image(self, row: int) -> LoadedImage:
        return self.load(np.array(self.test.pixels[row]), f"--images {shlex.quote(self.test.ids[row])}")

    def uploaded(self, data: bytes) -> LoadedImage:
        """An uploaded image. Raises UserError."""
        data_config = self.run.config.data
        return self.load(decode(data, data_config.image_size, data_config.channels), "--image YOUR_FILE")

    def box(self, match: Match, k: int) -> tuple[int, int, int, int]:
        return tuple(match.boxes[0, k].tolist())

    @torch.no_grad()
    def edit(
        self, loaded: LoadedImage, settings: dict[int, float], guidance: float, others: str, steps: int = FULL
    ) -> Edited:
        """Prototypes set to scores, beside the reconstruction. Raises UserError."""
        encoding, options = loaded.encodings[steps], EditOptions(self.known, steps, (guidance,), others, self.places)
        plain = regenerate(self.model, encoding.noise, encoding.scores, steps)
        edited = plain
        if settings:
            values = torch.tensor([list(settings.values())], device=self.device)
            edited = edit(self.model, encoding, options.set(encoding.scores, list(settings), values), steps, guidance)
        before, after = to_uint8(plain)[0], to_uint8(edited)[0]
        return Edited(
            before, after, np.abs(after.astype(float) - before).mean(-1), self.model.encoder.match(edited.clamp(-1, 1))
        )

    def scores_for(self, kind: str, loaded: LoadedImage, settings: dict[int, float], seed: int) -> torch.Tensor:
        """Scores (1, m) to generate from: 'image' (of the loaded image, with what is set), 'nothing' (the latent
        model) or 'alone' (what is set, all else hidden). Raises UserError."""
        if kind == "nothing":
            sampling = Sampling(1, *self.model.best_sampling, seed=seed)
            return unconditional_scores(load_latent(self.run, None, self.device)[0], sampling, self.device)([0])
        s = loaded.scores[None].clone()
        if kind == "alone":
            if not self.model.masked:
                raise UserError("this model cannot hide scores: it was trained without model.masked")
            if not settings:
                raise UserError("move a slider first: images are then made from those prototypes alone")
        for k, value in settings.items():
            s[:, k] = value
        return show_only(s, list(settings)) if kind == "alone" else s

    @torch.no_grad()
    def generate(self, s: torch.Tensor, seed: int) -> tuple[np.ndarray, list[float], np.ndarray]:
        """Denoise from random noise under scores s (1, m): the stages (T, H, W, C) as estimates of the image, their
        noise levels (T,), the image."""
        data, stages, (sampler, steps) = self.run.config.data, [], self.model.best_sampling
        noise = SeededNoise([seed], (data.channels, data.image_size, data.image_size), self.device)
        sigmas = self.model.sigmas(steps)
        z, denoiser = sigmas[0].float() * noise(), self.model.denoiser(s)
        image = sample(sampler, denoiser, z, sigmas, noise, trace=lambda sigma, x0: stages.append((sigma, x0)))
        chosen = [stages[i] for i in np.linspace(0, len(stages) - 1, min(STAGES, len(stages))).round().astype(int)]
        levels, estimates = zip(*chosen)
        return to_uint8(torch.cat(estimates)), list(levels), to_uint8(image)[0]

    def command(self, loaded: LoadedImage, settings: dict[int, float], guidance: float, others: str) -> str:
        """The command line of the same edit."""
        parts = [
            "python analysis/manipulation/manipulate.py",
            f"--dataset {self.run.name} --version_num {self.run.version}",
            loaded.option,
        ]
        parts += [f"--set {k}={value:.4g}" for k, value in settings.items()]
        return " ".join([*parts, f"--guidance {guidance:g} --others {others}"])
