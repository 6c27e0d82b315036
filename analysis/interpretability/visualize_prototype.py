"""What does a prototype stand for? (Weng et al. 2026, Fig. 5)

For each prototype: invert test images under their own scores, raise the prototype's score to the largest seen, regenerate from the same
noise, keep the image in which it matched best. Three rows: the original, the regenerated image with the patch boxed, the patch enlarged.
Beside it a table of every prototype's health. Results go to records/vis_prototype/<dataset>_v<n>/.
"""

import argparse

from train.errors import UserError, run_script


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", help="name of the run's data set (default: that of the newest run)")
    parser.add_argument("--version_num", type=int, help="version of the run (default: the newest)")
    parser.add_argument("--prototypes", metavar="0,3,17", help="which prototypes (default: the ten used most, no two alike)")
    parser.add_argument("--num_samples", type=int, default=20, help="test images tried for each prototype (default: 20)")
    parser.add_argument("--steps", type=int, default=18, help="Heun steps to invert and to regenerate (default: 18)")
    parser.add_argument("--seed", type=int, default=0, help="which test images (default: 0)")
    parser.add_argument("--batch", type=int, default=100, help="images regenerated together (default: 100)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.num_samples < 1 or args.batch < 1 or args.steps < 2 or args.seed < 0:
        parser.error("--num_samples and --batch must be at least 1, --steps at least 2, --seed at least 0")
    return args


def parse_prototypes(text: str, count: int) -> list[int]:
    """'0,3,17' -> numbers below count. Raises UserError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--prototypes {text}: must be numbers separated by commas, e.g. 0,3,17") from None
    bad = [number for number in numbers if not 0 <= number < count]
    if bad:
        raise UserError(f"--prototypes: there is no prototype {bad[0]}; the run has 0 to {count - 1}")
    return numbers


def visualise(run, images, prototypes: list[int], highest, args, device) -> dict:
    """Regenerate every image for every prototype and keep the best match; arrays with one entry a prototype.

    images: ImageSet of the chosen test images; highest (m,): the scores that prototypes are raised to.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from analysis.edits import encode_and_invert, regenerate, with_score
    from train.images import to_tensor, to_uint8

    encoder, field = run.model.encoder, run.model.encoder.receptive_field
    x0 = to_tensor(images.pixels).to(device)
    encoding = encode_and_invert(run.model, x0, args.steps)
    n, side = len(x0), run.config.data.image_size
    edits = torch.cat([with_score(encoding.scores, k, highest[k]) for k in prototypes])  # (K n, m)
    made = []
    for start in tqdm(range(0, len(edits), args.batch), desc="regenerating", unit="batch"):
        rows = torch.arange(start, min(start + args.batch, len(edits)), device=device)
        made.append(regenerate(run.model, encoding.noise[rows % n], edits[rows], args.steps).clamp(-1, 1))
    made = torch.cat(made).view(len(prototypes), n, *x0.shape[1:])  # (K, n, C, H, W)

    drawn = {key: [] for key in ("ids", "original", "regenerated", "score_before", "score_after", "boxes", "maps", "patches")}
    for row, k in enumerate(prototypes):
        match = encoder.match(made[row])
        best = match.scores[:, k].argmax().item()
        top, left, bottom, right = box = field.box(match.rows[best, k].item(), match.columns[best, k].item(), side, side)
        pixels = to_uint8(made[row, best : best + 1])[0]
        patch = np.zeros((field.size, field.size, pixels.shape[-1]), np.uint8)  # black where the field leaves the image
        patch[: bottom - top, : right - left] = pixels[top:bottom, left:right]
        with torch.no_grad():
            similarity_map = encoder.scores_of(encoder.distances(made[row, best : best + 1]))[0, k]
        values = (images.ids[best], images.pixels[best], pixels, encoding.scores[best, k].item(), match.scores[best, k].item(), box)
        for key, value in zip(drawn, (*values, similarity_map.cpu().numpy(), patch)):
            drawn[key].append(value)
    return {"prototypes": np.array(prototypes)} | {key: np.array(value) for key, value in drawn.items()}


def draw(drawn: dict, titles: list[str], path):
    """Three rows, one column a prototype."""
    from analysis.figures import panel, panels, save_figure

    figure, axes = panels(3, len(titles))
    for column, title in enumerate(titles):
        top, left, bottom, right = box = drawn["boxes"][column]
        panel(axes[0, column], drawn["original"][column], f"{title}\ns = {drawn['score_before'][column]:.2f}")
        panel(axes[1, column], drawn["regenerated"][column], f"s = {drawn['score_after'][column]:.2f}", box)
        panel(axes[2, column], drawn["patches"][column][: bottom - top, : right - left])
    for axis, label in zip(axes[:, 0], ("original", "prototype raised", "patch")):
        axis.set_ylabel(label, fontsize=8)
    return save_figure(figure, path)


def main() -> None:
    args = parse_args()

    import numpy as np

    from analysis.auroc import single_auroc
    from analysis.health import PROBE_IMAGES, effect, health_table, most_used
    from global_config import RECORDS_DIR
    from train.data.dataset import load_split
    from train.distributed import pick_device
    from train.images import replace_file, to_tensor
    from train.runs import load_run
    from train.scores import encode

    device = pick_device(args.device)
    run = load_run(args.dataset, args.version_num, device)
    try:
        run.model.sigmas(args.steps)
    except ValueError as error:
        raise UserError(f"--steps: {error}") from None
    asked = parse_prototypes(args.prototypes, len(run.model.encoder.prototypes)) if args.prototypes else None
    test = load_split(run.config.data, "test")
    scores = encode(run.model, test, device=device)
    probe = to_tensor(test.pixels[:PROBE_IMAGES]).to(device)
    effects = effect(run.model, probe, scores[:PROBE_IMAGES].to(device), scores.std(0).to(device)).cpu().numpy()
    table = health_table(run, scores.numpy(), test.attributes, effects)
    prototypes = asked or most_used(run.model.encoder.prototypes, effects, 10)

    rng = np.random.default_rng(args.seed)
    chosen = np.sort(rng.permutation(len(test))[: args.num_samples])
    highest = scores.amax(0).to(device)
    drawn = visualise(run, test.subset(chosen), prototypes, highest, args, device)

    folder = RECORDS_DIR / "vis_prototype" / f"{run.name}_v{run.version}"
    files = draw(drawn, [f"prototype {k}" for k in prototypes], folder / "prototypes")
    replace_file(folder / "prototypes.npz", lambda file: np.savez_compressed(file, **drawn))
    replace_file(folder / "health.csv", lambda file: table.to_csv(file))

    print(table.loc[prototypes].round(3).to_string())
    print(f"of {len(table)} prototypes: {int(table['dead'].sum())} dead, {int(table['duplicate'].sum())} duplicates")
    best = []
    for attribute in test.attributes:
        auroc = single_auroc(scores.numpy(), test.attributes[attribute].to_numpy(float))
        auroc = np.maximum(auroc, 1 - auroc)
        if not np.isnan(auroc).any():
            best.append(f"{attribute} {auroc.argmax()} ({auroc.max():.2f})")
    if best:
        print(f"best single prototype of each attribute (AUROC): {', '.join(best)}")
    print(f"figure: {files[0]} and .pdf; arrays: {folder / 'prototypes.npz'}; all prototypes: {folder / 'health.csv'}")


if __name__ == "__main__":
    run_script(main)
