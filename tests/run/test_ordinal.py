"""Labels with an order, from the option to the page, the bundle and an evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from medclf.errors import DataError
from medclf.inference.bundle import load_bundle
from medclf.reporting.view import matrix_rows
from medclf.results.results import near_misses
from medclf.run.compare import _paired, compare
from medclf.run.evaluate import evaluate
from medclf.run.run import Run
from medclf.run.terminal import show_results
from medclf.run.train import train

pytestmark = pytest.mark.slow

GRADES = ["low", "mid", "high"]  # by name alone: high, low, mid


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graded")
    rng = np.random.default_rng(0)
    for grade, label in enumerate(GRADES):
        (folder / label).mkdir()
        for index in range(16):
            pixels = np.clip(rng.normal(90 + 25 * grade, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "RUN"
    settings = {"arch": "efficientnet_lite0", "size": 32, "epochs": 0, "saliency": 0, "audit": False}
    settings |= {"ordinal": "low,mid,high", "split": "stratified", "valid_pct": 0.5}
    return train(data, out=out, say=lambda _: None, **settings)


def test_results_and_page_have_the_order(run, capsys):
    facts = json.loads((run / "results.json").read_text())
    assert facts["vocab"] == facts["ordinal"]["order"] == GRADES
    matrix = np.array(facts["confusion_matrix"])
    i, j = (np.repeat(one.ravel(), matrix.ravel()) for one in np.indices(matrix.shape))
    assert facts["quadratic_kappa"]["value"] == pytest.approx(cohen_kappa_score(i, j, weights="quadratic"))
    assert facts["grade_error"]["value"] == pytest.approx(np.abs(i - j).mean())
    assert facts["ordinal"]["off_by"]["1"] == (np.abs(i - j) == 1).sum()
    page = (run / "report.html").read_text()
    assert "Near misses" in page and "one grade off" in page
    show_results(run)
    shown = capsys.readouterr().out
    assert "quadratic kappa: " in shown and "mean absolute error: " in shown and facts["ordinal"]["sentence"] in shown


def test_bundle_evaluation_and_comparison_keep_it(run, data, tmp_path):
    assert load_bundle(run / "bundle").spec.ordinal
    other = evaluate(run, data, tmp_path / "other", saliency=0)
    assert other.results["vocab"] == GRADES and "quadratic_kappa" in other.results
    assert compare(run, run, n_boot=50).metrics["quadratic_kappa"].value == 0


def test_runs_of_another_order_are_told_so(run):
    ordered = Run(run).predictions
    with pytest.raises(DataError, match="labels in another order"):
        _paired(ordered, replace(ordered, vocab=sorted(GRADES)), "A", "B")


def test_an_order_that_misses_a_label_is_refused_before_training(data, tmp_path):
    with pytest.raises(DataError, match="'mid'"):
        train(data, out=tmp_path / "RUN", say=lambda _: None, ordinal="low,high", arch="efficientnet_lite0")


def test_near_misses_are_told_from_other_errors():
    matrix = [[5, 2, 1], [0, 4, 0], [0, 1, 3]]
    assert near_misses(matrix, GRADES)["off_by"] == {"0": 12, "1": 3, "2": 1}
    rows = matrix_rows({"vocab": GRADES, "confusion_matrix": matrix, "ordinal": {"order": GRADES}})
    assert [cell["css"][:4] for cell in rows[0]["cells"]] == ["good", "near", "bad1"]
    both_ways = near_misses([[5, 1, 2], [0, 4, 0], [1, 0, 3]], GRADES)["sentence"]
    low, _, high = GRADES
    cells = f"{low} predicted as {high}: 2, {high} predicted as {low}: 1"
    assert both_ways == f"1 of the 4 errors is one grade off; the furthest are 2 grades off ({cells})."
    assert near_misses([[3, 0], [0, 2]], ["0", "1"])["sentence"] == "No image is predicted as a wrong grade."
