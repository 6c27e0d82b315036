"""The HTML of what a session shows, from analysis/templates/page.html."""

from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader

from analysis.drawing.web import heat_pixels, pixels_uri, strip, surrounded
from analysis.reporting.explorer import Edited
from analysis.reporting.session import Session
from train.images import to_uint8

TEMPLATES = Path(__file__).parents[1] / "templates"  # page.html, page.css, page.js, report.html
MACROS = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True).get_template("page.html").module


def scores_html(session: Session) -> str:
    """The image and a bar for each score, highest first, with the patch that it came from."""
    explorer, image = session.explorer, session.image
    s, side = image.scores, explorer.run.config.model.encoder.receptive_field.size
    lowest, highest = min(0.0, s.min().item()), max(explorer.high)
    bars = []
    for k in s.argsort(descending=True).tolist():
        box, value = explorer.box(image.match, k), s[k].item()
        share = max(0.0, min(100.0, 100 * (value - lowest) / max(highest - lowest, 1e-9)))
        patch = pixels_uri(surrounded(image.pixels, box, min(side, len(image.pixels))))
        bar = {"k": k, "label": explorer.label(k), "value": value, "share": round(share, 1), "box": box, "patch": patch}
        bars.append(bar)
    return str(MACROS.scores(pixels_uri(image.pixels), len(image.pixels), bars, session.chosen))


def prototype_html(session: Session) -> str:
    """The chosen prototype: the images expected of a high and a low score, where they differ, training patches."""
    explorer, k = session.explorer, session.chosen
    low, high = to_uint8(explorer.expected[k])
    where = (explorer.expected[k, 1] - explorer.expected[k, 0]).abs().mean(0).numpy()
    side = min(explorer.run.config.model.encoder.receptive_field.size + 4, len(low))
    patches = [surrounded(explorer.train.pixels[i], box, side) for i, box in zip(explorer.rows[k], explorer.boxes[k])]
    expected = pixels_uri(strip([high, low, heat_pixels(where)]))
    return str(
        MACROS.prototype(explorer.label(k), expected, pixels_uri(strip(patches)), explorer.low[k], explorer.high[k])
    )


def edited_html(session: Session, edited: Edited, draft: bool) -> str:
    """Reconstruction, edit and difference, and of each set score what it was, is set to, and is in the edit."""
    after, own = edited.match.scores[0], session.image.scores
    lines = [
        f"prototype {k}: {own[k]:.2f} → set to {value:.2f} → found {after[k]:.2f}"
        for k, value in session.settings.items()
    ]
    pictures = (pixels_uri(pixels) for pixels in (edited.reconstruction, edited.image, heat_pixels(edited.difference)))
    return str(MACROS.edited(*pictures, lines, edited.difference.mean(), draft))


def generated_html(stages: np.ndarray, sigmas: list[float], image: np.ndarray) -> str:
    """A generated image (H, W, C) and the stages (T, H, W, C) on the way, at noise levels sigmas (T,)."""
    return str(MACROS.generated(pixels_uri(image), pixels_uri(strip(list(stages))), sigmas))
