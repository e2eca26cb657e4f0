"""What a run says of its numbers: audit, both numbers, calibration, limits, and the bundle that carries them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.config import TrainConfig
from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError, MedclfError, OutputError
from medclf.inference.bundle import load_bundle
from medclf.run.evaluate import evaluate
from medclf.run.run import Run
from medclf.run.train import train

pytestmark = pytest.mark.slow

SMALL = {"arch": "efficientnet_lite0", "size": 64, "saliency": 0}


def quiet(line):
    pass


def results(run):
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of 20 drawn images, six of each there twice under another name."""
    room = tmp_path_factory.mktemp("worth")
    drawn = draw_endoscopy(room / "all", n_per_class=20, size=(96, 96))
    for label in ("dyed", "normal"):
        (room / "data").mkdir(exist_ok=True)
        shutil.copytree(drawn / label, room / "data" / label)
        for path in sorted((room / "data" / label).glob("*.jpg"))[:6]:
            Image.open(path).save(path.with_suffix(".png"))
    return room / "data"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    import os

    folder = tmp_path_factory.mktemp("run")
    os.environ["MEDCLF_CACHE"] = str(folder / "cache")
    config = TrainConfig(
        str(data), str(folder / "RUN"), split="random", epochs=0, test=str(data), operating_point="youden", **SMALL
    )
    return train(config, quiet)


def test_both_numbers_where_twins_leak(run):
    facts, table = results(run), pd.read_csv(run / "table.csv")
    stem = table["path"].str.rpartition(".")[0]
    part = dict(zip(table["path"], table["partition"], strict=True))
    twin_of = {
        path: [p for p in table["path"][stem == s] if p != path] for path, s in zip(table["path"], stem, strict=True)
    }
    leaking = [p for p in table["path"] if part[p] == "valid" and any(part[t] == "train" for t in twin_of[p])]
    assert leaking and facts["audit"]["leaks"]["valid"]["with_twin_in_train"] == len(leaking)
    everything, left = facts["leak_free"]["numbers"].values()
    assert (everything["n"], left["n"]) == (facts["n"], facts["n"] - len(leaking))
    found = pd.read_csv(run / "audit.csv")
    assert (found["kind"] == "same-pixels").sum() == 12
    assert "near-duplicates of training images" in (run / "report.html").read_text()
    assert table["group"].notna().sum() == 24


def test_the_bundle_gives_the_calibrated_probabilities_of_the_report(run, data):
    bundle, facts = load_bundle(run / "bundle"), results(run)
    assert json.loads((run / "run.json").read_text())["bundle_hash"] == bundle.hash
    assert bundle.calibration["temperature"]["n"] == facts["data"]["images"]["train"]
    rows = pd.read_csv(run / "predictions.csv")
    said = bundle.predict([data / path for path in rows["path"]])
    probs = np.array([list(one.probs.values()) for one in said])
    assert np.abs(probs - rows[["prob_dyed", "prob_normal"]].to_numpy()).max() < 1e-4
    assert [("unsure" in one.flags) for one in said] == rows["flags"].fillna("").str.contains("unsure").tolist()
    assert bundle.calibration["operating_point"]["label"] == facts["operating_point"]["label"] == "dyed"


def test_a_photograph_of_something_else_is_flagged(run):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    assert "not like the training images" in load_bundle(run / "bundle").predict(noise).flags


def test_an_external_set_has_its_page_and_says_what_was_trained_on(run):
    facts = results(run)
    page = run / facts["external"][0]["page"]
    assert page.is_file() and facts["external"][0]["n"] == 52
    assert facts["external"][0]["page"] in (run / "report.html").read_text()
    there = json.loads((page.parent / "results.json").read_text())
    assert there["leak_free"]["n_leaking"] == facts["data"]["images"]["train"]
    assert {"calibration", "abstain", "ood", "operating_point"} <= set(there)
    assert there["operating_point"]["threshold"] == pytest.approx(facts["operating_point"]["threshold"])


def test_grouped_needs_no_patients_and_keeps_twins_together(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    run = train(TrainConfig(str(data), str(tmp_path / "RUN"), split="grouped", epochs=0, **SMALL), quiet)
    table, facts = pd.read_csv(run / "table.csv"), results(run)
    assert table["group"].nunique() == 12
    assert (table.dropna(subset="group").groupby("group")["partition"].nunique() == 1).all()
    assert facts["audit"]["leaks"]["valid"]["with_twin_in_train"] == 0 and "leak_free" not in facts
    assert "12 groups of near-duplicates were found; none of them is in" in facts["data"]["split"]["sentence"]


def test_folds_keep_twins_together_and_are_told_apart(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    run = train(TrainConfig(str(data), str(tmp_path / "RUN"), split="kfold", folds=3, epochs=0, **SMALL), quiet)
    rows, facts = pd.read_csv(run / "predictions.csv"), results(run)
    assert len(rows) == 52 and (rows.dropna(subset="group").groupby("group")["fold"].nunique() == 1).all()
    assert [row["fold"] for row in facts["folds"]] == [1, 2, 3] and "deviation" in facts["fold_spread"]["accuracy"]
    assert facts["calibration"]["n_fitted_on"] == 52 and "five parts" in facts["calibration"]["sentence"]
    assert load_bundle(run / "bundle").calibration["ood"]["n"] == 52


def test_without_an_audit(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    run = train(TrainConfig(str(data), str(tmp_path / "RUN"), split="random", epochs=0, audit=False, **SMALL), quiet)
    assert "audit" not in results(run) and not (run / "audit.csv").exists()
    alone = shutil.copytree(run / "bundle", tmp_path / "alone")
    with pytest.raises(OutputError, match="alone is a bundle, and an evaluation is not written into it"):
        evaluate(alone, data)
    other = evaluate(alone, data, tmp_path / "out")  # nothing is known of its training images
    assert "leak_free" not in results(other) and len(list(alone.iterdir())) == 2
    inside = evaluate(run / "bundle", data)  # of a RUN it is
    assert inside.path.parent == run / "evaluations" and results(inside)["leak_free"]["n_leaking"] == 42


def test_settings_are_given_as_keywords_or_whole(data, tmp_path):
    for given in ({"out": tmp_path / "RUN"}, {"out": str(tmp_path / "RUN"), "epochs": 0}):
        with pytest.raises(DataError, match="positive"):
            train(data, quiet, positive="cancer", **SMALL, **given)
    with pytest.raises(DataError, match="positive"):
        train(TrainConfig(str(data), str(tmp_path / "RUN"), **SMALL), quiet, positive="cancer")


def test_arguments_of_other_libraries_are_named(data, tmp_path):
    with pytest.raises(MedclfError, match="train has no argument 'batch_size'\ndid you mean 'bs'"):
        train(data, quiet, out=tmp_path / "RUN", batch_size=8)
    with pytest.raises(MedclfError, match="did you mean 'valid_pct'"):
        train(TrainConfig(str(data), str(tmp_path / "RUN")), quiet, valid_pc=0.3)
    with pytest.raises(DataError, match="given by name: out="):
        train(data, "RUN")


def test_a_wish_that_cannot_be_is_said_before_the_training(data, tmp_path):
    for wrong in ({"operating_point": "best"}, {"positive": "cancer"}, {"prevalence": 2.0}):
        with pytest.raises(DataError):
            train(TrainConfig(str(data), str(tmp_path / "RUN"), epochs=0, **SMALL, **wrong), quiet)
        assert not (tmp_path / "RUN").exists()


def test_what_cannot_be_trained_is_refused_and_what_stands_in_for_the_probe_is_said(data, tmp_path):
    plain = {**SMALL, "size": 32, "weights": None, "epochs": 0, "audit": False}
    with pytest.raises(DataError, match="one image is too few to train on"):
        train(TrainConfig(str(data), str(tmp_path / "few"), limit=3, valid_pct=0.5, **plain), quiet)
    with pytest.raises(DataError, match="views=2 is for the linear probe, and weights=None leaves none"):
        train(TrainConfig(str(data), str(tmp_path / "views"), views=2, modality="endoscopy", **plain), quiet)
    said = []
    train(TrainConfig(str(data), str(tmp_path / "RUN"), limit=12, **plain), said.append)
    assert any("no linear probe" in line and "not pretrained" in line for line in said)


def test_a_prevalence_holds_in_the_run_and_in_what_is_evaluated_with_it(data, tmp_path):
    given = {**SMALL, "epochs": 0, "audit": False, "split": "random"}
    run = Run(train(data, quiet, out=tmp_path / "RUN", prevalence=0.02, **given))
    other = Run(evaluate(run.path, data, tmp_path / "other"))
    shift = run.predictions.shift
    assert shift == other.predictions.shift and (shift.label, shift.prevalence) == ("dyed", 0.02)
    for results in (run.results, other.results):
        assert "stand for a prevalence of 2 % of dyed" in results["calibration"]["sentence"]
    own, again = (one.predictions.to_frame().set_index("path")["prob_dyed"] for one in (run, other))
    assert again[own.index].to_numpy() == pytest.approx(own.to_numpy(), abs=1e-4)
    assert run.out_of_fold.shift == shift
