"""Where results come from: the data, how they were split, and the versions that everything was made with."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any, TypedDict, cast

import pandas as pd

from medclf.dataset.groups import what_is_linked
from medclf.dataset.units import UNIT


class SplitSummary(TypedDict, total=False):
    """How the data were split."""

    kind: str
    valid_pct: float
    seed: int
    fold: int | None
    n_folds: int
    patients_on_both_sides: int | None
    test_patients_elsewhere: int
    sentence: str


class DataSummary(TypedDict, total=False):
    """What the data hold."""

    n_images: int
    counts: dict[str, dict[str, int]]
    images: dict[str, int]
    problems: list[dict[str, str]]
    notes: list[str]
    split: SplitSummary


def describe_data(table: pd.DataFrame, recipe: dict[str, Any]) -> DataSummary:
    """Counts by partition and label, what could not be used or was warned of, and how the data were split."""
    used = table[table["problem"] == ""]
    counts: dict[str, dict[str, int]] = {}
    for partition, rows in used.groupby("partition"):
        labels = rows["label"].explode() if table.attrs.get("multi_label") else rows["label"]
        counts[str(partition)] = {str(k): int(v) for k, v in labels.value_counts().sort_index().items()}
    problems = table.loc[table["problem"] != "", ["path", "problem"]].to_dict("records")
    return {
        "n_images": len(used),
        "counts": counts,
        "images": {str(k): int(v) for k, v in used["partition"].value_counts().sort_index().items()},
        "problems": problems,
        "notes": list(table.attrs.get("notes", ())),
        "split": describe_split(used, recipe.get("split") or {}),
    }


_SPLITS = {
    "random": "Images were split at random",
    "stratified": "Images were split at random within each label",
    "finding": "Images with and without a finding were split at random",
    "patient": "Patients, with all their images, were split at random",
    "grouped": "Patients and groups of near-duplicates were kept together",
    "kfold": "Cross-validation: each image was predicted by a model that was not trained on it",
    "folders": "The folders or the table gave the split",
}


_ONLY_TESTED = (
    "These images were given as a test. Whether other images of their patients were trained on was not looked at."
)


def describe_split(used: pd.DataFrame, split: dict[str, Any]) -> SplitSummary:
    """The split's settings, how many patients are in several parts of it, and both in sentences."""
    if "fold" not in used and set(used["partition"].dropna()) == {"test"}:
        return {"patients_on_both_sides": None, "sentence": _ONLY_TESTED}
    both: int | None = None
    tested = 0
    sentence = _SPLITS.get(split.get("kind", ""), "The caller made the split")
    if split.get("kind") in {"random", "stratified", "finding", "patient", "grouped", "kfold"}:
        sentence += f" (seed {split.get('seed')})"
    sentence += "."
    several = "several folds" if "fold" in used else "both training and validation set"
    if "patient" in used and used["patient"].notna().any():
        both, n = _in_several(used, "patient")
        if both:
            verb = "is" if both == 1 else "are"
            sentence += f" {both} of {n} patients {verb} in {several}, so scores are too high."
            sentence += " Split by patient." if n > 1 else ""
        else:
            sentence += f" No patient is in {several} ({n} patients)."
        known = used.dropna(subset=["patient", "partition"])
        tested = sum("test" in parts and len(parts) > 1 for parts in known.groupby("patient")["partition"].agg(set))
        if tested:
            has = "patient of the test set also has" if tested == 1 else "patients of the test set also have"
            sentence += f" {tested} {has} images outside it, so test scores are too high."
    else:
        sentence += f" No patient IDs were given, so one patient may be in {several}."
    if "group" in used and used["group"].notna().any():
        joined = used
        if UNIT in used:  # its images are a group in any case
            joined = used[used.groupby("group")[UNIT].transform("nunique") > 1]
        apart, n = _in_several(joined, "group")
        linked_by = "near-duplicates" if UNIT in used else what_is_linked(used)
        if n > 1:
            sentence += f" {n} groups of {linked_by} were found; {apart or 'none'} of them "
            sentence += f"{'is' if apart < 2 else 'are'} in {several}."
        elif n:
            sentence += f" 1 group of {linked_by} was found; it is {'' if apart else 'not '}in {several}."
        else:
            sentence += f" No near-duplicates{' of different units' if UNIT in used else ''} were found."
    elsewhere = {"test_patients_elsewhere": tested} if tested else {}
    return cast(SplitSummary, {**split, "patients_on_both_sides": both, **elsewhere, "sentence": sentence})


def _in_several(used: pd.DataFrame, column: str) -> tuple[int, int]:
    """How many patients, or groups, are in several folds, or in training and validation set; and of how many."""
    rows = used[used["partition"].isin(["train", "valid"]) & used[column].notna()]
    counts = rows.groupby(column)["fold" if "fold" in used else "partition"].nunique()
    return int((counts > 1).sum()), len(counts)


def versions() -> dict[str, str]:
    """Of Python, the system and the packages that a result depends on."""
    packages = (
        "medclf",
        "fastai",
        "torch",
        "torchvision",
        "timm",
        "pydicom",
        "pillow",
        "opencv-python-headless",
        "numpy",
        "scikit-learn",
    )
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
