"""What does a prototype stand for?

A sheet of prototype cards, one row a prototype: the image expected of it (E[x0 | its score high, all others hidden],
and low), where the two differ, the training patches that match it best with their surroundings and ids, and test images
that lack it before and after its score is raised, the patch boxed. Beside each: how much it moves, how it is used, and
for labelled sets the attribute that it tells. By default the prototypes that matter most, no two alike, none that
stands for a flat area. Below them the same of the first groups, one row a state: prototypes that do the same together,
and the clusters of their scores, such as one colour of several, both found without labels; the state is what is high,
the mean of all images low. `manipulate.py --set group:N=stateJ` sets one; those that tell an attribute are printed.
--paper draws Fig. 5 of Weng et al. 2026 by its procedure: invert test images under their own scores, raise the
prototype to the largest score seen, regenerate from the same noise, keep the image in which it matched best. Beside
either a table of every prototype's health. Results go to records/vis_prototype/<dataset>_v<n>/.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the code of this folder, installed or not

import argparse

from analysis.script import (
    add_edit_options,
    edit_options,
    open_run,
    parse_prototypes,
    require,
    run_parser,
)
from train.errors import run_script

COUNT, GROUPS = 10, 4  # cards of single prototypes, and groups whose states have one


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    add_edit_options(parser, auto=True)
    parser.add_argument(
        "--prototypes", metavar="0,3,17", help=f"which prototypes (default: the {COUNT} that matter most)"
    )
    parser.add_argument("--paper", action="store_true", help="Fig. 5 of the paper instead of cards")
    parser.add_argument(
        "--num_samples", type=int, default=20, help="--paper: test images tried for each prototype (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="--paper: which test images (default: 0)")
    text = "--paper: images regenerated together (default: by the device and the network's size)"
    parser.add_argument("--batch", type=int, help=text)
    args = parser.parse_args()
    require(parser, args, num_samples=1, batch=1, steps=2, seed=0)
    return args


def visualise(run, images, prototypes: list[int], highest, args, device) -> dict:
    """Regenerate every image for every prototype and keep the best match; arrays with one entry a prototype.

    images: ImageSet of the chosen test images; highest (m,): the scores that prototypes are raised to.
    """
    import numpy as np
    import torch

    from analysis.drawing.figures import cut
    from analysis.edits import edit, encode_and_invert
    from analysis.measures.scores import KnownScores, keep
    from train.images import to_tensor, to_uint8

    encoder = run.model.encoder
    whole = max(prototypes) >= len(encoder.prototypes)  # a template is among them
    largest = run.config.data.image_size if whole else encoder.receptive_field.size
    x0 = to_tensor(images.pixels, device)
    encoding = encode_and_invert(run.model, x0, args.steps, args.batch)
    n = len(x0)
    known, s = KnownScores(encoding.scores), encoding.scores  # the paper's edit: plain, everything else kept
    edits = torch.cat([keep(known, s, [k], highest[k].expand(n, 1)) for k in prototypes])  # (K n, m)
    edited = edit(run.model, encoding, edits, args.steps, batch=args.batch, title="regenerating").clamp(-1, 1)
    edited = edited.view(len(prototypes), n, *x0.shape[1:])  # (K, n, C, H, W)

    drawn = {
        key: [] for key in ("ids", "original", "regenerated", "score_before", "score_after", "boxes", "maps", "patches")
    }
    for row, k in enumerate(prototypes):
        match = encoder.match(edited[row])
        best = match.scores[:, k].argmax().item()
        box = match.boxes[best, k].tolist()
        pixels = to_uint8(edited[row, best : best + 1])[0]
        inside = cut(pixels, box)
        patch = np.zeros((largest, largest, pixels.shape[-1]), np.uint8)  # black beyond the patch, or the image
        patch[: inside.shape[0], : inside.shape[1]] = inside
        with torch.no_grad():
            similarity_map = encoder.similarities(edited[row, best : best + 1])[0, k]
        values = (
            images.ids[best],
            images.pixels[best],
            pixels,
            encoding.scores[best, k].item(),
            match.scores[best, k].item(),
            box,
        )
        for key, value in zip(drawn, (*values, similarity_map.cpu().numpy(), patch)):
            drawn[key].append(value)
    return {"prototypes": np.array(prototypes)} | {key: np.array(value) for key, value in drawn.items()}


def draw(drawn: dict, titles: list[str], path):
    """Three rows, one column a prototype."""
    from analysis.drawing.figures import cut, save_figure
    from analysis.drawing.sheet import Sheet

    sheet = Sheet(["original", "prototype raised", "patch"], titles, notes=True)
    for column, box in enumerate(drawn["boxes"]):
        before, after = (f"s = {drawn[f'score_{end}'][column]:.2f}" for end in ("before", "after"))
        sheet.picture(0, column, drawn["original"][column], note=before)
        sheet.picture(1, column, drawn["regenerated"][column], box, note=after)
        sheet.picture(2, column, cut(drawn["regenerated"][column], box))
    return save_figure(sheet.figure, path)


def paper_figure(run, test, scores, prototypes, *, args, device, folder) -> list:
    """Fig. 5 and its arrays -> their files."""
    import numpy as np

    from analysis.measures.scores import KnownScores
    from analysis.results import save_arrays

    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(test))[: args.num_samples])
    drawn = visualise(run, test.subset(chosen), prototypes, KnownScores(scores).range[:, 1].to(device), args, device)
    files = draw(drawn, [f"prototype {k}" for k in prototypes], folder / "paper")
    return [files[0], save_arrays(folder / "paper.npz", **drawn)]


def card_sheet(run, train, test, scores, *, expected, patches, prototypes, groups, table, args, folder) -> list:
    """The cards of prototypes and of states of groups, and their arrays -> their files; expected (m, 2, C, H, W),
    patches: rows and boxes of best_patches."""
    import numpy as np
    import torch

    from analysis.drawing.cards import draw_cards
    from analysis.edits import expected_together
    from analysis.measures.cards import example_edits
    from analysis.measures.groups import state_names
    from analysis.schemas import CARDS
    from train.images import GREY, to_uint8

    options, data = edit_options(args, run.model, scores), run.config.data
    known, shape = options.known, (data.channels, data.image_size, data.image_size)
    settings = [([k], [known.limits[k, 1].item()]) for k in prototypes]
    texts, pictures = [], [expected[prototypes]]
    for k in prototypes:
        line = table.loc[k]
        tells = f"\n{line['attribute']} {line['auroc']:.2f}" if "attribute" in table else ""
        texts.append(f"prototype {k}{tells}\nmoves {line['moves']:.1f} grey levels\nusage {line['usage']:.3f}")
    for number, group in enumerate(groups[:GROUPS]):
        middle = known.scores[:, group.members].mean(0)
        for j, (state, name) in enumerate(zip(group.states, state_names(group, known, test.attributes))):
            order = ((state - middle) / known.deviation[group.members]).argsort(descending=True)
            raised = [group.members[i] for i in order]  # the first one's patches show the state best
            ends = torch.stack([middle, state])[:, order]
            settings.append((raised, ends[1].tolist()))
            pictures.append(expected_together(run.model, raised, ends, known, shape).cpu()[None])
            members = ", ".join(map(str, raised[:6])) + ", ..." * (len(raised) > 6)
            texts.append(f"group {number} state {j}\n" + (f"{name}\n" if name else "") + members)
    pictures, leads = torch.cat(pictures), [setting[0][0] for setting in settings]  # (K, 2, C, H, W)
    rows, boxes = patches
    where = ((pictures[:, 1] - pictures[:, 0]).abs().mean(1) * GREY).numpy()  # (K, H, W)
    cards = {
        "prototypes": np.array(leads),
        "expected_low": to_uint8(pictures[:, 0]),
        "expected_high": to_uint8(pictures[:, 1]),
        "where": where,
    }
    cards |= {
        "patch_ids": np.array(train.ids)[rows[leads]],
        "patch_boxes": boxes[leads],
        "patch_images": train.pixels[rows[leads]],
    }
    cards |= example_edits(run, test, options, scores, settings)
    files = draw_cards(cards, texts, folder / "prototypes")
    single = {key: values[: len(prototypes)] for key, values in cards.items()}
    group_arrays = {f"group_{key}": values[len(prototypes) :] for key, values in cards.items()}
    return [files[0], CARDS.write(folder, **single, **group_arrays)]


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.measures.auroc import both_ways
    from analysis.measures.cards import FLAT, best_patches, choose, contrast, expected_extremes, groups_of, moves
    from analysis.measures.groups import telling_groups
    from analysis.measures.health import health_table, test_effects
    from analysis.measures.scores import KnownScores
    from analysis.results import results_folder
    from analysis.schemas import HEALTH
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    chosen = parse_prototypes(args.prototypes, run.model.encoder.width) if args.prototypes else None
    train, test = load_split(run.config.data, "train"), load_split(run.config.data, "test")
    scores = encode(run.model, test, device=device)
    table = health_table(run, scores.numpy(), test.attributes, test_effects(run, test, scores))
    expected, patches = expected_extremes(run, scores), best_patches(run, train)
    table["moves"] = moves(expected, scores)
    table["contrast"] = contrast(train, *patches)
    prototypes = chosen or choose(expected, table["moves"].to_numpy(), (table["contrast"] < FLAT).to_numpy(), COUNT)

    folder, groups = (
        results_folder("vis_prototype", run, args.outdir, "_paper" * args.paper),
        [] if args.paper else groups_of(run),
    )
    if args.paper:
        files = paper_figure(run, test, scores, prototypes, args=args, device=device, folder=folder)
    else:
        files = card_sheet(
            run, train, test, scores,
            expected=expected, patches=patches, prototypes=prototypes, groups=groups, table=table, args=args,
            folder=folder,
        )  # fmt: skip
    health = HEALTH.write(folder, table)
    print(table.loc[prototypes].round(3).to_string())
    print(f"of {len(table)} prototypes: {int(table['dead'].sum())} dead, {int(table['duplicate'].sum())} duplicates")
    best = []
    for attribute in test.attributes:
        auroc = both_ways(scores.numpy(), test.attributes[attribute].to_numpy(float))
        if not np.isnan(auroc).any():
            best.append(f"{attribute} {auroc.argmax()} ({auroc.max():.2f})")
    if best:
        print(f"best single prototype of each attribute (AUROC): {', '.join(best)}")
    for line in telling_groups(groups, KnownScores(scores), test.attributes):
        print(line)
    print(f"figure: {files[0]} and .pdf; arrays: {files[1]}; all prototypes: {health}")


if __name__ == "__main__":
    run_script(main)
