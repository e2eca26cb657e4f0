from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


class Watched:
    """A page, with everything that it complained of or asked the network for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)  # a busy machine is slow, not wrong
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else self.requests.append(r.url))
        self.page.goto(path.as_uri())

    def settle(self) -> None:
        """Wait until the page has drawn what was asked."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, condition: str) -> None:
        """Wait for a condition in JavaScript; playwright waits by `eval`, which the page's CSP forbids."""
        ends = time.monotonic() + 60
        while not self.page.evaluate(condition):
            assert time.monotonic() < ends, condition
            self.page.wait_for_timeout(50)

    def names(self) -> list[str]:
        return self.page.eval_on_selector_all("#gallery .name", "nodes => nodes.map(n => n.title)")

    def matrix(self) -> list[int]:
        texts = self.page.eval_on_selector_all("#matrix button b", "nodes => nodes.map(n => n.textContent)")
        return [int(text.replace("\u202f", "")) for text in texts]

    def number(self, name: str) -> list[str]:
        rows = self.page.eval_on_selector_all(
            "#numbers tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
        )
        return next(row[1:] for row in rows if row[0] == name)

    def keep(self, name: str) -> None:
        """A screenshot for CI's output, where CI asks for some."""
        if os.environ.get("MEDCLF_CI_OUTPUT"):
            self.page.wait_for_timeout(600)  # pictures are decoded when they are shown
            self.page.screenshot(path=Path(os.environ["MEDCLF_CI_OUTPUT"]) / f"report-{name}.png")

    def is_clean(self) -> None:
        assert self.complaints == []
        assert len(self.requests) == 1 and self.requests[0].startswith("file://")  # the page itself


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Watched]]:
    """Open a page from disk, as an analyst does; options are those of a browser context."""
    pages: list[Watched] = []

    def open_page(path: Path, **options: Any) -> Watched:
        pages.append(Watched(browser, path, **options))
        return pages[-1]

    yield open_page
    for page in pages:
        page.context.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs axe-core: pip install axe-playwright-python")
    return (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


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
            "linear_probe": {"accuracy": metric(0.65625, 70)},
        },
        "data": {
            "n_images": n,
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
