"""A report of a run to read and send: one HTML file that stands alone, for people who have never read the paper.

What the model uses, where in the image and when; every prototype as a card, to sort and search; edits, faithfulness,
shortcuts, samples with their distances. What other scripts left in records/ is used where it tells of the run's present
training step, and what is missing is made by calling them, with fewer draws and images than they take by default;
--fast calls none, and names the commands instead. Goes to records/report/<dataset>_v<n>/report.html.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the code of this folder, installed or not

import argparse

from analysis.script import open_run, run_parser
from train.errors import UserError, listed, run_script

SAMPLES = 500  # made where there are none
SORTS = [
    ("bits down", "bits"),
    ("beyond down", "bits beyond the others"),
    ("noise down", "early first"),
    ("noise up", "late first"),
]
SORTS += [("usage down", "usage"), ("auroc down", "attribute (AUROC)"), ("number up", "number")]


def parse_args() -> argparse.Namespace:
    parser = run_parser(__doc__, steps=None)
    parser.add_argument("--compare", metavar="DATASET/N", help="a second run, beside the first")
    parser.add_argument(
        "--fast", action="store_true", help="run no other script; name the commands that make what is missing"
    )
    return parser.parse_args()


def missing_work(run, labelled: bool) -> list[tuple[str, str, list[str]]]:
    """(section, script, options) of what is not in records/, in the order in which it is to be made."""
    from analysis.reporting.sources import SOURCES, distance_files, present
    from analysis.results import newest_samples

    work = [
        (name, source.script, list(source.options))
        for name, source in SOURCES.items()
        if not present(run, name) and (labelled or name != "diagnosis")
    ]
    for kind, section, script in (("cond", "samples", "conditional"), ("uncond", "latent", "unconditional")):
        folder, judged = newest_samples(run, kind), ["--features", "efficientnet-lite0", "--kind", kind]
        if folder is None:
            if kind == "uncond" and not latent_of_step(run):
                work.append((section, "train/train_latent_ddim.py", []))
            work.append((section, f"train/{script}_sampling.py", ["--total_gen_num", str(SAMPLES)]))
        elif distance_files(run, folder):
            continue
        else:
            judged += ["--images", str(folder)]
        work.append(("distances", "analysis/evaluation/fid.py", judged))
    return work


def latent_of_step(run) -> bool:
    """Whether the newest latent model of a run can be used: it learnt the scores of the present encoder."""
    from train.latents import load_latent

    try:
        load_latent(run)
    except UserError:
        return False
    return True


def call(script: str, options: list[str], run, device) -> str:
    """Run a script of ours on the run; '' or, where it refuses, the line in which it says why."""
    import subprocess
    import sys

    from global_config import REPO_DIR

    named = ["--dataset", run.name, "--version_num", str(run.version), "--device", str(device)]
    line = [sys.executable, str(REPO_DIR / script), *options, *named]
    done = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return ""
    errors = [text for text in done.stderr.replace("\r", "\n").splitlines() if text.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else f"{script} failed with status {done.returncode}"


def complete(run, labelled: bool, device) -> dict[str, str]:
    """Make what is missing; -> section -> why it could not be made."""
    from tqdm import tqdm

    reasons, bar = {}, tqdm(missing_work(run, labelled), desc="making what is missing", unit="script")
    for section, script, options in bar:
        bar.set_postfix_str(script.split("/")[-1])
        if section == "latent" and section in reasons:
            continue
        reason = call(script, options, run, device)
        if reason:
            reasons[section] = reason
    return reasons


def commands_of(run, labelled: bool) -> dict[str, str]:
    """Section -> the commands that make what is missing there."""
    lines = {}
    for section, script, options in missing_work(run, labelled):
        named = ["--dataset", run.name, "--version_num", str(run.version)]
        lines.setdefault(section, []).append(" ".join(["python", script, *options, *named]))
    return {section: "made by " + " && ".join(commands) for section, commands in lines.items()}


def report_on(name: str | None, version: int | None, args) -> tuple:
    """-> (run, what the template asks of it)."""
    from analysis.reporting.gather import gather
    from train.data.dataset import load_split
    from train.scores import encode

    run, device = open_run(argparse.Namespace(dataset=name, version_num=version, device=args.device))
    train, test = load_split(run.config.data, "train"), load_split(run.config.data, "test")
    labelled = bool(len(test.attributes.columns))
    missing = commands_of(run, labelled) if args.fast else complete(run, labelled, device)
    missing.setdefault("mechanism", "analysis/mechanism/compare.py was not run on this run")
    if not labelled:
        missing["diagnosis"] = "shortcuts are ties between attributes, and these images have none"
    return run, gather(run, train, test, encode(run.model, test, device=device), missing)


def main() -> None:
    args = parse_args()

    from importlib.metadata import version
    from pathlib import Path

    from jinja2 import Environment, FileSystemLoader

    from analysis.measures.labels import TELLS
    from analysis.results import results_folder
    from train.versions import PRETRAINED, version_number
    from train.whole_files import replace_file

    wanted = [(args.dataset, args.version_num)]
    if args.compare:
        name, slash, number = args.compare.rpartition("/")
        if not slash or not (number.isdecimal() or number == PRETRAINED):
            raise UserError(f"--compare {args.compare}: must be DATASET/VERSION, e.g. faces/1")
        wanted.append((name, version_number(number)))
    gathered = [report_on(*which, args) for which in wanted]
    run, reports = gathered[0][0], [report for _, report in gathered]
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)
    title = "What the model of " + " and of ".join(report["name"] for report in reports) + " uses"
    versions = f"patronus {version('patronus')}, torch {version('torch')}"
    values = {"title": title, "runs": reports, "sorts": SORTS, "tells": TELLS, "versions": versions}
    text = templates.get_template("report.html").render(**values)
    name = "report.html" if not args.compare else f"report_beside_{gathered[1][0].name}_v{gathered[1][0].version}.html"
    folder = results_folder("report", run, args.outdir)
    file = replace_file(folder / name, lambda path: path.write_text(text, encoding="utf-8"))

    for line in reports[0]["short"]:
        print(line)
    for report in reports:
        absent = [section for section, content in report["sections"].items() if content is None]
        if absent:
            print(f"{report['name']}: left out: {listed(absent)}")
        for section, reason in report["missing"].items():
            print(f"  {section}: {reason}")
    print(f"report: {file} ({file.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_script(main)
