"""Trains a little in however many processes the launcher started, and writes what the first one saw."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.metrics import RocAuc, accuracy

from medclf.learn import distributed
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.prediction import predict_loader


def train(folder: str, train_from: str | None) -> dict[str, Any]:
    """What came of it; nothing augments where only the last stages are trained, so that what lies below is kept."""
    dls = MedDataLoaders.from_folder(
        folder,
        modality=None if train_from else "endoscopy",
        size=32,
        bs=8,
        val_bs=4,
        valid_pct=0.3,
        cache=True,
        progress=False,
        device="cpu",
    )
    torch.manual_seed(0)
    metrics = [accuracy, RocAuc()]
    options = {"weights": None, "dropout": 0, "linear_probe": True, "mixed_precision": False}
    learn = med_learner(dls, "resnet18", metrics=metrics, **options)
    head = learn.fit_head(progress=False)
    with learn.no_bar(), learn.distrib_ctx():
        learn.fine_tune(2, 1e-3, blend=1.0, train_from=train_from)
    predictions = predict_loader(learn, dls.valid, "valid")
    weights = distributed.gathered(np.array([float(sum(p.double().sum() for p in learn.model.parameters()))]))
    return {
        "history": learn.history,
        "head": head.as_dict(),
        "probs": predictions.probs.tolist(),
        "paths": list(predictions.table["path"]),
        "losses": predictions.losses.tolist(),
        "weights": weights.tolist(),
        "epoch": learn.dls.train.epoch,
    }


def main(folder: str, out: str) -> None:
    warnings.simplefilter("ignore")
    with distributed.group("cpu"):
        facts = {"all": train(folder, None), "layer4": train(folder, "layer4")}
    if distributed.is_first():
        Path(out).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
