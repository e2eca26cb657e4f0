"""A training by unit: files by unit and by image, bundles that answer a unit the same, and nothing on two sides."""

from __future__ import annotations

import csv
import json
import os
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.auditing.decisions import DecisionPolicy
from medclf.config import TrainConfig
from medclf.errors import BundleError, DataError, ReadError
from medclf.learn.judge import judge
from medclf.learn.units import answer_by_unit, units_section
from medclf.metrics.units import UnitRule
from medclf.results.predictions import Predictions
from medclf.results.units import by_unit
from medclf.run.compare import compare
from medclf.run.evaluate import evaluate
from medclf.run.run import Run
from medclf.run.terminal import show_results
from medclf.run.train import train

ARCH = {"arch": "efficientnet_lite0", "size": 64, "saliency": 0, "labels": "labels.csv", "audit": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 patients of one to three images; those with a finding have it on some; one file is broken."""
    os.environ["MEDCLF_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    root, rng = tmp_path_factory.mktemp("units"), np.random.default_rng(0)
    rows = []
    for unit in range(36):
        for k in range(1 + unit % 3):
            pixels = rng.integers(40, 120, (48, 48))
            if unit % 2 and k % 2 == 0:
                pixels[8:32, 8:32] += 90
            name = f"{unit:02d}_{k}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / name)
            rows.append([name, ["normal", "polyp"][unit % 2], f"P{unit}"])
    (root / "35_1.png").write_bytes(b"broken")
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient"], *rows])
    return root


def _train(data: Path, out: Path, **more: object) -> Run:
    settings = {**ARCH, "unit": "patient", "valid_pct": 0.3, **more}
    return Run(train(str(data), lambda _: None, out=str(out), **settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["mean", "attention"])
def run(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.warns(UserWarning, match="cannot be used"):
        return _train(data, tmp_path_factory.mktemp("run") / "RUN", unit_answer=request.param)


def test_predictions_are_by_unit_and_images_beside(run: Run) -> None:
    units, images = run.predictions, run.by_image
    assert images is not None
    assert units.table["unit_id"].is_unique
    assert set(images.table["unit_id"]) == set(units.table["unit_id"])
    assert len(images) == units.table["n_images"].sum() > len(units)
    assert run.results["n"] == len(units)
    assert run.results["units"]["n_images"] == len(images)
    assert run.results["units"]["by_image"]["n"] == len(images)


def test_the_mean_is_that_of_the_images(run: Run) -> None:
    if run.results["units"]["answer"] != "mean":
        return
    images, units = run.by_image, run.predictions
    assert images is not None
    means = [images.probs[(images.table["unit_id"] == name).to_numpy(), 1].mean() for name in units.table["unit_id"]]
    order = np.argsort(means)
    assert (np.diff(units.probs[order, 1]) >= -1e-9).all()  # calibration keeps the order


def test_no_unit_stands_on_two_sides(run: Run) -> None:
    assert run.table.groupby("unit_id")["partition"].nunique().le(1).all()


def test_the_bundle_answers_a_unit_as_the_training_did(run: Run, data: Path) -> None:
    units, images = run.predictions, run.by_image
    assert images is not None
    for row in range(len(units)):
        names = images.table["path"][images.table["unit_id"] == units.table["unit_id"].iloc[row]]
        found = run.bundle.predict_unit([data / name for name in names])
        assert list(found.answer.probs.values()) == pytest.approx(units.probs[row], abs=1e-4)
        assert found.answer.label == units.preds[row]
        assert list(names)[found.decided_by] == units.table["path"].iloc[row]


def test_the_image_that_decided_speaks_for_what_the_threshold_decides(run: Run, data: Path) -> None:
    if run.results["units"]["answer"] != "mean":
        return
    bundle, names = run.bundle, ["02_0.png", "02_1.png", "02_2.png"]  # normal
    each = [bundle.predict(data / name).probs["polyp"] for name in names]
    for threshold, label, decides in ((0.999, "normal", int(np.argmin(each))), (0.001, "polyp", int(np.argmax(each)))):
        bundle.calibration["operating_point"] = {"label": "polyp", "threshold": threshold}
        found = bundle.predict_unit([data / name for name in names])
        assert (found.answer.label, found.decided_by) == (label, decides)


def test_conflicts_and_losses_of_any_partition_are_counted_in_the_section() -> None:
    table = pd.DataFrame(
        {
            "path": ["0", "1", "2", "3", "4"],
            "label": ["a", "b", "a", "a", "a"],
            "unit_id": ["u", "u", "v", "w", "4"],
            "problem": ["", "", "", "broken", "broken"],
        }
    )
    probs, y = np.array([[0.9, 0.1]]), np.array([0])
    own = table.iloc[[2]].drop(columns="label").reset_index(drop=True)
    reported = Predictions(["a", "b"], False, y, probs, np.zeros(1), own)
    rule = UnitRule("patient", "mean")
    found = units_section([by_unit(reported, rule)], rule, table)
    assert found["conflicts"] == {"n": 1, "some_paths": ["u"]}
    assert "1 patient has images of different labels and counts as unlabelled." in found["sentence"]
    assert "1 image of 1 patient could not be used. 1 image that names no patient could not" in found["sentence"]
    assert found["sentence"].endswith("1 patient has no usable image.")


@pytest.mark.parametrize("tuned", [True, False])
def test_balanced_decisions_hold_the_labels_against_their_share_of_the_training_patients(tuned: bool) -> None:
    """Of a network that was fine-tuned they were the shares of the patients to validate on."""
    units = ["a"] * 6 + ["b", "c", "d", "e", "f", "g"]
    table = pd.DataFrame(
        {"path": [f"{row}.png" for row in range(12)], "unit_id": units, "problem": "", "patient": units}
    )
    table["label"] = ["normal"] * 8 + ["polyp", "normal", "polyp", "polyp"]
    table["partition"] = ["train"] * 9 + ["valid"] * 3
    table.attrs["unit"] = "patient"
    rows = [table[table["partition"] == part].reset_index(drop=True) for part in ("valid", "train")]
    valid, training = (
        Predictions(
            ["normal", "polyp"],
            False,
            (own["label"] == "polyp").to_numpy(int),
            np.full((len(own), 2), 0.5),
            np.zeros(len(own)),
            own,
        )
        for own in rows
    )
    units_answered = answer_by_unit(table, [valid], training, None, asked="mean", attention=False)
    learn = SimpleNamespace(is_probe=not tuned)
    policy = DecisionPolicy(decide="balanced")
    found = judge(learn, [units_answered.parts[0].units], table, None, units_answered, policy, (), False)
    assert found.calibration.weights == pytest.approx({"normal": 4 / 3, "polyp": 4.0})


def test_what_is_said_counts_patients(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.dumps({name: run.results[name] for name in ("calibration", "abstain", "ood", "baseline", "decision")})
    assert "images" not in told.replace("frequencies", "")
    show_results(run.path)
    assert run.results["units"]["sentence"] in capsys.readouterr().out


def test_a_test_patient_with_an_image_of_a_label_not_learned_is_one_without_label(data: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(data / "labels.csv", dtype=str)
    number = rows["patient"].str[1:].astype(int)
    rows["partition"] = np.where(number < 20, "train", np.where(number < 30, "valid", "test"))
    rows.loc[rows["path"] == "32_1.png", "label"] = "ulcer"
    rows.to_csv(tmp_path / "labels.csv", index=False)
    more = {"labels": str(tmp_path / "labels.csv"), "unit_answer": "mean"}
    with warnings.catch_warnings(action="ignore"):
        run = _train(data, tmp_path / "RUN", **more)
    tested = run.predictions.table.query("partition == 'test'")
    assert tested["unit_id"].is_unique
    own = tested["path"].str.startswith("32")
    assert tested.loc[own, "n_images"].tolist() == [3]
    assert run.predictions.y[tested.index[own]].tolist() == [-1]
    assert run.results["units"]["conflicts"]["n"] == 1


def test_a_broken_image_of_a_unit_is_named_and_survived(run: Run, data: Path) -> None:
    found = run.bundle.predict_unit([data / "35_0.png", data / "35_1.png"])
    assert list(found.problems) == [1]
    assert found.contributions[1] is None
    with pytest.raises(ReadError, match="none of its 1 images"):
        run.bundle.predict_unit([data / "35_1.png"])
    assert run.results["units"]["unreadable"]["n_images"] == 1


def test_one_image_is_a_unit_of_its_own(run: Run, data: Path) -> None:
    alone, unit = run.bundle.predict(data / "01_0.png"), run.bundle.predict_unit([data / "01_0.png"])
    assert unit.answer.probs == pytest.approx(alone.probs, abs=1e-6)


def test_candidates_are_scored_on_training_units(run: Run) -> None:
    section = run.results["units"]
    assert {"mean", "max", "noisy-or"} <= set(section["candidates"])
    assert all(0 < row["log_loss"] < 2 for row in section["candidates"].values())


def test_an_evaluation_is_by_unit_and_answers_as_the_bundle_does(run: Run, data: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cannot be used"):
        found = evaluate(run.path, data, tmp_path / "again", labels="labels.csv", saliency=0)
    assert found.results["n"] == 36
    again = found.predictions
    place = {path: row for row, path in enumerate(again.table["path"])}  # pseudonyms differ: each test has its own key
    rows = [place[path] for path in run.predictions.table["path"]]
    assert again.probs[rows] == pytest.approx(run.predictions.probs, abs=1e-4)
    shutil.copytree(run.path, tmp_path / "copy")
    same = compare(run.path, tmp_path / "copy")
    assert same.n == len(run.predictions)
    assert same.better is None


def test_runs_by_image_and_by_unit_are_not_compared(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "RUN"
    shutil.copytree(run.path, other)
    shutil.copy(other / "images.csv", other / "predictions.csv")
    results = json.loads((other / "results.json").read_text()) | {"n": len(pd.read_csv(other / "images.csv"))}
    del results["confusion_matrix"]  # which is that of the units
    (other / "results.json").write_text(json.dumps(results))
    with pytest.raises(DataError, match="one answer for several images"):
        compare(run.path, other)


def test_the_page_shows_units_with_the_images_that_decided(run: Run) -> None:
    rows = run.results["units"]["rows"]
    assert all(row["images"][0]["contribution"] >= row["images"][-1]["contribution"] for row in rows)
    page = (run / "report.html").read_text()
    assert "The images that decided" in page
    assert rows[0]["images"][0]["path"] in page
    assert "validation patients" in page


def test_a_bundle_without_units_refuses_to_answer_one(run: Run, data: Path) -> None:
    bundle = Run(run.path).bundle
    bundle.unit_rule = None
    with pytest.raises(BundleError, match="each image alone"):
        bundle.predict_unit([data / "01_0.png"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unit": "patient", "split": "random"}, "may part the images"),
        ({"unit_answer": "max"}, "needs units"),
        ({"unit": "patient", "unit_answer": "attention", "epochs": 3}, "frozen encoder"),
        ({"unit": "patient", "unit_answer": "attention", "split": "kfold"}, "frozen encoder"),
    ],
)
def test_what_units_cannot_do_is_refused_before_anything_heavy(settings: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        TrainConfig("images", "RUN", **settings)  # type: ignore[arg-type]
