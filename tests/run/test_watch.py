"""`watch` as a whole: sketches of a served bundle, the page, drift that is found, and what is refused."""

import re
import sys
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.errors import DataError, MedclfWarning, ReadError
from medclf.inference.sketches import FOLDER, SketchBook, measures_of, sketch
from medclf.metrics.drift import stream_of
from medclf.results.predictions import Predictions
from medclf.run.watch import _said, watch

VOCAB = ["dark", "light"]


class Brightness:
    """A bundle by hand: its probability of "light" is the mean of the pixels."""

    hash, vocab, detector, multi_label, fields = "a" * 64, VOCAB, None, False, ()
    calibration = MappingProxyType({})

    def prepare(self, path):
        return np.asarray(Image.open(path).convert("RGB").resize((16, 16)))

    def predict_with_features(self, pixels):
        light = pixels.mean((1, 2, 3)) / 255
        answers = [
            SimpleNamespace(pred=int(p > 0.5), probs={"dark": 1 - float(p), "light": float(p)}, flags=()) for p in light
        ]
        return answers, np.stack([light, 1 - light], axis=1)

    def decide(self, probs):
        return np.eye(2, dtype=bool)[probs.argmax(1)]


def levels(n, seed):
    return np.random.default_rng(seed).integers(20, 230, n)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A RUN of 80 images, which a hand-made bundle answers."""
    level = levels(80, 0)
    for number, grey in enumerate(level):
        Image.new("L", (20, 20), int(grey)).save(tmp_path / f"{number:02}.png")
    y = (level > 127).astype(int)
    table = pd.DataFrame({"path": [f"{number:02}.png" for number in range(80)]})

    class Made(SimpleNamespace):
        def __truediv__(self, name):
            return tmp_path / name

    predictions = Predictions(VOCAB, False, y, np.eye(2)[y], np.zeros(80), table)
    made = Made(bundle=Brightness(), predictions=predictions, images=tmp_path, path=tmp_path, leaking=set)
    made.check_unchanged = lambda path: None
    monkeypatch.setattr("medclf.run.watch.Run", lambda path: made)
    return tmp_path


def serve(run, grey, day, scanner="ACME <1>"):
    bundle, book = Brightness(), SketchBook(run / FOLDER)
    for level in grey:
        pixels = np.full((1, 16, 16, 3), level, np.uint8)
        (answer,), features = bundle.predict_with_features(pixels)
        (measures,) = measures_of(None, features, pixels)
        facts = {"width": 20, "height": 20, "tags": {"scanner": scanner}}
        book.add(sketch(answer, measures, facts, bundle.hash, when=f"2026-03-{day:02}T08:00Z"))
    book.close()


def test_images_like_those_of_the_run_are_no_drift(run):
    serve(run, levels(150, 1), 2)
    lines = watch(run, progress=False)
    # the reference knows no scanner, so that one is new: what differs is told by name
    assert lines[-1] == f"page: {run / FOLDER / 'watch.html'}"
    text = (run / FOLDER / "watch.html").read_text()
    assert "2026-W10" in text and "ACME &lt;1&gt;" in text and "Read next" in text
    assert "http" not in text.split("<main")[1]
    assert (run / FOLDER / "reference.json").is_file()


def test_accuracy_rests_on_images_that_do_not_leak_where_there_are_some(run):
    made = sys.modules["medclf.run.watch"].Run("")
    made.predictions.y[:60] = 1 - made.predictions.y[:60]  # 60 answers are wrong; the others are right, and leak
    serve(run, levels(100, 1), 2, scanner="")

    def estimated(leaking):
        made.leaking = lambda: leaking
        (run / FOLDER / "reference.json").unlink(missing_ok=True)
        return [next(line for line in watch(run, progress=False) if "Accuracy" in line) for _ in range(2)]

    paths = list(made.predictions.table["path"])
    every, clean, leaked = (estimated(set(names)) for names in ([], paths[60:], paths))
    of_all, of_clean = (int(re.search(r"labels: (\d+) %", line)[1]) for line in (every[0], clean[0]))
    assert 15 <= of_all <= 35 and of_clean < 10 and clean[0] == clean[1]  # the second is of the reference that was kept
    assert leaked[1] == f"{every[0]} It is optimistic: all of the run's images leak from its training."


def test_darker_images_are_found(run):
    serve(run, levels(100, 1), 2)
    serve(run, levels(200, 2) // 3, 12)
    lines = watch(run, progress=False)
    assert "have drifted" in lines[0] and "brightness" in lines[1]
    assert lines[0].endswith("on 2026-03-12.") and lines[2].startswith("The last 200 images still differ.")
    assert "cannot say" in " ".join(lines)
    page = (run / FOLDER / "watch.html").read_text()
    row = re.search(r"<td[^>]*>brightness</td>(.*?)</tr>", page, re.S)[1]
    tested, came = (float(text) for text in re.findall(r">([\d.]+)<", row)[:2])
    assert 100 < tested < 150 and came < 100


def test_that_the_images_of_the_run_have_another_prevalence_is_said(run):
    class Restated(Brightness):
        calibration = MappingProxyType({"prevalence": {"label": "light", "fitted": 0.5, "prevalence": 0.02}})

    serve(run, levels(200, 2) // 3, 12)
    assert not any("2 % of light" in line for line in watch(run, progress=False))
    sys.modules["medclf.run.watch"].Run("").bundle = Restated()
    assert any("where 2 % of light come, as the model was told" in line for line in watch(run, progress=False))


def test_what_has_passed_is_told_as_past(run):
    serve(run, levels(60, 2) // 3, 2)
    serve(run, levels(220, 1), 12)
    assert "The last 200 images no longer differ." in " ".join(watch(run, progress=False))


def test_few_images_are_not_called_free_of_drift(run):
    serve(run, levels(30, 1), 2)
    assert watch(run, progress=False)[0] == "30 images came: too few to look for drift, which needs 50."


def test_without_sketches_it_says_how_to_get_them(run):
    with pytest.raises(DataError, match="no sketch of this model"):
        watch(run, progress=False)


def test_weeks_stand_in_order_whatever_the_clock_did_and_damaged_lines_are_counted(run):
    serve(run, levels(30, 1), 20)
    serve(run, levels(30, 2), 2)  # the clock went back
    with (run / FOLDER / "sketches.jsonl").open("a") as file:
        file.write(f'{{"id":"0a","model":"{"a" * 16}","probs":null}}\n')
    assert "1 sketch is damaged and is left out." in watch(run, progress=False)
    text = (run / FOLDER / "watch.html").read_text()
    assert text.index("2026-W10</") < text.index("2026-W12</") and "2026-W10 to 2026-W12" in text


def test_sketches_of_other_measures_are_told_and_left_out(run):
    """What they lacked counted as 0; what they alone had ended in a KeyError."""
    serve(run, levels(120, 1), 2)
    book = SketchBook(run / FOLDER)
    for row in book.rows()[:30]:
        book.add(row | {"measures": {"brightness": 1.0, "sharpness": 2.0}})
    book.close()
    told = watch(run, progress=False)
    other = "30 sketches of another medclf have other measures (contrast, feature axis 1, feature axis 2 and 7 more)."
    assert f"{other} They cannot be compared, and are left out." in told
    page = (run / FOLDER / "watch.html").read_text()
    assert other in page and "in images 121" not in page
    lines = (run / FOLDER / "sketches.jsonl").read_text().splitlines()
    (run / FOLDER / "sketches.jsonl").write_text("\n".join(lines[120:]) + "\n")
    with pytest.raises(DataError, match="none of the 30 sketches has the measures that this medclf compares"):
        watch(run, progress=False)


def test_the_reference_is_answered_with_what_is_known_beside_the_images(run):
    given = []

    class Aged(Brightness):
        fields = ({"name": "age", "kind": "number"},)

        def check_fields(self, row):
            return []

        def predict_with_features(self, pixels, fields=None):
            given.extend(fields or [])
            return super().predict_with_features(pixels)

    made = sys.modules["medclf.run.watch"].Run("")
    made.bundle = Aged()
    made.predictions.table["age"] = range(80)
    serve(run, levels(60, 1), 2)
    watch(run, progress=False)
    assert sorted(row["age"] for row in given) == list(range(80))


def test_images_of_one_patient_count_as_one(run, monkeypatch):
    seen = []
    find = sys.modules["medclf.run.watch"].find_drift
    monkeypatch.setattr(
        "medclf.run.watch.find_drift",
        lambda reference, *a, **k: seen.append(reference.per_unit) or find(reference, *a, **k),
    )
    serve(run, levels(150, 1), 2)
    watch(run, progress=False)
    text = (run / FOLDER / "watch.html").read_text()
    assert set(seen) == {1.0} and "images do not depend on each other" in text
    (run / FOLDER / "reference.json").unlink()
    sys.modules["medclf.run.watch"].Run("").predictions.table["patient"] = [
        f"p{max(number, 1)}" for number in range(80)
    ]
    watch(run, progress=False)
    assert "images do not depend on each other" in (run / FOLDER / "watch.html").read_text()  # one pair: 1.0 a patient
    (run / FOLDER / "reference.json").unlink()
    sys.modules["medclf.run.watch"].Run("").predictions.table["patient"] = [f"p{number // 4}" for number in range(80)]
    for _ in range(2):  # made, and read again
        seen.clear()
        watch(run, progress=False)
        assert set(seen) == {4.0}
    assert "4.0 images of one patient" in (run / FOLDER / "watch.html").read_text()


def test_of_several_labels_the_least_sure_says_how_sure_an_answer_is():
    rows = [{"probs": {"dark": 0.1, "light": 0.2}, "measures": {}, "kinds": {}, "image": "a"}]
    assert stream_of(rows, VOCAB, multi_label=True).confidence == pytest.approx([0.8])
    assert stream_of(rows, VOCAB).confidence == pytest.approx([0.2])


class Wary(Brightness):
    """It says "light" from a probability of 0.2 on."""

    def decide(self, probs):
        return np.eye(2, dtype=bool)[(probs[:, 1] >= 0.2).astype(int)]


class Several(Brightness):
    multi_label = True

    def predict_with_features(self, pixels):
        answers, features = super().predict_with_features(pixels)
        return [SimpleNamespace(**{**vars(answer), "pred": (answer.pred,)}) for answer in answers], features


def test_what_is_called_predicted_is_what_the_service_answered(run):
    made = sys.modules["medclf.run.watch"].Run("")
    made.bundle = Wary()
    serve(run, [100] * 60, 2)  # light 0.39
    watch(run, progress=False)
    page = (run / FOLDER / "watch.html").read_text()
    assert "light 100 %" in page and "dark 100 %" not in page
    assert re.search(r"<td[^>]*>light</td>\s*<td[^>]*>39 %</td>", page)


def test_of_several_labels_the_least_sure_images_are_read_next(run, monkeypatch):
    given = {}

    def choose(features, labelled, n, **options):
        given.update(options)
        return pd.DataFrame({"row": range(n)})

    monkeypatch.setattr("medclf.run.watch.choose_next", choose)
    made = sys.modules["medclf.run.watch"].Run("")
    made.bundle = Several()
    made.predictions = Predictions(
        VOCAB, True, np.eye(2, dtype=int)[made.predictions.y], *([np.zeros((80, 2))] * 2), made.predictions.table
    )
    serve(run, levels(60, 1), 2)
    watch(run, n=3, progress=False)
    assert given["multi_label"] is True
    page = (run / FOLDER / "watch.html").read_text()
    assert "Likeliest label" in page and "Predicted" not in page


def test_images_of_the_run_that_have_changed_are_not_compared_with(run):
    """They were taken for what the run had read, and kept."""
    serve(run, levels(100, 1), 2, scanner="")

    def check(path):
        if path < "40.png":
            raise ReadError(path, "the file has changed since the run")

    sys.modules["medclf.run.watch"].Run("").check_unchanged = check
    for _ in range(2):  # nothing is kept, as they may come back
        with pytest.warns(MedclfWarning, match="40 of 80 images of the run are gone or changed"):
            watch(run, progress=False)
    assert "compared with 40 images" in (run / FOLDER / "watch.html").read_text()
    assert not (run / FOLDER / "reference.json").exists()


def test_few_images_to_compare_with_rule_no_drift_out(run):
    """Of a run that held out seven images, whatever came was called like them."""
    said = _said([], [{}] * 120, False, VOCAB, 7)
    assert said == ["No drift was found, but the run holds out only 7 images to compare with: too few to rule it out."]
    assert "are like those that the model was tested on" in _said([], [{}] * 120, False, VOCAB, 50)[0]


def test_a_folder_of_sketches_that_is_not_there_is_called_missing(run):
    with pytest.raises(DataError, match="nowhere does not exist"):
        watch(run, folder=run / "nowhere", progress=False)
