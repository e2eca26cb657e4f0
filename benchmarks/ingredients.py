"""What each ingredient of the recipe brings by itself, also where that is nothing.

    python benchmarks/ingredients.py OUT [--data ../shared/data] [--sets kermany ...] [--seeds 0 1 2] [--size 128]
                                     [--methods probe-plain ...]
    python benchmarks/ingredients.py OUT --show

The sets, splits and resumable files are those of `recipe.py`, which may share OUT. Those of the linear probe are held
against the plain probe, those of fine-tuning against five epochs of the whole network at a rate of 0.0001 after it.
Probabilities are calibrated on the other validation images, as the plan does it inside the training set. --show prints
the paired differences of the log loss with 95 % intervals, an image or patient of several seeds counting once.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import recipe
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import CutMix, MixUp
from fastai.losses import LabelSmoothingCrossEntropyFlat
from scipy.special import softmax
from torch import nn

from medclf.dataset.folds import folds
from medclf.dataset.groups import groups_of
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.prediction import predict_loader
from medclf.learn.trial import calibrated
from medclf.models.stages import stage_names
from medclf.parallel import keep_memory
from medclf.results.predictions import Predictions

EPOCHS, RATE, DECAY = 5, 1e-4, 0.99
PROBE, TUNE = "probe-plain", "tune-plain"


class AveragedWeights(Callback):
    """A running average of the weights, which comes back at the end."""

    def before_fit(self) -> None:
        """Begin with the weights as they are."""
        self.average = {name: value.detach().clone() for name, value in self.learn.model.named_parameters()}

    def after_batch(self) -> None:
        """One step nearer to the weights."""
        if self.learn.training:
            for name, value in self.learn.model.named_parameters():
                self.average[name].lerp_(value.detach(), 1 - DECAY)

    def after_fit(self) -> None:
        """Take the average."""
        with torch.no_grad():
            for name, value in self.learn.model.named_parameters():
                value.copy_(self.average[name])


def ingredients() -> dict[str, dict[str, Any]]:
    """What is given to `med_learner`, to `fit_head` and to `fine_tune`; epochs of None are the linear probe alone."""
    tune = {"epochs": EPOCHS, "base_lr": RATE}
    return {
        PROBE: {},
        "probe-generalised-mean": {"make": {"pooling": "gem"}},
        "probe-all-stages": {"make": {"pooling": "stages"}},
        "probe-two-views": {"head": {"views": 2}},
        "probe-balance-loss": {"make": {"balance": "loss"}},
        "probe-mirror-averaged": {"mirror": True},
        "probe-average-of-folds": {"folds": 3},
        TUNE: {"tune": tune},
        "tune-generalised-mean": {"make": {"pooling": "gem"}, "tune": tune},
        "tune-all-stages": {"make": {"pooling": "stages"}, "tune": tune},
        "tune-rate-times-3": {"tune": tune | {"base_lr": 3 * RATE}},
        "tune-rate-times-10": {"tune": tune | {"base_lr": 10 * RATE}},
        "tune-10-epochs": {"tune": tune | {"epochs": 2 * EPOCHS}},
        "tune-half-the-way": {"tune": tune | {"blend": 0.5}},
        "tune-quarter-of-the-way": {"tune": tune | {"blend": 0.25}},
        "tune-averaged-weights": {"tune": tune | {"cbs": AveragedWeights}},
        "tune-norms-trained": {"tune": tune | {"freeze_bn": False}},
        "tune-last-stages": {"tune": tune, "last_stages": True},
        "tune-mirror-averaged": {"tune": tune, "mirror": True},
        "tune-average-of-folds": {"tune": tune, "folds": 3},
        "tune-label-smoothing": {"make": {"loss_func": LabelSmoothingCrossEntropyFlat()}, "tune": tune},
        "tune-mixup": {"tune": tune | {"cbs": MixUp}},
        "tune-cutmix": {"tune": tune | {"cbs": CutMix}},
        "tune-without-probe": {"make": {"linear_probe": False}, "tune": tune | {"base_lr": 2e-3}},
    }


class Mirrored(nn.Sequential):
    """A network that gives the mean of what it makes of an image and of its mirror image: twice the time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return (super().forward(x) + super().forward(x.flip(-1))) / 2


def table_of(name: str, seed: int, out: Path) -> pd.DataFrame:
    table = recipe.split_of(name, seed, out)
    table = table[table["partition"].isin(["train", "valid"]) & (table["problem"] == "")].reset_index(drop=True)
    return table.astype(object).where(table.notna(), None)


def made(name: str, how: dict[str, Any], seed: int, size: int, out: Path) -> pd.DataFrame:
    """Probabilities of the validation images; with folds the mean of what networks made without each of them say."""
    table = table_of(name, seed, out)
    n_folds = how.get("folds", 1)
    train = (table["partition"] == "train").to_numpy()
    fold_of = np.full(len(table), -1)
    if n_folds > 1:
        inside = table[train]
        codes = np.unique(inside["label"].astype(str), return_inverse=True)[1]
        fold_of[train] = folds(codes, groups_of(inside), n_folds, seed=seed)
    logits = []
    for fold in range(n_folds):
        part = table[fold_of != fold].reset_index(drop=True) if n_folds > 1 else table
        part.attrs["root"] = str(out / "sets" / name)
        how_read = {"modality": recipe.KNOWN[name]["modality"], "size": size, "split": "folders", "seed": seed}
        found = predicted(MedDataLoaders.from_table(part, **how_read), how)
        logits.append(np.log(found.probs.astype(np.float64).clip(1e-7)))
    mean = softmax(np.mean(logits, axis=0), axis=1)
    probs = calibrated(found.y, mean, found.multi_label, found.groups)
    rows = found.table[["path", *(["patient"] if "patient" in found.table else [])]].assign(label=found.labels)
    return recipe.with_probs(rows, probs, list(found.vocab))


def predicted(dls: MedDataLoaders, how: dict[str, Any]) -> Predictions:
    """What a network that is trained so says of the validation images."""
    learn = med_learner(dls, recipe.ARCH, **how.get("make", {}))
    if learn.linear_probe:
        learn.fit_head(progress=False, **how.get("head", {}))
    tune = dict(how.get("tune", {}))
    if tune:
        tune["cbs"] = tune["cbs"]() if "cbs" in tune else None
        tune["train_from"] = stage_names(learn.model)[-3] if how.get("last_stages") else None
        with learn.no_bar(), learn.no_logging():
            learn.fine_tune(tune.pop("epochs"), **tune)
    if how.get("mirror"):
        learn.model = Mirrored(*learn.model.children())
    return predict_loader(learn, learn.dls.valid, "valid")


def run_all(args: argparse.Namespace, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    file = out / "ingredients.jsonl"
    done = {(row["set"], row["method"], row["seed"]) for row in recipe.lines(file)}
    for name in args.sets:
        for seed in args.seeds:
            size = recipe.KNOWN[name].get("size", args.size)
            if not (out / f"{name}-{seed}-table.csv").is_file():
                recipe.by_medclf(name, "probe", seed, size, args.data, out)
            for method, how in ingredients().items():
                if method not in args.methods or (name, method, seed) in done:
                    continue
                print(f"{name}, {method}, seed {seed}", flush=True)
                start = time.perf_counter()
                rows = made(name, how, seed, size, out)
                rows.sort_values("path").to_csv(out / f"{name}-{method}-{seed}.csv", index=False)
                line = {"set": name, "method": method, "seed": seed, **recipe.figures_of(rows)}
                with file.open("a") as lines_file:
                    lines_file.write(json.dumps(line | {"seconds": round(time.perf_counter() - start, 1)}) + "\n")


def show(out: Path) -> None:
    rows = pd.DataFrame(recipe.lines(out / "ingredients.jsonl"))
    sets = list(dict.fromkeys(rows["set"]))
    print("| ingredient | " + " | ".join(sets) + " |\n" + "|---" * (1 + len(sets)) + "|")
    for method in dict.fromkeys(rows["method"]):
        base = PROBE if method.startswith("probe") else TUNE
        cells = []
        for name in sets:
            mine, theirs = (rows[(rows["set"] == name) & (rows["method"] == one)] for one in (method, base))
            seeds = sorted(set(mine["seed"]) & set(theirs["seed"]))
            if method == base:
                cells.append(f"{mine['log_loss'].mean():.3f}" if len(mine) else "")
            else:
                cells.append(recipe.paired(out, name, base, method, seeds)[0] if seeds else "")
        print(f"| {method} | " + " | ".join(cells) + " |")
    print(f"\nseeds: {', '.join(f'{name} {sorted(set(part.seed))}' for name, part in rows.groupby('set', sort=False))}")


def main() -> None:
    names = list(ingredients())
    args = recipe.arguments(__doc__, methods={"nargs": "+", "default": names, "choices": names})
    keep_memory()  # as the command line does
    if not args.show:
        run_all(args, args.out)
    show(args.out)


if __name__ == "__main__":
    main()
