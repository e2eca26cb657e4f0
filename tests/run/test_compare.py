"""Two runs compared: the page says what compare says, and shows the images that one alone has right."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from medclf.cli import app
from medclf.errors import DataError
from medclf.metrics.prevalence import PrevalenceShift
from medclf.results.predictions import Predictions
from medclf.run.compare import compare

VOCAB = ["normal", "polyp"]


def a_run(folder, right, images, *, patient=None, paths=None):
    """A RUN folder whose predictions are right or wrong as given; labels alternate."""
    folder.mkdir(parents=True)
    y = np.arange(len(right)) % 2
    said = np.where(right, y, 1 - y)
    probs = np.eye(2)[said] * 0.8 + 0.1
    table = pd.DataFrame({"path": paths or [f"{i}.png" for i in range(len(y))], "partition": "valid"})
    if patient is not None:
        table["patient"] = patient
    Predictions(VOCAB, False, y, probs, np.zeros(len(y)), table).save(folder / "predictions.csv")
    (folder / "results.json").write_text(json.dumps({"vocab": VOCAB, "task": "single-label", "n": len(y)}))
    (folder / "run.json").write_text(json.dumps({"root": str(images)}))
    return folder


@pytest.fixture
def runs(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(40):
        Image.new("RGB", (40, 30), (i * 5, 90, 90)).save(images / f"{i}.png")
    order = np.arange(40)
    return a_run(tmp_path / "old", order % 4 != 0, images), a_run(tmp_path / "new", order != 7, images)


def test_images_that_leak_from_either_run_are_left_out_beside(runs):
    assert compare(*runs, n_boot=20).leak_free is None
    shared = compare(*(saw(run, group="twins-1") for run in runs), n_boot=20)  # image 0, which old has wrong
    assert " 1 of these images leaks from the training of a run. Without it: " in shared.sentence
    assert shared.n == 40 and shared.leak_free.n == 39 and shared.mcnemar.only_b == 10
    assert shared.leak_free.mcnemar.only_b == 9 and shared.as_dict()["leak_free"]["accuracy"]["a"] == 30 / 39
    saw(runs[0], patient="ann", n=40)
    told = compare(*runs, n_boot=20)
    assert told.leak_free is None and "40 of these images leak" in told.sentence and "memory" in told.sentence


def saw(run, n=1, **same):
    """A run with a table in which its first n images share a patient or a group with one it was trained on."""
    paths = [f"{i}.png" for i in range(40)]
    table = pd.DataFrame({"path": paths, "label": "polyp", "partition": "valid"})
    table = pd.concat([table.assign(**{k: [v] * n + [""] * (40 - n) for k, v in same.items()}), table[:1]])
    table.iloc[-1] = ["train.png", "polyp", "train", *same.values()]
    table.to_csv(run / "table.csv", index=False)
    return run


def test_the_page_says_what_compare_says(runs, tmp_path):
    page = tmp_path / "page.html"
    found = compare(*runs, page, n_boot=200)
    assert found == compare(*runs, n_boot=200)
    assert found.mcnemar.only_a == 1 and found.mcnemar.only_b == 10
    text = page.read_text()
    assert found.sentence.startswith("new is better") and found.sentence in text
    d = found.as_dict()["accuracy"]
    assert f"{100 * d['value']:+.1f} points ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})" in text
    assert text.count("data:image/jpeg") == 11  # each image that one alone has right
    assert '<h2 id="heading-4">Only old is correct</h2>' in text
    assert text.count('<table class="matrix') == 3  # of each run, and their difference
    assert re.search(r"✓ old: polyp.{1,60}✕ new: normal.{1,60}probability of polyp: 90.0 % against 10.0 %", text, re.S)
    assert "Difference (new minus old): +22.5 points" in text and "new is better where they are above 0" in text
    assert "p, McNemar mid-p (the one to read)" in text


def test_what_is_not_shown_is_said(tmp_path):
    right = np.arange(40) % 2 == 0
    a, b = a_run(tmp_path / "a", right, tmp_path / "gone"), a_run(tmp_path / "b", ~right, tmp_path / "gone")
    compare(a, b, tmp_path / "page.html", n_boot=50)
    text = (tmp_path / "page.html").read_text()
    assert text.count("20 images. The first 12 are shown, those on which the two differ most.") == 2
    assert "No pictures: the images are not where the runs had them." in text
    compare(a, a, tmp_path / "same.html", n_boot=50)
    text = (tmp_path / "same.html").read_text()
    assert text.count(">0 images.") == 3 and "On 20 further images both make the same error." in text
    only = a_run(tmp_path / "only", [True], tmp_path / "gone")  # of 'normal' alone
    compare(only, only, tmp_path / "few.html", n_boot=50)
    cells = re.sub(r"<[^>]+>", " ", (tmp_path / "few.html").read_text().partition('id="heading-3"')[2])
    assert re.search(r"polyp +0 +– +– +– +– ", re.sub(r"\s+", " ", cells).replace(" ", "  "))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"no image")
    c = a_run(tmp_path / "c", [True, False], tmp_path / "broken")
    compare(c, a_run(tmp_path / "d", [True, True], tmp_path / "broken"), tmp_path / "one.html", n_boot=50)
    assert "no picture: " in (tmp_path / "one.html").read_text()


def test_the_dict_that_0_1_gave_still_answers(runs):
    found = compare(*runs, n_boot=20)
    with pytest.warns(DeprecationWarning, match="as_dict"):
        assert found["sentence"] == found.sentence
    with pytest.warns(DeprecationWarning):
        assert found["accuracy"] == found.as_dict()["accuracy"]


def test_the_page_asks_the_network_for_nothing_and_runs_nothing(runs, tmp_path):
    page = tmp_path / "page.html"
    compare(*runs, page, n_boot=50)
    text = page.read_text()
    assert "default-src &#39;none&#39;" in text and "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)


def test_names_can_be_hidden_and_are_escaped(runs, tmp_path):
    page = tmp_path / "page.html"
    compare(*runs, page, n_boot=50, hide_names=True)
    assert "row 1" in page.read_text() and "0.png" not in page.read_text()
    odd = tmp_path / "<b>odd"
    runs[1].rename(odd)
    compare(runs[0], odd, page, n_boot=50)
    assert "<b>odd" not in page.read_text() and "&lt;b&gt;odd" in page.read_text()


def test_patients_and_images_of_one_run_alone_are_told(tmp_path):
    patient = [f"p{i // 5}" for i in range(40)]
    one = a_run(tmp_path / "one", np.arange(40) % 3 != 0, tmp_path, patient=patient)
    names = [f"{i}.png" for i in range(10, 40)]
    other = a_run(tmp_path / "other", np.arange(30) % 7 != 0, tmp_path, patient=patient[10:], paths=names)
    compare(one, other, tmp_path / "page.html", n_boot=50)
    text = (tmp_path / "page.html").read_text()
    assert "30 images in 6 patients, which were resampled whole" in text
    assert "10 further images were predicted by one alone" in text
    assert "p by patients (the one to read)" in text


def test_runs_of_one_name_are_told_apart(runs, tmp_path):
    (tmp_path / "x").mkdir()
    runs[0].rename(tmp_path / "x" / "run")
    runs[1].rename(tmp_path / "run")
    names = compare(tmp_path / "x" / "run", tmp_path / "run", n_boot=50).names
    assert names == ("x/run", f"{tmp_path.name}/run")


def test_a_run_against_itself(runs, tmp_path):
    found = compare(runs[0], runs[0], tmp_path / "page.html", n_boot=50)
    assert found.sentence.startswith("No clear difference") and (tmp_path / "page.html").is_file()


def test_names_of_runs_stay_as_they_are(runs, tmp_path):
    odd = tmp_path / "res_net_34"
    runs[1].rename(odd)
    compare(runs[0], odd, tmp_path / "page.html", n_boot=50)
    text = (tmp_path / "page.html").read_text()
    assert '<th scope="col" class="number">res_net_34</th>' in text and "sensitivity, res_net_34" in text


def test_a_page_takes_no_other_file_s_place(runs, tmp_path):
    (runs[1] / "report.html").write_text("the report")
    (runs[1] / "run.json").write_text("{}")
    mine = tmp_path / "mine.html"
    mine.write_text("<h1>My page</h1>")
    refused = {runs[1] / "report.html": "is the report of a run", runs[1] / "run.json": "end in .html"}
    for out, message in (refused | {mine: "medclf did not write it"}).items():
        before = out.read_text()
        for command in (["compare", *runs], ["report", runs[0]], ["shortcuts", runs[1]], ["watch", runs[1]]):
            done = CliRunner().invoke(app, [*map(str, command), "--out", str(out)])
            assert done.exit_code and message in str(done.exception) and out.read_text() == before
    compare(*runs, tmp_path / "page.html", n_boot=20)
    compare(*runs, tmp_path / "page.html", n_boot=20)  # the same page again may be written


def test_from_the_shell(runs, tmp_path):
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(page)])
    assert done.exit_code == 0, done.output
    assert "new is better" in done.output and page.is_file()


def test_images_of_one_run_alone_are_counted_on_the_terminal(tmp_path):
    names = [f"{n}.png" for n in range(20)]
    a = a_run(tmp_path / "a", [True] * 20, tmp_path, paths=names)
    b = a_run(tmp_path / "b", [True] * 18, tmp_path, paths=[*names[:16], "x", "y"])
    done = CliRunner().invoke(app, ["compare", str(a), str(b)])
    assert "Only the 16 images that both predicted are compared; left out: 4 of a, 2 of b." in done.output


def test_a_path_that_names_other_files_in_the_two_runs_is_refused(runs, tmp_path):
    for run, digest in zip(runs, ("aa", "bb"), strict=True):
        rows = pd.read_csv(run / "predictions.csv")
        rows["sha256"] = [digest if path == "7.png" else "cc" for path in rows["path"]]
        rows.to_csv(run / "predictions.csv", index=False)
    with pytest.raises(DataError, match=r"7\.png is another file in"):
        compare(*runs, n_boot=50)


def test_runs_that_cannot_be_compared(runs, tmp_path):
    other = a_run(tmp_path / "other", [True] * 4, tmp_path, paths=list("abcd"))
    with pytest.raises(DataError, match="no image in common"):
        compare(runs[0], other, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_probabilities_for_another_prevalence_are_compared_at_the_images_own(runs):
    """The new run's are shifted in its files: what both are measured by stays, and that labels differ by it is said."""
    old, new = runs
    before = compare(old, new, n_boot=50)
    kept, shift = Predictions.load(new / "predictions.csv", VOCAB, False), PrevalenceShift("polyp", 0.5, 0.3)
    kept.shifted(shift).save(new / "predictions.csv")
    facts = json.loads((new / "results.json").read_text())
    facts["calibration"] = {"prevalence": shift.as_dict()}
    (new / "results.json").write_text(json.dumps(facts))
    found = compare(old, new, n_boot=50)
    assert found.metrics["auroc"].value == pytest.approx(before.metrics["auroc"].value)
    assert found.sentence == f"{before.sentence} Labels are chosen for different prevalences: " + (
        "that of its training images in old, 30 % of polyp in new."
    )


def test_answers_by_study_are_compared_as_studies(runs, tmp_path):
    """They were called images, in the sentence and on the page."""
    for run in runs:
        facts = json.loads((run / "results.json").read_text()) | {"units": {"by": "study"}}
        (run / "results.json").write_text(json.dumps(facts))
    found = compare(*runs, tmp_path / "page.html", n_boot=20)
    assert found.counted == found.as_dict()["counted"] == "studies" and "on the same 40 studies. " in found.sentence
    assert "If patients have several studies, the intervals" in (tmp_path / "page.html").read_text()
