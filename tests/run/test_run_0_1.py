"""A RUN folder of medclf 0.1 opens, and gives the numbers that 0.1 wrote."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medclf.errors import DataError
from medclf.run.compare import compare
from medclf.run.evaluate import evaluate
from medclf.run.predict import predict
from medclf.run.run import Run
from medclf.run.train import resume

WRITTEN = Path(__file__).parents[1] / "fixtures" / "run_0_1"
METRICS = "n vocab auroc auprc brier ece".split()
TEST = WRITTEN / "evaluations" / "test"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A copy whose run.json names the folder that its images lie in here."""
    folder = tmp_path / "RUN"
    shutil.copytree(WRITTEN, folder)
    for file in (folder / "run.json", folder / "evaluations" / "test" / "run.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"root": str(folder / record["root"])}))
    return Run(folder)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def json_of(file: Path) -> dict:
    return json.loads(file.read_text())


def test_what_0_1_wrote_is_read(run):
    assert run.results["schema"] == 1 and run.results["accuracy"] == json_of(WRITTEN / "results.json")["accuracy"]
    rows = rows_of(WRITTEN / "predictions.csv")
    assert list(run.predictions.table["path"]) == [row["path"] for row in rows]
    assert list(run.predictions.labels) == [row["label"] for row in rows]  # one label is called NA
    np.testing.assert_allclose(run.predictions.probs[:, 1], [float(row["prob_polyp"]) for row in rows], rtol=1e-12)
    assert len(run.table) == len(rows_of(WRITTEN / "table.csv")) and set(run.table["label"]) == {"NA", "polyp"}
    assert run.neighbours["NA/NA-00.png"][0] == "NA/NA-99.png"
    assert list(run.findings["kind"]) == ["same-file", "twin-across-split"]
    assert [evaluation.path.name for evaluation in run.evaluations] == ["test"]


def test_what_0_1_called_otherwise_has_the_names_of_today(run):
    assert run.settings["linear_probe"] is True and "head_start" not in run.settings
    told = json_of(WRITTEN / "results.json")["training"]
    assert run.results["training"]["linear_probe"] == told["head_start"]


def test_its_bundle_predicts_what_0_1_predicted():
    rows = rows_of(TEST / "predictions.csv")
    answers = predict(WRITTEN, [WRITTEN / "other" / row["path"] for row in rows])
    probs = [float(row["prob_polyp"]) for row in rows]
    np.testing.assert_allclose([answer.probs["polyp"] for answer in answers], probs, atol=1e-5)
    threshold = json_of(WRITTEN / "results.json")["operating_point"]["threshold"]
    assert [answer.label == "polyp" for answer in answers] == [p >= threshold for p in probs]


@pytest.mark.filterwarnings("ignore:the report does not show where the model looked")
def test_an_evaluation_has_the_numbers_of_0_1(run):
    again = evaluate(run, run / "other", run.path.parent / "again")
    then = json_of(TEST / "results.json")
    for name in METRICS:
        assert same(again.results[name], then[name]), name
    counts = then["operating_point"]["table"]
    assert again.results["operating_point"]["table"] == counts
    answers = [[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]]
    assert again.results["confusion_matrix"] == answers  # what its bundle answers, not the most probable label
    assert again.hide_names


def same(now: object, then: object) -> bool:
    """Whether two values of a JSON file are equal, numbers to six digits."""
    if isinstance(now, dict) and isinstance(then, dict):
        return now.keys() == then.keys() and all(same(now[key], then[key]) for key in now)
    if isinstance(now, list) and isinstance(then, list):
        return len(now) == len(then) and all(map(same, now, then))
    return now == (pytest.approx(then, abs=1e-6) if isinstance(then, float) else then)


def test_its_page_is_written_again_without_names(run):
    for folder in (run, run.evaluations[0]):  # run.json of an evaluation by 0.1 does not say that names are hidden
        assert "-00.png" not in folder.report().read_text(encoding="utf-8")
    assert "NA-00.png" in run.report(hide_names=False).read_text(encoding="utf-8")


def test_it_compares(run):
    found = compare(run, run)
    assert found.n == 21 and found.metrics["accuracy"].value == 0 and found.better is None


def test_one_that_was_not_finished_is_refused_by_name(run):
    run.write_record({name: value for name, value in json_of(run / "run.json").items() if name != "finished"})
    with pytest.raises(DataError, match=r"was begun by medclf 0\.1\.0; this version cannot go on with it"):
        resume(run)
