"""What a report says of a run, gathered from records/: nothing is trained, edited or sampled here."""

import numpy as np
import pandas as pd

from analysis.drawing.web import figure_uri, heat_pixels, pixels_uri, strip, surrounded
from analysis.measures.auroc import best_attributes
from analysis.measures.cards import best_patches, expected_extremes
from analysis.measures.labels import TELLS
from analysis.reporting.shortcuts import describe_shortcuts, describe_ties
from analysis.reporting.sources import SOURCES, distance_files, place, present
from analysis.results import is_current, made_by, newest_samples, read_json
from analysis.schemas import (
    BITS,
    BITS_SUMS,
    CARDS,
    DISTANCE,
    FAITHFULNESS,
    FAITHFULNESS_MEANS,
    FIDELITY,
    HEALTH,
    distance_of,
)
from global_config import RECORDS_DIR
from train.data.dataset import ImageSet
from train.images import to_uint8
from train.metrics import read_metrics
from train.runs import Run

EXAMPLES = 16  # samples shown
PATCHES = 3  # training patches on a card
NARROW = 0.2  # of the image's side, the deviation of what lies at one place; that of what is spread evenly is 0.29


def about(run: Run, images: int) -> dict:
    """What was trained on what, for how long."""
    rows, config = read_metrics(run.folder / "metrics.jsonl"), run.config
    seconds = sum(
        (b["images"] - a["images"]) / b["images_per_second"]
        for a, b in zip([{"images": 0}, *rows], rows)
        if b.get("images_per_second")
    )
    model, train = config.model, config.train
    facts = {
        "run": f"{run.name}, version {run.version}",
        "images": (
            f"{images} for training, "
            f"{config.data.channels}x{config.data.image_size}x{config.data.image_size}, source {config.data.source}"
        ),
        "restricted to": config.data.where,
        "prototypes": (
            f"{model.encoder.prototypes}, patches of {model.encoder.receptive_field.size} "
            f"pixels, similarity {model.encoder.similarity}; {model.encoder.templates} of whole images"
        ),
        "network": (
            f"{sum(p.numel() for p in run.model.parameters()) / 1e6:.1f} million parameters, "
            f"formulation {model.formulation}"
        ),
        "training": f"{run.step} steps, batch {train.batch_size}, seed {train.seed}"
        + (f", {seconds / 60:.1f} minutes" if seconds else ""),
        "weights": "averaged over training" if run.averaged else "as trained",
    }
    loss = run.folder / "loss.png"
    return {"facts": {k: v for k, v in facts.items() if v}, "loss": figure_uri(loss, 800) if loss.is_file() else None}


def samples(run: Run, test: ImageSet, kind: str) -> dict | None:
    """The first samples, beside the images whose scores they were given, and every distance measured on that folder."""
    from PIL import Image

    folder = newest_samples(run, kind)
    if folder is None:
        return None
    files, pictures = sorted(folder.glob("*.png"))[:EXAMPLES], []
    for file in files:
        with Image.open(file) as image:
            pictures.append(np.asarray(image).reshape(*image.size[::-1], -1))
    rows = {"sampled": pixels_uri(strip(pictures), 92)}
    settings = read_json(folder.with_name(f"{folder.name}.json"))
    if kind == "cond" and settings.get("split", "test") == "test":
        rows = {"real": pixels_uri(strip([test.pixels[int(file.stem) % len(test)] for file in files]), 92)} | rows
    distances = []
    for file in distance_files(run, folder):
        numbers = DISTANCE.read(file.parent, file.stem)
        if numbers is not None:
            name, value = distance_of(numbers)
            keep = ("floor", "images_a_side", *FIDELITY)
            distances.append({"name": name, "value": value} | {key: numbers[key] for key in keep if key in numbers})
    how = ", ".join(
        f"{key} {settings[key]}" for key in ("sampler", "steps", "seed", "total_gen_num") if key in settings
    )
    return {"rows": rows, "distances": distances, "how": f"{how}; {folder}"}


def place_of(where: np.ndarray) -> str:
    """A map (H, W) in words, of its pixels above half of its largest: a third of the image each way, 'around the edge'
    or 'all over'."""
    mass = where * (where >= where.max() / 2)
    words = []
    for axis, names in ((1, ("top", "middle", "bottom")), (0, ("left", "middle", "right"))):
        along = mass.sum(axis) / max(mass.sum(), 1e-12)
        places = (np.arange(len(along)) + 0.5) / len(along)
        centre = (along * places).sum()
        narrow = np.sqrt((along * (places - centre) ** 2).sum()) < NARROW
        words.append(names[min(int(centre * 3), 2)] if narrow else "")
    if not any(words):
        h, w = mass.shape
        inside = mass[h // 4 : -(h // 4), w // 4 : -(w // 4)].sum() / max(mass.sum(), 1e-12)
        return "around the edge" if inside < 0.1 else "all over"  # a quarter of the area
    named = [word for word in words if word not in ("", "middle")]
    return " ".join(named) or "middle"


def cards(run: Run, train: ImageSet, test: ImageSet, scores) -> list[dict]:
    """One entry a prototype: the expected images, where they differ, its best training patches; when, bits, usage and
    attribute, as far as they are known."""
    expected, (rows, boxes) = expected_extremes(run, scores), best_patches(run, train, PATCHES)
    low, high = (to_uint8(expected[:, i]) for i in (0, 1))
    where = (expected[:, 1] - expected[:, 0]).abs().mean(1).numpy()  # (m, H, W)
    tables = {}
    for name, schema in (("information", BITS), ("edits", HEALTH)):
        table = schema.read(place(run, name)) if present(run, name) else None
        tables[name] = pd.DataFrame() if table is None else table
    information, health = tables["information"], tables["edits"]
    names, auroc = best_attributes(scores.numpy(), test.attributes)
    side = min(run.config.model.encoder.receptive_field.size + 4, run.config.data.image_size)
    entries, heat = [], heat_pixels(where)
    for k in range(len(expected)):
        card = {"number": k, "place": place_of(where[k]), "alt": f"prototype {k}: high, low, where"}
        patches = [surrounded(train.pixels[i], box, side) for i, box in zip(rows[k], boxes[k])]
        card["expected"], card["patches"] = (
            pixels_uri(strip([high[k], low[k], heat[k]]), 92),
            pixels_uri(strip(patches), 92),
        )
        if len(test.attributes.columns):
            card |= {"attribute": str(names[k]), "auroc": float(auroc[k])}
        if k in information.index:
            line = information.loc[k]
            card |= {key: float(line[key]) for key in ("alone", "beyond") if key in line}
            sigma = line.get("alone_sigma", line.get("beyond_sigma"))
            card |= {"sigma": float(sigma)} if pd.notna(sigma) else {}
        if k in health.index:
            line = health.loc[k]
            card |= {
                "usage": float(line["usage"]),
                "dead": bool(line["dead"]),
                "duplicate": bool(line["duplicate"]),
                "moves": float(line["moves"]),
            }
        entries.append(card)
    return entries


def times_of(entries: list[dict]) -> None:
    """'early', 'midway' or 'late' for each card, by thirds of all known noise levels."""
    levels = [card["sigma"] for card in entries if "sigma" in card]
    if levels:
        first, last = np.quantile(levels, [2 / 3, 1 / 3])
        for card in entries:
            if "sigma" in card:
                card["when"] = "early" if card["sigma"] >= first else "midway" if card["sigma"] >= last else "late"


def bits_of(card: dict) -> float:
    return card.get("alone", card.get("beyond", card.get("moves", 0.0)))


def in_short(entries: list[dict], most: int = 3) -> list[str]:
    """In plain words: the prototype that tells each attribute best, then those worth most of the others, `most` of
    them."""
    best = {}
    for card in entries:
        if card.get("auroc", 0) >= max(TELLS, best.get(card.get("attribute"), {}).get("auroc", 0)):
            best[card["attribute"]] = card
    named = sorted(best.values(), key=lambda card: (bits_of(card), card["auroc"]), reverse=True)
    others = [
        card for card in entries if not card.get("auroc", 0) >= TELLS and bits_of(card) > 0
    ]  # known to be worth it
    others = sorted(others, key=bits_of, reverse=True)[:most]
    lines = []
    for card in [*named, *others]:
        tells = card in named
        what = (
            f"tells {card['attribute'].replace('_', ' ').lower()} (AUROC {card['auroc']:.2f})"
            if tells
            else "stands for a pattern without a name"
        )
        when = f", {card['when']} in denoising (noise level {card['sigma']:.2f})" if "when" in card else ""
        bits = f", {bits_of(card):.2f} bits" if "alone" in card or "beyond" in card else ""
        lines.append(f"Prototype {card['number']} {what}; where: {card['place']}{when}{bits}.")
    return lines


def edits(run: Run) -> list[dict] | None:
    """Guided edits of the first prototypes: before and after, images side by side."""
    arrays = CARDS.read(place(run, "edits")) if present(run, "edits") else None
    if arrays is None:
        return None
    entries = []
    for i, k in enumerate(arrays["prototypes"]):
        pairs = [image for pair in zip(arrays["before"][i], arrays["after"][i]) for image in pair]
        scores = [f"{a:.2f} → {b:.2f}" for a, b in zip(arrays["score_before"][i], arrays["score_after"][i])]
        entries.append({"number": int(k), "pairs": pixels_uri(strip(pairs), 92), "scores": scores})
    return entries


def faithfulness(run: Run) -> dict | None:
    """The table of attributes, the means and the null, and the figure."""
    if not present(run, "faithfulness"):
        return None
    folder = place(run, "faithfulness")
    numbers, table = (what.read(folder, "faithfulness") for what in (FAITHFULNESS_MEANS, FAITHFULNESS))
    if numbers is None:
        return None
    wanted = [
        "single",
        "untrained_single",
        "pair",
        "hit",
        "region",
        "map",
        "appears",
        "vanishes",
        "side",
        "effectiveness",
    ]
    rows, columns = [], []
    if table is not None and numbers.get("null"):
        columns = [c for c in wanted if c in table]
        rows = [
            {"name": name, "prototype": int(line["prototype"])} | {c: line[c] for c in columns}
            for name, line in table.iterrows()
        ]
    null = {c: numbers.get("null", {}).get(c) for c in columns}
    figure = folder / "faithfulness.png"
    means = {c: numbers.get(c) for c in columns}
    picture = figure_uri(figure) if rows and figure.is_file() else None
    return {
        "columns": columns,
        "rows": rows,
        "means": means,
        "null": null,
        "figure": picture,
        "effectiveness": numbers.get("effectiveness"),
    }


def diagnosis(run: Run) -> dict | None:
    """What diagnose.py found, in plain words."""
    return describe_shortcuts(place(run, "diagnosis")) if present(run, "diagnosis") else None


def ties(run: Run) -> dict | None:
    """What ties.py found, in plain words."""
    return describe_ties(place(run, "ties")) if present(run, "ties") else None


def patches_explain(run: Run) -> dict | None:
    """The training-free comparison, where it was made of this very run."""
    folder = RECORDS_DIR / "mechanism" / "compare"
    if not is_current(folder / "compare.png", run):
        return None
    conclusion = read_json(folder / "compare.json").get("conclusion", "")
    return {"figure": figure_uri(folder / "compare.png"), "conclusion": conclusion, "how": made_by(folder)}


def figure_section(run: Run, name: str, file: str) -> dict | None:
    """A section that is one figure."""
    path = place(run, name) / file
    return {"figure": figure_uri(path)} if present(run, name) and path.is_file() else None


def gather(run: Run, train: ImageSet, test: ImageSet, scores, missing: dict[str, str]) -> dict:
    """Everything that the template asks of one run. scores (N, m) of the test set; missing: section -> a word why it is
    not there."""
    entries = cards(run, train, test, scores)
    times_of(entries)
    information = figure_section(run, "information", "information.png")
    if information:
        information["sums"] = (BITS_SUMS.read(place(run, "information")) or {"sums": []})["sums"]
    sections = {
        "edits": edits(run),
        "ownership": figure_section(run, "ownership", "ownership.png"),
        "information": information,
        "emergence": figure_section(run, "emergence", "emergence.png"),
        "faithfulness": faithfulness(run),
        "diagnosis": diagnosis(run),
        "ties": ties(run),
        "mechanism": patches_explain(run),
        "samples": samples(run, test, "cond"),
        "latent": samples(run, test, "uncond"),
    }
    how = {name: made_by(place(run, name)) for name in SOURCES if sections[name]}
    return {
        "name": f"{run.name}, version {run.version}",
        "about": about(run, len(train)),
        "short": in_short(entries),
        "cards": entries,
    } | {
        "sections": sections,
        "missing": missing,
        "how": how,
        "labelled": bool(len(test.attributes.columns)),
    }
