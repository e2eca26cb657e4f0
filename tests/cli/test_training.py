"""What `medclf train` asks of who sits at the terminal."""

import json

import numpy as np
import pandas as pd
import pytest
import typer
from pydicom import dcmread
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from medclf.cli import app
from medclf.cli.training import _ask_of_captures
from medclf.errors import MedclfError
from medclf.results.run_folder import RunFolder

CAPTURE = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}


@pytest.fixture
def made(tmp_path):
    """A function from the DICOM attributes of two images to a RUN folder of them."""

    def make(*changes, train=0, **settings):
        """The last `train` of the images are training images: in the table, not among the predictions."""
        run = tmp_path / "RUN"
        for folder in (tmp_path / "images", run):
            folder.mkdir()
        for number, values in enumerate(changes):
            dataset = dcmread(get_testdata_file("CT_small.dcm"))
            for keyword, value in values.items():
                setattr(dataset, keyword, value)
            dataset.save_as(tmp_path / "images" / f"{number}.dcm")
        paths = [f"{number}.dcm" for number in range(len(changes))]
        pd.DataFrame({"path": paths, "label": "a", "problem": ""}).to_csv(run / "table.csv", index=False)
        paths = paths[: len(paths) - train]
        rows = {
            "path": paths,
            "partition": "valid",
            "label": "a",
            "pred": "a",
            "loss": 0.1,
            "prob_a": 0.9,
            "prob_b": 0.1,
        }
        pd.DataFrame(rows).to_csv(run / "predictions.csv", index=False)
        facts = {"task": "single-label", "partition": "valid", "n": len(paths), "vocab": ["a", "b"]}
        matrix = np.diag([len(paths), 0]).tolist()
        (run / "results.json").write_text(json.dumps(facts | {"confusion_matrix": matrix}))
        (run / "run.json").write_text(json.dumps({"root": str(tmp_path / "images"), "settings": settings}))
        return run

    return make


@pytest.fixture
def asked(monkeypatch):
    """The questions that were asked; each is answered with yes."""
    questions = []
    monkeypatch.setattr(typer, "confirm", lambda text: questions.append(text) or True)
    return questions


@pytest.mark.filterwarnings("ignore")
def test_a_set_of_secondary_captures_is_asked_for_once(made, asked):
    run = made(CAPTURE, CAPTURE)
    _ask_of_captures(run)
    assert len(asked) == 1 and "All 2 images are secondary captures" in asked[0]
    assert RunFolder(run).show_burned_in
    assert "Picture withheld" not in (run / "report.html").read_text(encoding="utf-8")
    _ask_of_captures(run)
    assert len(asked) == 1


@pytest.mark.filterwarnings("ignore")
def test_who_says_no_sees_none(made, monkeypatch):
    run = made(CAPTURE, CAPTURE)
    monkeypatch.setattr(typer, "confirm", lambda text: False)
    _ask_of_captures(run)
    assert not RunFolder(run).show_burned_in and not (run / "report.html").exists()


@pytest.mark.parametrize(
    "changes",
    [[CAPTURE, {}], [CAPTURE, {"Modality": "US"}], [CAPTURE, CAPTURE | {"BurnedInAnnotation": "YES"}], [{}, {}]],
    ids=["mixed", "ultrasound", "flagged", "plain"],
)
def test_other_sets_are_not_asked_for(made, asked, changes):
    _ask_of_captures(made(*changes))
    assert asked == []


def test_training_images_count_too(made, asked):
    _ask_of_captures(made(CAPTURE, CAPTURE, {"Modality": "US"}, train=1))
    assert asked == []


def test_a_run_that_hides_names_is_not_asked_for(made, asked):
    _ask_of_captures(made(CAPTURE, CAPTURE, hide_names=True))
    assert asked == []


def test_options_of_a_detector_need_boxes(tmp_path):
    for given in (["--unlisted", "skip"], ["--neck", "light"]):
        done = CliRunner().invoke(app, ["train", str(tmp_path), "--out", str(tmp_path / "RUN"), *given])
        assert isinstance(done.exception, MedclfError) and "are for --boxes" in str(done.exception)


@pytest.mark.parametrize(("option", "by_name"), [("--config", True), ("--resume", False)])
def test_a_run_whose_images_are_elsewhere_is_told_how_to_name_them(tmp_path, option, by_name):
    run = tmp_path / "my run"
    run.mkdir()
    gone = {"data": str(tmp_path / "gone"), "out": str(run)}
    (run / "run.json").write_text(json.dumps({"format": 2, "settings": gone}))
    done = CliRunner().invoke(app, ["train", option, str(run), *(["--out", str(tmp_path / "new")] if by_name else [])])
    assert "its images are not at" in str(done.exception) and "typing mistake" not in str(done.exception)
    assert (f"medclf train DATA --config '{run}'" in str(done.exception)) == by_name


@pytest.mark.parametrize("begun", [True, False])
def test_a_training_that_is_stopped_says_how_to_go_on_where_it_can(make_images, tmp_path, monkeypatch, begun):
    def stop(plan, *_, **__):
        if begun:
            (tmp_path / "my run" / "checkpoint").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("medclf.run.train.train", stop)
    images = make_images("images/a/1.png", "images/b/2.png") / "images"
    said = CliRunner().invoke(app, ["train", str(images), "--out", str(tmp_path / "my run")]).output
    assert (f"go on with it: resume('{tmp_path / 'my run'}')" in said) == begun  # medclf itself speaks of the command
