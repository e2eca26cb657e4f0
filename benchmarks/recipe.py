"""Which way to train is best, set by set: the plan, the probe, fine-tuning, scikit-learn on the same features, fastai.

    python benchmarks/recipe.py OUT [--data ../shared/data] [--sets ham10000 ...] [--methods probe sklearn ...]
                                [--seeds 0 1 2] [--size 128]
    python benchmarks/recipe.py OUT --show

Resumable: each set, method and seed adds one line to OUT/rows.jsonl and its probabilities as a CSV; what is there is
not done again. All methods of a seed have the same split, by patient or lesion where known, the same size and the
same pretrained EfficientNet-Lite0. None sees the images that it is scored on: the plan chooses inside its training
set, scikit-learn its strength by folds of it, and fastai its epochs (3, 5 or 10) by a quarter of it. --show prints a
table, and each method's paired differences from `auto` with 95 % intervals. Other labels of the same images (`OTHERS`)
are run where --sets names them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medclf.dataset.folds import folds
from medclf.dataset.groups import groups_of
from medclf.metrics.comparison import compare_predictions
from medclf.metrics.intervals import Sampling, critical
from medclf.models.features import embed_table
from medclf.parallel import keep_memory
from medclf.results.predictions import losses_of
from medclf.run.train import train

SETS: dict[str, dict[str, Any]] = {
    "hyperkvasir": {"folder": "hyperkvasir-lower-gi", "modality": "endoscopy", "split": "stratified"},
    "hannover-icu": {"folder": "hannover-cxr", "modality": "radiograph", "split": "patient"},
    "nih-cardiomegaly": {"folder": "nih-multilabel-64", "modality": "radiograph", "split": "patient", "size": 64},
    "nih-effusion": {"folder": "nih-multilabel-64", "modality": "radiograph", "split": "patient", "size": 64},
    "nih-atelectasis": {"folder": "nih-multilabel-64", "modality": "radiograph", "split": "patient", "size": 64},
    "ham10000": {"folder": "ham10000-small", "modality": "dermoscopy", "split": "patient"},
    "kermany": {"folder": "kermany-small", "modality": "radiograph", "split": "patient"},
    "brain-mri": {"folder": "brain-mri", "modality": "mri", "split": "grouped"},
}
OTHERS: dict[str, dict[str, Any]] = {  # other labels of the same images, on which no rule of the plan was settled
    "hannover-view": SETS["hannover-icu"],
    "nih-sex": SETS["nih-effusion"],
    "nih-infiltration": SETS["nih-effusion"],
    "ham-melanoma": SETS["ham10000"],
    "brain-tumour": SETS["brain-mri"],
    "gi-small": SETS["hyperkvasir"],
    "gi-rare": SETS["hyperkvasir"],
}
KNOWN = SETS | OTHERS
KEPT = ("probe", "sklearn")  # what works on kept features
METHODS = (*KEPT, "auto", "tune", "fastai")
ARCH = "efficientnet_lite0"
EPOCHS = (3, 5, 10)


def listed(name: str, root: Path) -> pd.DataFrame:
    """path (absolute), label and patient of each image of a set."""
    folder = root / KNOWN[name]["folder"]
    if name in OTHERS:
        return relabelled(name, folder)
    if name == "hyperkvasir" or name == "brain-mri":
        paths = sorted(path for path in folder.rglob("*.jp*g"))
        return pd.DataFrame({"path": paths, "label": [path.parent.name for path in paths], "patient": ""})
    if name == "hannover-icu":
        rows = pd.read_csv(folder / "data.csv")
        known = {path.stem: path for path in folder.rglob("*.png")}
        rows["path"], rows["patient"] = rows["image_id"].map(known), rows["patient_id"]
        rows["label"] = np.where(rows["icu_admission_offset"].notna(), "icu", "no-icu")
    elif name == "ham10000":
        rows = pd.read_csv(folder / "HAM10000_metadata.csv")
        known = {path.stem: path for path in folder.rglob("*.jpg")}
        rows["path"], rows["label"], rows["patient"] = rows["image_id"].map(known), rows["dx"], rows["lesion_id"]
    elif name == "kermany":
        rows = pd.read_csv(folder / "labels.csv")
        rows["path"] = [folder / path for path in rows["path"]]
    else:
        finding = name.partition("-")[2].capitalize()
        rows = pd.read_csv(folder / "labels.csv")
        found = rows["finding_labels"].str.split("|").map(lambda labels: finding in labels)
        rows["path"], rows["patient"] = [folder / path for path in rows["file"]], rows["patient_id"]
        rows["label"] = np.where(found, finding.lower(), "other")
    return rows.loc[rows["path"].notna(), ["path", "label", "patient"]].reset_index(drop=True)


def relabelled(name: str, folder: Path) -> pd.DataFrame:
    """The same of `OTHERS`."""
    files = sorted(path for path in folder.rglob("*.*") if path.suffix in (".jpg", ".jpeg", ".png"))
    rows = pd.DataFrame({"path": files, "label": [path.parent.name for path in files], "patient": ""})
    stems = {path.stem: path for path in files}
    if name == "hannover-view":
        rows = pd.read_csv(folder / "data.csv").assign(
            patient=lambda one: one["patient_id"], label=lambda one: one["projection"]
        )
        rows["path"] = rows["image_id"].map(stems)
    elif name == "ham-melanoma":
        rows = pd.read_csv(folder / "HAM10000_metadata.csv").assign(patient=lambda one: one["lesion_id"])
        rows["path"], rows["label"] = rows["image_id"].map(stems), np.where(rows["dx"] == "mel", "melanoma", "other")
    elif name.startswith("nih"):
        rows = pd.read_csv(folder / "labels.csv").assign(patient=lambda one: one["patient_id"])
        infiltrated = np.where(rows["finding_labels"].str.contains("Infiltration"), "infiltration", "other")
        rows["path"], rows["label"] = (
            [folder / path for path in rows["file"]],
            rows["sex"] if name == "nih-sex" else infiltrated,
        )
    elif name == "brain-tumour":
        rows["label"] = np.where(rows["label"] == "notumor", "none", "tumour")
    elif name == "gi-small":  # sixteen images a class
        rows = rows.groupby("label").sample(16, random_state=0)
    else:  # twelve polyps among all the others
        parts = [
            part.sample(12 if label == "polyp" else len(part), random_state=0) for label, part in rows.groupby("label")
        ]
        rows = pd.concat(parts).assign(label=lambda one: np.where(one["label"] == "polyp", "polyp", "other"))
    rows = rows.loc[rows["path"].notna() & rows["label"].notna(), ["path", "label", "patient"]]
    return rows.sort_values("path").reset_index(drop=True)


def laid_out(name: str, root: Path, out: Path) -> Path:
    """A folder with the set's images, without their partitions, and a CSV: what every method reads."""
    folder = out / "sets" / name
    file = folder / "labels.csv"
    if file.is_file():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    rows = listed(name, root)
    names = []
    for row, path in enumerate(rows["path"]):
        names.append(f"{row:05d}{Path(path).suffix}")
        shutil.copyfile(path, folder / names[-1])
    rows.assign(path=names).to_csv(file, index=False)
    return file


def by_medclf(name: str, method: str, seed: int, size: int, root: Path, out: Path) -> tuple[pd.DataFrame, str]:
    """Probabilities of the validation images, and what was chosen."""
    source = laid_out(name, root, out)
    patients = {} if (pd.read_csv(source, dtype=str)["patient"].fillna("") == "").all() else {"patient_col": "patient"}
    how = {"modality": KNOWN[name]["modality"], "split": KNOWN[name]["split"], "valid_pct": 0.25}
    with tempfile.TemporaryDirectory() as room:
        options = {"arch": ARCH, "size": size, "seed": seed, "saliency": 0, "recipe": method, **how, **patients}
        run = train(str(source), say=lambda line: print(f"  {line}", flush=True), out=f"{room}/RUN", **options)
        rows = pd.read_csv(run / "predictions.csv", dtype={"path": str, "patient": str})
        table = pd.read_csv(run / "table.csv", dtype=str)
        settings = json.loads((run / "run.json").read_text())["settings"]
        table.to_csv(out / f"{name}-{seed}-table.csv", index=False)  # the split, for the others
    chosen = f"{settings['epochs'] or 0} epochs, {settings['views']} views, {settings['pooling'] or 'mean'} pooling"
    return rows[rows["partition"] == "valid"], chosen


def split_of(name: str, seed: int, out: Path) -> pd.DataFrame:
    file = out / f"{name}-{seed}-table.csv"
    if not file.is_file():
        raise SystemExit(f"{name}, seed {seed}: run the method probe first, which makes the split")
    return pd.read_csv(file, dtype=str).fillna({"problem": ""})


def by_sklearn(name: str, seed: int, size: int, out: Path) -> tuple[pd.DataFrame, str]:
    """Logistic regression on the same features, its strength by folds inside the training set."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table = split_of(name, seed, out)
    table = table[table["partition"].isin(["train", "valid"]) & (table["problem"] == "")].reset_index(drop=True)
    table.attrs["root"] = str(out / "sets" / name)
    features = embed_table(table, ARCH, size=size, progress=False)
    inside = (table["partition"] == "train").to_numpy()
    train_rows = table[inside].reset_index(drop=True)
    y, groups = train_rows["label"].to_numpy(), groups_of(train_rows)
    codes = np.unique(y, return_inverse=True)[1]
    fold_of = folds(codes, groups, 5, seed=seed)
    pairs = [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in np.unique(fold_of)]
    pairs = [pair for pair in pairs if len(np.unique(y[pair[0]])) == len(np.unique(y))]
    scaler = StandardScaler().fit(features[inside])
    pairs_of_classes = [pair for pair in pairs if set(y[pair[1]]) <= set(y[pair[0]])]
    model = LogisticRegressionCV(
        Cs=np.logspace(-4, 0, 9), cv=pairs_of_classes, scoring="neg_log_loss", max_iter=500, use_legacy_attributes=True
    )
    fitted = make_pipeline(model).fit(scaler.transform(features[inside]), y)
    probs = fitted.predict_proba(scaler.transform(features[~inside]))
    rows = table.loc[~inside, ["path", "label", *(["patient"] if "patient" in table else [])]]
    return with_probs(rows, probs, list(fitted.classes_)), f"C {np.mean(model.C_):.3g}"


def by_fastai(name: str, seed: int, size: int, out: Path) -> tuple[pd.DataFrame, str]:
    """Plain fastai: `fine_tune` with the epochs that a quarter of the training set prefers."""
    table = split_of(name, seed, out)
    table = table[table["partition"].isin(["train", "valid"]) & (table["problem"] == "")].reset_index(drop=True)
    inside = table[table["partition"] == "train"].reset_index(drop=True)
    codes = np.unique(inside["label"], return_inverse=True)[1]
    held = folds(codes, groups_of(inside), 4, seed=seed) == 0
    losses = {}
    for epochs in EPOCHS:
        rows = inside.assign(is_valid=held)
        found = fastai_once(rows, epochs, size, seed, out / "sets" / name)
        losses[epochs] = float(np.nanmean(scores_of(found)[2]))
    best = min(losses, key=losses.get)
    rows = table.assign(is_valid=table["partition"] == "valid")
    return fastai_once(rows, best, size, seed, out / "sets" / name), f"{best} epochs"


def fastai_once(rows: pd.DataFrame, epochs: int, size: int, seed: int, folder: Path) -> pd.DataFrame:
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, set_seed, vision_learner
    from plain_fastai import architecture

    set_seed(seed)
    arch, cut, normalize = architecture(ARCH)
    how = {"fn_col": "path", "label_col": "label", "valid_col": "is_valid", "num_workers": 0}
    tfms = {"item_tfms": Resize(size), "batch_tfms": [*aug_transforms(size=size), normalize]}
    dls = ImageDataLoaders.from_df(rows, folder, bs=min(64, int((~rows["is_valid"]).sum()) // 2), **how, **tfms)
    learn = vision_learner(dls, arch, cut=cut)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs)
        probs = learn.get_preds(dl=dls.valid)[0].numpy()
    return with_probs(rows[rows["is_valid"]], probs, [str(name) for name in dls.vocab])


def with_probs(rows: pd.DataFrame, probs: np.ndarray, names: list[str]) -> pd.DataFrame:
    columns = pd.DataFrame(probs, columns=[f"prob_{name}" for name in names], index=rows.index)
    return pd.concat([rows, columns], axis=1)


def scores_of(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, probabilities and log losses."""
    names = [name.removeprefix("prob_") for name in rows if name.startswith("prob_")]
    y = np.array([names.index(label) if label in names else -1 for label in rows["label"]])
    probs = rows[[f"prob_{name}" for name in names]].to_numpy(float)
    return y, probs / probs.sum(axis=1, keepdims=True), losses_of(y, probs, False)


def figures_of(rows: pd.DataFrame) -> dict[str, float]:
    y, probs, losses = scores_of(rows)
    present = np.unique(y[y >= 0])
    hot = np.eye(probs.shape[1])[y]
    areas = [roc_auc_score(y == k, probs[:, k]) for k in present if 0 < (y == k).mean() < 1]
    return {
        "n": len(y),
        "accuracy": float((probs.argmax(1) == y).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(y, probs.argmax(1))),
        "auroc": float(np.mean(areas)),
        "log_loss": float(np.nanmean(losses)),
        "brier": float(((probs - hot) ** 2).sum(1).mean()),
    }


def run_all(args: argparse.Namespace, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.jsonl"
    done = {(row["set"], row["method"], row["seed"]) for row in lines(file)}
    for name in args.sets:
        for seed in args.seeds:
            for method in args.methods:
                if (name, method, seed) in done:
                    continue
                print(f"{name}, {method}, seed {seed}", flush=True)
                size = KNOWN[name].get("size", args.size)
                start = time.perf_counter()
                if method == "sklearn":
                    rows, chosen = by_sklearn(name, seed, size, out)
                elif method == "fastai":
                    rows, chosen = by_fastai(name, seed, size, out)
                else:
                    rows, chosen = by_medclf(name, method, seed, size, args.data, out)
                seconds = round(time.perf_counter() - start, 1)
                rows.sort_values("path").to_csv(out / f"{name}-{method}-{seed}.csv", index=False)
                line = {"set": name, "method": method, "seed": seed, **figures_of(rows), "seconds": seconds}
                with file.open("a") as lines_file:
                    lines_file.write(json.dumps(line | {"chosen": chosen}) + "\n")


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def show(out: Path) -> None:
    rows = pd.DataFrame(lines(out / "rows.jsonl"))
    columns = ["accuracy", "balanced_accuracy", "auroc", "log_loss", "brier", "seconds"]
    print("| set | method | seeds | n | " + " | ".join(columns) + " |\n" + "|---" * (4 + len(columns)) + "|")
    for (name, method), part in rows.groupby(["set", "method"], sort=False):
        means = " | ".join(f"{part[column].mean():.3f}" for column in columns[:-1])
        print(f"| {name} | {method} | {len(part)} | {part['n'].sum()} | {means} | {part['seconds'].mean():.0f} |")
    base = "auto" if "auto" in set(rows["method"]) else "probe"
    print(f"\n| set | method | log loss less {base}'s | balanced accuracy less {base}'s |\n|---|---|---|---|")
    for (name, method), part in rows.groupby(["set", "method"], sort=False):
        seeds = set(part["seed"]) & set(rows.loc[(rows["set"] == name) & (rows["method"] == base), "seed"])
        if method != base and seeds:
            losses, recall = paired(out, name, base, method, sorted(seeds))
            print(f"| {name} | {method} | {losses} | {recall} |")


def paired(out: Path, name: str, first: str, second: str, seeds: list[int]) -> tuple[str, str]:
    """Differences of the same images over the seeds, an image or patient of several seeds counting once."""
    tables = [[pd.read_csv(out / f"{name}-{m}-{seed}.csv") for seed in seeds] for m in (first, second)]
    a, b = (pd.concat(part, ignore_index=True) for part in tables)
    assert a["path"].equals(b["path"])
    whose = a["patient"] if "patient" in a and a["patient"].notna().any() else a["path"]
    sampling = Sampling.of(list(whose))
    gains = scores_of(b)[2] - scores_of(a)[2]
    mean = float(np.nanmean(gains))
    sums = np.bincount(sampling.codes, weights=np.nan_to_num(gains - mean), minlength=sampling.count)
    half = critical(0.95, sampling.count - 1) * float(np.sqrt((sums**2).sum())) / len(gains)
    names = sorted({c for c in a if c.startswith("prob_")} & {c for c in b if c.startswith("prob_")})
    y = np.array([names.index(f"prob_{label}") if f"prob_{label}" in names else -1 for label in a["label"]])
    both = [table[names].to_numpy(float) for table in (a, b)]
    both = [probs / probs.sum(axis=1, keepdims=True) for probs in both]
    vocab = [name.removeprefix("prob_") for name in names]
    found = compare_predictions(y, *both, vocab, groups=list(whose), n_boot=500)["balanced_accuracy"]
    return (
        f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})",
        f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})",
    )


def arguments(doc: str | None, **more: Any) -> Namespace:
    """Of the command line; `more` are options besides those that the scripts on these sets share."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(KNOWN))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--show", action="store_true")
    for name, how in more.items():
        parser.add_argument(f"--{name}", **how)
    return parser.parse_args()


def main() -> None:
    args = arguments(__doc__, methods={"nargs": "+", "default": list(METHODS), "choices": METHODS})
    keep_memory()  # as the command line does
    if not args.show:
        run_all(args, args.out)
    show(args.out)


if __name__ == "__main__":
    main()
