"""How many planted label errors a default run's page names first, and how many labels it doubts where none was planted.

Each draw takes 250 images of the folder, gives 12 of them another label, trains with the default split, and reads the
doubtful labels of the page in their order; then the same with the labels as they are. Where near-duplicates have
different labels there, one of the two is wrong in the set itself: those are counted apart.

    python benchmarks/label_errors.py --data ../shared/data/hyperkvasir-lower-gi --modality endoscopy
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from side_by_side import print_table

from medclf.dataset.scan import scan
from medclf.run.train import train

SHOWN = 20  # doubtful labels that a reader looks at first


def draw(table: pd.DataFrame, n: int, n_wrong: int, seed: int) -> tuple[pd.DataFrame, set[str]]:
    """Some images, and the paths of those that got another label."""
    rng = np.random.default_rng(seed)
    some = table.iloc[rng.choice(len(table), min(n, len(table)), replace=False)][["path", "label"]].copy()
    vocab = sorted(some["label"].unique())
    wrong = rng.choice(len(some), n_wrong, replace=False)
    for row in wrong:
        others = [label for label in vocab if label != some["label"].iloc[row]]
        some.iloc[row, 1] = others[rng.integers(len(others))]
    return some, set(some["path"].iloc[wrong])


def doubtful(some: pd.DataFrame, root: Path, options: argparse.Namespace) -> tuple[list[str], int]:
    """The paths of the page's doubtful labels, in its order, and how many of them clash with a near-duplicate's."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.csv"
        some.to_csv(file, index=False)
        modality = {"modality": options.modality} if options.modality else {}
        settings = {"labels": str(file), "out": f"{folder}/RUN", "arch": options.arch, "epochs": options.epochs}
        run = train(root, print, saliency=0, **settings, **modality)
        page = (run / "report.html").read_text(encoding="utf-8")
        n_clashes = int(pd.read_csv(run / "label_errors.csv")["near_duplicate"].notna().sum())
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    return [data["names"][row] for row in data["suspects"]], n_clashes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of images, a folder a class")
    parser.add_argument("--modality")
    parser.add_argument("--arch", default="efficientnet_lite0")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--wrong", type=int, default=12)
    options = parser.parse_args()
    table = scan(options.data, check_pixels=False, progress=False)
    table = table[(table["problem"] == "") & table["label"].notna()]
    root, rows = Path(options.data).resolve(), []
    for seed in range(options.draws):
        some, wrong = draw(table, options.images, options.wrong, seed)
        named = doubtful(some, root, options)[0][:SHOWN]
        found = sum(any(path.endswith(name) or name.endswith(path) for name in named) for path in wrong)
        none_planted, n_clashes = doubtful(draw(table, options.images, 0, seed)[0], root, options)
        rows.append([seed, found, len(none_planted), n_clashes])
    print(
        f"\n{Path(options.data).name}: {options.wrong} labels of {options.images} made wrong, {options.draws} draws\n"
    )
    middle = ["median", *(statistics.median(column) for column in list(zip(*rows, strict=True))[1:])]
    heads = ["draw", f"found among the first {SHOWN}", "doubted where none was planted", "near-duplicates disagree"]
    print_table(heads, [*rows, middle])


if __name__ == "__main__":
    main()
