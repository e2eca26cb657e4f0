"""Labels needed to come within a point of all labels: by `label_next`, by margin alone, at random; and the forecast.

    python benchmarks/label_next.py [--sets gi icu effusion] [--draws 10] [--only label_next]

Each draw holds a quarter of the images (whole patients or lesions) out and starts with no label. Every strategy takes
ten images at a time from the rest, `label_next` as medclf does; after each label the same logistic regression, its
classes weighed alike, is fitted on the features of all stages of the frozen backbone, and scored on the images held
out, by balanced accuracy. `labels needed` is the first number of labels whose score is within a point of that of all
labels, median over the draws. Of random's: the draws' median of what that is of the number that random draws need; the
same where only whole rounds of ten are scored, which rounds small numbers up most; and where it is read from the draws'
mean curve, which no draw's luck lifts. In the AUROC at 180 labels no threshold has a part. The row of scikit-activeml
(its `UncertaintySampling` by margin) appears where the package is installed.

The forecast is asked for at 50, 100 and 150 labels what 50 more bring: the share of cases where the score that was
then measured reaches its lower bound, and how far that lies below; where its interval holds the measured gain, and how
wide that is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import pandas as pd
from side_by_side import print_table, shared_data
from sklearn.metrics import roc_auc_score

from medclf.auditing.labelling import STRENGTH, Probe, margin_of
from medclf.dataset.folds import folds
from medclf.dataset.labels import usable
from medclf.dataset.scan import scan
from medclf.models.features import embed_table, stage_widths
from medclf.models.features_kept import kept_features
from medclf.run.label_next import FittedPool

STEP, LEAST = 10, 0.01
ASKED, MORE = (50, 100, 150), 50
MARKS = (10, 30, 50, 80, 120, 180)
OF_RANDOM = ("of random's", "by whole rounds", "on the mean curve")


class Data(NamedTuple):
    features: np.ndarray
    widths: tuple[int, ...]
    y: np.ndarray
    groups: np.ndarray | None

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1

    @property
    def last(self) -> np.ndarray:
        """The features of the last stage, as a head sees them."""
        return self.features[:, -self.widths[-1] :]


def _table(name: str) -> tuple[pd.DataFrame, str | None]:
    root = shared_data()
    if name == "gi":
        return scan(root / "hyperkvasir-lower-gi", check_pixels=False), None
    if name == "brain":
        return scan(root / "brain-mri", check_pixels=False), None
    if name == "children":
        return scan(root / "kermany-small", check_pixels=False), None
    if name == "icu":
        folder = root / "hannover-cxr"
        rows = pd.read_csv(folder / "data.csv").sort_values("image_id", ignore_index=True)
        icu = rows["icu_admission_offset"].notna().map({True: "icu", False: "ward"})
        rows = pd.DataFrame({"path": "png/" + rows["image_id"] + ".png", "label": icu, "person": rows["patient_id"]})
        return scan(rows, root=folder, check_pixels=False), "person"
    if name == "effusion":
        folder = root / "nih-multilabel-64"
        rows = pd.read_csv(folder / "labels.csv", dtype=str)
        label = rows["finding_labels"].str.contains("Effusion").map({True: "effusion", False: "none"})
        rows = pd.DataFrame({"path": rows["file"], "label": label, "person": rows["patient_id"]})
        return scan(rows, root=folder, check_pixels=False), "person"
    rows = pd.read_csv(root / "ham10000-small" / "HAM10000_metadata.csv")
    rows = pd.DataFrame(
        {"path": "images/" + rows["image_id"] + ".jpg", "label": rows["dx"], "lesion": rows["lesion_id"]}
    )
    rows = rows[[(root / "ham10000-small" / path).is_file() for path in rows["path"]]]
    return scan(rows, root=root / "ham10000-small", check_pixels=False), "lesion"


def read_data(name: str) -> Data:
    table, unit = _table(name)
    table = usable(table)

    def compute(rows: list[int]) -> np.ndarray:
        part = table.iloc[rows].reset_index(drop=True)
        part.attrs["root"] = table.attrs["root"]
        return embed_table(part, all_stages=True, progress=False, bs=16)

    features = kept_features("benchmark efficientnet_lite0 all stages", list(table["sha256"]), compute)
    groups = None if unit is None else table[unit].to_numpy()
    return Data(features, stage_widths(), np.unique(table["label"], return_inverse=True)[1], groups)


def auroc(probs: np.ndarray, y: np.ndarray) -> float:
    """Mean over the classes, each against the others."""
    return float(np.mean([roc_auc_score(y == one, probs[:, one]) for one in np.unique(y)]))


def balanced(probs: np.ndarray, y: np.ndarray) -> float:
    right = probs.argmax(1) == y
    return float(np.mean([right[y == one].mean() for one in np.unique(y)]))


Pick = Callable[[np.ndarray, np.ndarray, np.ndarray, Data, int], np.ndarray]
"""All probabilities, rows labelled, rows of the pool, the data and the draw -> rows to label next."""


def with_labels(data: Data, known: np.ndarray, pool: np.ndarray, seed: int) -> FittedPool:
    y = np.full(len(data.y), -1)
    y[known] = data.y[known]
    patients = None if data.groups is None else data.groups[pool]
    return FittedPool(data.features[pool], data.widths, y[pool], patients, data.n_classes, seed=seed)


def by_label_next(probs: np.ndarray, known: np.ndarray, pool: np.ndarray, data: Data, seed: int) -> np.ndarray:
    found = with_labels(data, known, pool, seed).choose(np.isin(pool, known), None, STEP)
    return pool[found["row"]]


def by_margin(probs: np.ndarray, known: np.ndarray, pool: np.ndarray, data: Data, seed: int) -> np.ndarray:
    if len(np.unique(data.y[known])) < 2:
        return at_random(probs, known, pool, data, seed)
    rest = np.setdiff1d(pool, known)
    return rest[np.argsort(margin_of(probs[rest]), kind="stable")[:STEP]]


def at_random(probs: np.ndarray, known: np.ndarray, pool: np.ndarray, data: Data, seed: int) -> np.ndarray:
    rest = np.setdiff1d(pool, known)
    return np.random.default_rng((seed, len(known))).permutation(rest)[:STEP]


def by_skactiveml(probs: np.ndarray, known: np.ndarray, pool: np.ndarray, data: Data, seed: int) -> np.ndarray:
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import UncertaintySampling
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(data.y[known])) < 2:
        return at_random(probs, known, pool, data, seed)
    logistic = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=200)
    y = np.where(np.isin(pool, known), data.y[pool], np.nan)
    query = UncertaintySampling(method="margin_sampling", random_state=seed)
    model = SklearnClassifier(logistic, classes=np.arange(data.n_classes))
    return pool[query.query(data.features[pool], y, model, batch_size=STEP)]


def curve(
    pick: Pick, probe: Probe, data: Data, pool: np.ndarray, test: np.ndarray, seed: int, goal: float, asks: bool
) -> tuple[dict[int, float], dict[int, float], list]:
    """Score and AUROC by number of labels; forecasts, with the accuracy then and after `MORE` labels.

    Each label is scored until the goal is met, then each round.
    """
    everything = np.arange(len(data.y))
    known, scores, areas, plain, asked = np.zeros(0, int), {}, {}, {}, []
    probs = np.zeros((len(data.y), data.n_classes))
    while len(known) < len(pool):
        new = pick(probs, known, pool, data, seed)
        if not len(new):  # near-duplicates of what is labelled are never asked for
            break
        known = np.concatenate([known, new])
        for n in range(len(known) - len(new) + 1, len(known)):
            if max(scores.values(), default=0) >= goal:
                break
            scores[n] = balanced(probe.probs(known[:n], data.y[known[:n]], test), data.y[test])
        probs = probe.probs(known, data.y[known], everything)
        scores[len(known)] = balanced(probs[test], data.y[test])
        areas[len(known)] = auroc(probs[test], data.y[test])
        plain[len(known)] = float((probs[test].argmax(1) == data.y[test]).mean())
        if asks and len(known) in ASKED:
            asked.append((len(known), with_labels(data, known, pool, seed).forecast(MORE)))
    forecasts = [(said, plain[n], plain[n + MORE]) for n, said in asked if said and n + MORE in plain]
    return scores, areas, forecasts


def needed(scores: dict[int, float], goal: float, most: int, step: int = 1) -> int:
    return next((n for n in sorted(scores) if n % step == 0 and scores[n] >= goal), most)


def crossing(curves: list[dict[int, float]], goal: float) -> float:
    """Labels at which the mean of the draws' curves, straight from round to round, first comes up to the goal."""
    rounds = [n for n in sorted(curves[0]) if n % STEP == 0 and all(n in curve for curve in curves)]
    means = [float(np.mean([curve[n] for curve in curves])) for n in rounds]
    for i, score in enumerate(means):
        if score >= goal:
            start = max(i - 1, 0)
            return float(np.interp(goal, means[start : i + 1], rounds[start : i + 1]))
    return np.nan


def measure(name: str, n_draws: int, only: list[str] | None) -> dict[str, list[float]]:
    """Print a set's tables; what each strategy needs of random's labels, to the label, by rounds, on the mean curve."""
    data = read_data(name)
    picks: dict[str, Pick] = {"label_next": by_label_next, "margin alone": by_margin, "random": at_random}
    if find_spec("skactiveml"):
        picks["scikit-activeml"] = by_skactiveml
    picks = {one: pick for one, pick in picks.items() if only is None or one in only}
    found: dict[str, list[tuple[int, int]]] = {one: [] for one in picks}
    at: dict[str, list[list[float]]] = {one: [] for one in picks}
    curves: dict[str, list[dict[int, float]]] = {one: [] for one in picks}
    holds, gains, below, widths = [], [], [], []
    finals = []
    probe = Probe(data.features, STRENGTH, data.n_classes, data.widths)
    for draw in range(n_draws):
        fold_of = folds(data.y, data.groups, 4, seed=draw)
        pool, test = np.flatnonzero(fold_of != 0), np.flatnonzero(fold_of == 0)
        final = balanced(probe.probs(pool, data.y[pool], test), data.y[test])
        finals.append(final)
        goal = final - LEAST
        for one, pick in picks.items():
            scores, areas, asked = curve(pick, probe, data, pool, test, draw, goal, one == "label_next")
            found[one].append((needed(scores, goal, len(pool)), needed(scores, goal, len(pool), STEP)))
            curves[one].append(scores)
            at[one].append([*(scores.get(n, np.nan) for n in MARKS), areas.get(MARKS[-1], np.nan)])
            for said, now, later in asked:
                holds.append(said.later.low <= later)
                gains.append(said.gain.low <= later - now <= said.gain.high)
                below.append(later - said.later.low)
                widths.append(said.gain.high - said.gain.low)
    print(f"\n{name}: {len(data.y)} images, {data.n_classes} classes; all {len(pool)} labels: {np.mean(finals):.3f}")
    whole = {one: crossing(curves[one], float(np.mean(finals)) - LEAST) for one in picks}
    rows, ratios = [], {}
    for one in picks:
        labels = np.array(found[one])
        ratios[one] = [
            *np.median(labels / np.array(found.get("random", np.nan)), axis=0),
            whole[one] / whole.get("random", np.nan),
        ]
        cells = [f"{value:.3f}" for value in [*np.nanmean(at[one], axis=0), *ratios[one]]]
        rows.append([one, *cells[: len(MARKS)], f"{np.median(labels[:, 0]):.0f}", *cells[-3:], cells[len(MARKS)]])
    heads = [*(f"{n} labels" for n in MARKS), "labels needed", *OF_RANDOM, f"AUROC at {MARKS[-1]}"]
    print_table(["", *heads], rows)
    if holds:
        print(f"forecast: in {np.mean(holds):.0%} of {len(holds)} the score reached its lower bound,", end=" ")
        print(f"which lies {100 * np.median(below):.0f} points below (median);", end=" ")
        print(f"in {np.mean(gains):.0%} its interval, {100 * np.median(widths):.0f} points wide, held the gain")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["gi", "icu", "brain", "skin"])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--only", nargs="+", help="these strategies alone, such as label_next")
    options = parser.parse_args()
    found = [measure(name, options.draws, options.only) for name in options.sets]
    print(f"\nmedian of {', '.join(options.sets)}")
    medians = {one: np.median([ratios[one] for ratios in found], axis=0) for one in found[0]}
    print_table(["", *OF_RANDOM], [[one, *(f"{value:.3f}" for value in values)] for one, values in medians.items()])


if __name__ == "__main__":
    main()
