from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest


def metric(value: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - 0.08), "high": min(1.0, value + 0.04), "n": n}


@dataclass
class MadeUp:
    """Predictions drawn at random, with the facts that follow from them."""

    facts: dict[str, Any]
    rows: pd.DataFrame
    vocab: list[str]

    @property
    def valid(self) -> pd.DataFrame:
        return self.rows[self.rows["partition"] == "valid"]

    @staticmethod
    def read(row: Any) -> np.ndarray:
        """A picture of its own for each path."""
        rng = np.random.default_rng(abs(hash(str(row["path"]))) % 2**32)
        return rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)


def make_up(
    n: int = 120,
    vocab: Sequence[str] = ("normal", "polyp", "ulcer"),
    seed: int = 0,
    *,
    labels: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    skill: float = 1.6,
) -> MadeUp:
    """Draw predictions for `n` images of drawn labels, or for the labels and paths given."""
    rng = np.random.default_rng(seed)
    names = list(vocab) if labels is None else sorted(set(labels))
    y = rng.integers(0, len(names), n) if labels is None else np.array([names.index(label) for label in labels])
    n, k = len(y), len(names)
    if paths is None:
        paths = [f"{names[c] if names[c].isalnum() else 'x'}/image {i:05}.png" for i, c in enumerate(y)]
    logits = rng.normal(size=(n, k)) * 1.3
    logits[np.arange(n), y] += skill
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    pred = probs.argmax(1)
    rows = pd.DataFrame(
        {
            "path": paths,
            "partition": np.where(rng.random(n) < 0.6, "valid", "train"),
            "patient": [f"p{i // 3}" for i in range(n)],
            "label": [names[c] for c in y],
            "pred": [names[c] for c in pred],
            "loss": -np.log(probs[np.arange(n), y]),
            **{f"prob_{name}": probs[:, c] for c, name in enumerate(names)},
            "sex": rng.choice(["f", "m"], n),
            "age": rng.integers(20, 90, n),
        }
    )
    shown = (rows["partition"] == "valid").to_numpy()
    matrix = np.zeros((k, k), int)
    np.add.at(matrix, (y[shown], pred[shown]), 1)
    pairs = [[names[i], names[j], int(matrix[i, j])] for i, j in np.ndindex(k, k) if i != j and matrix[i, j]]
    facts = {
        "schema": 1,
        "task": "single-label",
        "partition": "valid",
        "n": int(shown.sum()),
        "n_patients": None,
        "vocab": names,
        "accuracy": metric(float(np.trace(matrix) / matrix.sum()), int(shown.sum())),
        "balanced_accuracy": metric(0.7125, int(shown.sum())),
        "auroc": metric(0.8375, int(shown.sum())),
        "mcc": metric(0.5625, int(shown.sum())),
        "per_class": {
            name: {"n": int(matrix[c].sum()), "sensitivity": metric(0.6875, 9), "auroc": metric(0.8125, 9)}
            for c, name in enumerate(names)
        },
        "confusion_matrix": matrix.tolist(),
        "most_confused": sorted(pairs, key=lambda pair: -pair[2]),
        "roc": {name: {"fpr": [0.0, 0.2, 1.0], "tpr": [0.0, 0.9, 1.0]} for name in names},
        "training": {
            "history": [
                {"epoch": e, "train_loss": 1.0 / (e + 1), "valid_loss": 1.1 / (e + 1), "accuracy": 0.6 + 0.1 * e}
                for e in range(3)
            ],
            "head_start": {"accuracy": metric(0.65625, 70)},
        },
        "data": {
            "n_images": n + 1,
            "counts": {
                p: {name: int(((rows["partition"] == p) & (rows["label"] == name)).sum()) for name in names}
                for p in ("train", "valid")
            },
            "problems": [{"path": "ulcer/cut off.jpg", "problem": "the file is truncated"}],
            "split": {"kind": "patient", "seed": 42, "sentence": "No patient is on both sides of the split."},
        },
        "settings": {"arch": "efficientnet_lite0", "lr": 0.0021, "data": "/home/someone/scopes", "epochs": 3},
        "versions": {"torch": "2.14.1"},
    }
    return MadeUp(facts, rows, names)


def make_up_many_labels(n: int = 90, vocab: Sequence[str] = ("edema", "mass", "nodule"), seed: int = 1) -> MadeUp:
    rng = np.random.default_rng(seed)
    names = list(vocab)
    y = rng.random((n, len(names))) < 0.35
    probs = np.clip(0.3 + 0.3 * y + rng.normal(size=y.shape) * 0.2, 0.001, 0.999)
    said = probs >= 0.5
    join = lambda row: "|".join(name for name, yes in zip(names, row, strict=True) if yes)  # noqa: E731
    rows = pd.DataFrame(
        {
            "path": [f"{i:04}.png" for i in range(n)],
            "partition": "valid",
            "label": [join(row) for row in y],
            "pred": [join(row) for row in said],
            "loss": -np.log(np.where(y, probs, 1 - probs)).mean(1),
            **{f"prob_{name}": probs[:, c] for c, name in enumerate(names)},
        }
    )
    matrices = {
        name: [[int(((y[:, c] == a) & (said[:, c] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
        for c, name in enumerate(names)
    }
    pairs = [[name, "missed", matrices[name][1][0]] for name in names]
    facts = {
        "task": "multi-label",
        "partition": "valid",
        "n": n,
        "n_patients": 31,
        "vocab": names,
        "auroc": metric(0.8125, n),
        "confusion_matrix": matrices,
        "most_confused": pairs,
    }
    return MadeUp(facts, rows, names)


@pytest.fixture
def made_up() -> MadeUp:
    return make_up()


@pytest.fixture
def many_labels() -> MadeUp:
    return make_up_many_labels()


@pytest.fixture(scope="session")
def factory() -> Any:
    return make_up
