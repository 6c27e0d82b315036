"""What does a prototype stand for? (Weng et al. 2026, Fig. 5)

For each prototype: invert test images under their own scores, raise the prototype's score to the largest seen, regenerate from the same
noise, keep the image in which it matched best. Three rows: the original, the regenerated image with the patch boxed, the patch enlarged.
Beside it a table of every prototype's health. Results go to records/vis_prototype/<dataset>_v<n>/.
"""

import argparse

from analysis.script import open_run, parse_prototypes, require, results_folder, run_parser
from train.errors import run_script


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__)
    parser.add_argument("--prototypes", metavar="0,3,17", help="which prototypes (default: the ten used most, no two alike)")
    parser.add_argument("--num_samples", type=int, default=20, help="test images tried for each prototype (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="which test images (default: 0)")
    parser.add_argument("--batch", type=int, default=100, help="images regenerated together (default: 100)")
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
    from analysis.edits import encode_and_invert, patch_box, regenerate, with_score
    from train.images import to_tensor, to_uint8

    encoder, field = run.model.encoder, run.model.encoder.receptive_field
    x0 = to_tensor(images.pixels).to(device)
    encoding = encode_and_invert(run.model, x0, args.steps, args.batch)
    n, side = len(x0), run.config.data.image_size
    edits = torch.cat([with_score(encoding.scores, k, highest[k]) for k in prototypes])  # (K n, m)
    noise = encoding.noise.repeat(len(prototypes), 1, 1, 1)
    made = regenerate(run.model, noise, edits, args.steps, args.batch, "regenerating").clamp(-1, 1)
    made = made.view(len(prototypes), n, *x0.shape[1:])  # (K, n, C, H, W)

    drawn = {key: [] for key in ("ids", "original", "regenerated", "score_before", "score_after", "boxes", "maps", "patches")}
    for row, k in enumerate(prototypes):
        match = encoder.match(made[row])
        best = match.scores[:, k].argmax().item()
        box = patch_box(run.model, match, best, k, side)
        pixels = to_uint8(made[row, best : best + 1])[0]
        inside = cut(pixels, box)
        patch = np.zeros((field.size, field.size, pixels.shape[-1]), np.uint8)  # black where the field leaves the image
        patch[: inside.shape[0], : inside.shape[1]] = inside
        with torch.no_grad():
            similarity_map = encoder.similarities(made[row, best : best + 1])[0, k]
        values = (images.ids[best], images.pixels[best], pixels, encoding.scores[best, k].item(), match.scores[best, k].item(), box)
        for key, value in zip(drawn, (*values, similarity_map.cpu().numpy(), patch)):
            drawn[key].append(value)
    return {"prototypes": np.array(prototypes)} | {key: np.array(value) for key, value in drawn.items()}


def draw(drawn: dict, titles: list[str], path):
    """Three rows, one column a prototype."""
    from analysis.drawing.figures import cut, panel, panels, save_figure

    figure, axes = panels(3, len(titles))
    for column, title in enumerate(titles):
        box = drawn["boxes"][column]
        panel(axes[0, column], drawn["original"][column], f"{title}\ns = {drawn['score_before'][column]:.2f}")
        panel(axes[1, column], drawn["regenerated"][column], f"s = {drawn['score_after'][column]:.2f}", box)
        panel(axes[2, column], cut(drawn["regenerated"][column], box))
    for axis, label in zip(axes[:, 0], ("original", "prototype raised", "patch")):
        axis.set_ylabel(label, fontsize=8)
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.drawing.results import save_arrays, save_table
    from analysis.measures.auroc import both_ways
    from analysis.measures.health import health_table, most_used, test_effects
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(args)
    asked = parse_prototypes(args.prototypes, len(run.model.encoder.prototypes)) if args.prototypes else None
    test = load_split(run.config.data, "test")
    scores = encode(run.model, test, device=device)
    effects = test_effects(run, test, scores)
    table = health_table(run, scores.numpy(), test.attributes, effects)
    prototypes = asked or most_used(run.model.encoder.prototypes, effects, 10)

    rng = np.random.default_rng(args.seed)
    chosen = np.sort(rng.permutation(len(test))[: args.num_samples])
    highest = scores.amax(0).to(device)
    drawn = visualise(run, test.subset(chosen), prototypes, highest, args, device)

    folder = results_folder("vis_prototype", run)
    files = draw(drawn, [f"prototype {k}" for k in prototypes], folder / "prototypes")
    arrays = save_arrays(folder / "prototypes.npz", **drawn)
    health = save_table(folder / "health.csv", table)

    print(table.loc[prototypes].round(3).to_string())
    print(f"of {len(table)} prototypes: {int(table['dead'].sum())} dead, {int(table['duplicate'].sum())} duplicates")
    best = []
    for attribute in test.attributes:
        auroc = both_ways(scores.numpy(), test.attributes[attribute].to_numpy(float))
        if not np.isnan(auroc).any():
            best.append(f"{attribute} {auroc.argmax()} ({auroc.max():.2f})")
    if best:
        print(f"best single prototype of each attribute (AUROC): {', '.join(best)}")
    print(f"figure: {files[0]} and .pdf; arrays: {arrays}; all prototypes: {health}")


if __name__ == "__main__":
    run_script(main)
