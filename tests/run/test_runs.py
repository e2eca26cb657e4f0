"""The list of runs: each is found, described and compared with the best on the images that both predicted."""

import json

import numpy as np
import pandas as pd
import pytest

from medclf.errors import DataError, in_shell
from medclf.files import finite
from medclf.metrics.intervals import as_plain
from medclf.results.predictions import Predictions
from medclf.results.results import summarize
from medclf.run.runs import cautions, differences, list_runs
from medclf.run.terminal import show_runs

VOCAB = ["normal", "polyp"]


def make_run(folder, n_wrong, n=40, data="kvasir", prefix="", finished="2026-01-31T10:00:00+00:00", **settings):
    """A RUN with `n` images, of which the first `n_wrong` are wrong."""
    folder.mkdir(parents=True)
    y = np.arange(n) % 2
    probs = np.where((y[:, None] == np.arange(2)) ^ (np.arange(n) < n_wrong)[:, None], 0.9, 0.1)
    table = pd.DataFrame({"path": [f"{prefix}{i}.png" for i in range(n)], "partition": "valid"})
    found = Predictions(VOCAB, False, y, probs, np.zeros(n), table)
    found.save(folder / "predictions.csv")
    facts = summarize(found, n_boot=2)
    (folder / "results.json").write_text(json.dumps(finite(as_plain(facts))))
    record = {"settings": {"data": f"/images/{data}", "arch": "resnet34", **settings}, "finished": finished}
    (folder / "run.json").write_text(json.dumps({key: value for key, value in record.items() if value}))


def test_the_best_comes_first_and_the_others_are_paired_with_it(tmp_path):
    make_run(tmp_path / "kvasir-1", 8)
    make_run(tmp_path / "kvasir-2", 2)
    make_run(tmp_path / "deeper" / "hello-1", 4, data="hello", prefix="h", hide_names=True)
    rows = list_runs(tmp_path)
    assert [row.name for row in rows] == ["kvasir-2", "deeper/hello-1", "kvasir-1"]
    assert [row.data for row in rows] == ["kvasir", "(hidden)", "kvasir"]
    assert rows[0].date == "2026-01-31" and rows[0].n == 40 and rows[0].score.startswith("95 % (")
    last = rows[2].to_best
    assert last is not None and last.value == pytest.approx(-6 / 40) and last.low < -6 / 40 < last.high < 0
    assert rows[2].best == "kvasir-2" and rows[0].to_best is rows[1].to_best is None  # the other images stand alone
    (line,) = differences(rows)
    assert line.startswith("kvasir-1 to kvasir-2: -15.0 points (") and "no clear difference" not in line
    assert any("optimistic" in line for line in cautions(rows))


def test_the_score_without_leaks_ranks_where_there_is_one(tmp_path):
    for name, n_wrong, without in (("seen", 0, 0.5), ("clean", 4, None), ("all-leaks", 8, None)):
        make_run(tmp_path / name, n_wrong)
        facts = json.loads((tmp_path / name / "results.json").read_text())
        score = {"value": without, "low": 0.2, "high": 0.8, "n": 10}
        numbers = {"all": facts["accuracy"], "without leaks": {"n": 10, "accuracy": score}} if without else {}
        facts["leak_free"] = {"n": 40, "n_leaking": 30, "numbers": numbers} if name != "clean" else {}
        (tmp_path / name / "results.json").write_text(json.dumps(facts))
    rows = list_runs(tmp_path)
    assert [row.name for row in rows] == ["clean", "all-leaks", "seen"]
    assert rows[2].leak_free == "50 % (20 to 80 %), n = 10" and rows[2].to_best is not None
    assert any("ranked by the score without leaked images" in line for line in cautions(rows))


def test_what_is_no_finished_run_is_said_or_left_out(tmp_path, capsys):
    make_run(tmp_path / "A", 1)
    make_run(tmp_path / "begun", 1, finished="")
    (tmp_path / "A" / "evaluations" / "other").mkdir(parents=True)
    (tmp_path / "A" / "evaluations" / "other" / "run.json").write_text('{"root": "x"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "run.json").write_text('{"task": "boxes", "settings": {"data": "x", "arch": "y"}}')
    rows = list_runs(tmp_path)
    assert [row.name for row in rows] == ["A", "begun", "broken", "detector"]
    assert rows[1].problem == "not finished" and "broken" in rows[2].problem and "boxes" in rows[3].problem
    show_runs(rows)
    out = capsys.readouterr().out
    assert "not finished" in out and "\x1b" not in out and "\r" not in out and " \n" not in out
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["A"]]
    assert "kvasir" in line and "resnet34" in line and "98 % (" in line


def test_an_empty_folder_says_how_to_make_a_run(tmp_path):
    with in_shell():
        assert "medclf train DATA" in "".join(cautions(list_runs(tmp_path)))
    with pytest.raises(DataError, match="does not exist"):
        list_runs(tmp_path / "none")


def test_that_labels_are_chosen_for_different_prevalences_is_said(tmp_path):
    for name in ("a", "b"):
        make_run(tmp_path / name, 2)
    assert not any("prevalences" in line for line in cautions(list_runs(tmp_path)))
    facts = json.loads((tmp_path / "b" / "results.json").read_text())
    facts["calibration"] = {"prevalence": {"label": "polyp", "fitted": 0.5, "prevalence": 0.02}}
    (tmp_path / "b" / "results.json").write_text(json.dumps(facts))
    last = list(cautions(list_runs(tmp_path)))[-1]
    assert last == "Labels are chosen for different prevalences: 2 % of polyp, as trained."
