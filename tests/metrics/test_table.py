"""The table of metrics: one more row is a metric everywhere."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medclf.metrics.comparison import compare_predictions
from medclf.metrics.intervals import as_plain
from medclf.metrics.table import METRICS, Counts, Metric, class_metrics, overall_metrics
from medclf.metrics.weighted import read_task
from medclf.reporting.comparison_page import render_comparison
from medclf.reporting.formatting import headlines
from medclf.reporting.view import per_class
from medclf.results.predictions import Predictions
from medclf.results.results import by_fold, summarize
from medclf.run.terminal import show_results

VOCAB = ["normal", "polyp"]
Y = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
POLYP = np.array([0.1, 0.2, 0.3, 0.9, 0.9, 0.8, 0.7, 0.6, 0.2, 0.1])  # 1 of 4 normals and 2 of 6 polyps are wrong


def informedness(counts: Counts) -> np.ndarray:
    """Youden's J: sensitivity + specificity - 1; Youden 1950."""
    return counts.sensitivity + counts.specificity - 1


@pytest.fixture
def added(monkeypatch):
    meaning = "how much better than guessing"
    row = Metric("informedness", "Informedness", meaning, informedness, informedness, span=(-1.0, 1.0))
    monkeypatch.setitem(METRICS, row.key, row)


def predictions(polyp):
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "partition": "valid", "fold": np.arange(10) % 2})
    return Predictions(VOCAB, False, Y, np.stack([1 - polyp, polyp], axis=1), np.zeros(10), table)


def test_an_added_metric_is_in_results_terminal_page_and_comparison(added, tmp_path, capsys):
    j = 4 / 6 + 3 / 4 - 1
    facts = summarize(predictions(POLYP), n_boot=200)
    assert facts["informedness"]["value"] == pytest.approx(j)
    assert -1 < facts["informedness"]["low"] < j < facts["informedness"]["high"] < 1
    assert facts["per_class"]["polyp"]["informedness"]["value"] == pytest.approx(j)

    (tmp_path / "results.json").write_text(json.dumps(facts))
    show_results(tmp_path)
    shown = capsys.readouterr().out
    (head,) = (line.split() for line in shown.splitlines() if line.split()[:1] == ["label"])
    assert f"  informedness: {j:.3f} (" in shown and head[-1] == "informedness"

    (headline,) = (item for item in headlines(facts) if item["key"] == "informedness")
    assert (headline["name"], headline["value"]) == ("Informedness", f"{j:.3f}")
    assert "Informedness" in per_class(facts)["columns"]

    rows, spread = by_fold(predictions(POLYP))
    assert len(rows) == 2 and "informedness" in spread

    perfect = predictions(Y.astype(float))
    found = compare_predictions(Y, predictions(POLYP).probs, perfect.probs, VOCAB, n_boot=200)
    assert found["informedness"].value == pytest.approx(1 - j)
    table = pd.DataFrame({"path": [], "label": [], "pred_a": [], "pred_b": [], "prob_a": [], "prob_b": []})
    page = render_comparison(as_plain(found), table, tmp_path / "page.html")
    assert f"{1 - j:+.3f}" in page.read_text() and "Informedness" in page.read_text()


def test_without_the_row_it_is_nowhere():
    assert "informedness" not in summarize(predictions(POLYP), n_boot=2)


def test_every_row_says_what_it_is():
    for key, metric in METRICS.items():
        assert key == metric.key and metric.title and metric.meaning and (metric.overall or metric.per_class)
    assert {metric.key for metric in overall_metrics() if not metric.compared} == {"brier", "ece", "grade_error"}


def test_the_docs_explain_every_metric():
    text = (Path(__file__).parents[2] / "docs" / "numbers.md").read_text()
    explained = {line.split("|")[1].strip() for line in text.splitlines() if line.count("|") == 5}
    assert {metric.key.replace("_", " ") for metric in METRICS.values()} <= explained


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_counts_by_hand(weight):
    counts = Counts(read_task(Y, predictions(POLYP).probs, VOCAB), np.full((2, 10), weight))
    for name, wanted in {
        "actual": (4, 6),
        "called": (5, 5),
        "both": (3, 4),
        "neither": (4, 3),
        "total": (10, 10),
    }.items():
        assert getattr(counts, name).tolist() == [[weight * n for n in wanted]] * 2


def test_what_a_class_metric_counts():
    task = read_task(Y, predictions(POLYP).probs, VOCAB)
    n = {metric.key: int(metric.counted(task, 1).sum()) for metric in class_metrics()}
    assert n == {"sensitivity": 6, "specificity": 4, "ppv": 5, "npv": 5, "auroc": 10, "auprc": 10, "f1": 10}
