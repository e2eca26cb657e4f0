import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medclf import __version__
from medclf.config import TrainConfig
from medclf.dataset.boxes import N_BOXES
from medclf.errors import BundleError, DataError, OutputError
from medclf.images.box_places import SIDES
from medclf.images.heatmap import check_places
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.detector_bundle import load_detector
from medclf.models.backbones import build_network
from medclf.models.spec import ModelSpec, Normalization
from medclf.results.record import read_record
from medclf.results.run_folder import RunFolder
from medclf.run.boxes import _known_to_classifier, _split, hottest, outcomes, train_boxes
from medclf.run.predict_boxes import predict_boxes, print_boxes
from medclf.run.resume import settings_in, started_from
from medclf.run.train import train

_SPEC = importlib.util.spec_from_file_location("discs", Path(__file__).parents[1] / "fixtures" / "discs.py")
discs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(discs)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("discs")
    discs.draw_discs(root, n=16, n_without=6)
    return root


@pytest.fixture(scope="module")
def run(drawn, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("runs") / "RUN", []
    config = TrainConfig(str(drawn), str(out), arch="efficientnet_lite0", size=64, epochs=6, bs=6, modality="endoscopy")
    with pytest.warns(UserWarning, match="6 images that the file does not list"):
        train_boxes(config, drawn / "boxes.csv", said.append)
    return out, said


def test_without_a_split_asked_for_a_patients_images_stay_together():
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(40)], "label": None, "partition": None, "problem": ""})
    table[N_BOXES] = np.arange(40) % 2
    for patient, kind in ((None, "stratified"), ([i // 4 for i in range(40)], "patient")):
        placed, split = _split(table.assign(patient=patient, label="any"), TrainConfig("data", "RUN"))
        assert split == kind and set(placed["partition"]) == {"train", "valid"}
    assert placed.groupby("patient")["partition"].nunique().max() == 1


def test_a_run_has_numbers_boxes_a_page_and_a_bundle(run):
    out, said = run
    assert {"run.json", "table.csv", "boxes.csv", "results.json", "report.html", "bundle"} <= {
        p.name for p in out.iterdir()
    }
    results = json.loads((out / "results.json").read_text())
    boxes = results["boxes"]
    assert results["vocab"] == ["disc"] and results["task"] == "boxes" and boxes["sentence"] == said[-1]
    assert {"map", "map50", "froc", "hit_rate", "iou_hit_rate", "first_hit_rate", "false_alarms"} <= set(boxes)
    assert boxes["hit_rate"]["low"] <= boxes["hit_rate"]["value"] <= boxes["hit_rate"]["high"]
    history = results["training"]["history"]
    assert len(history) == 6 and history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    page = (out / "report.html").read_text()
    for told in ("6 images that the file does not list", "No patient IDs were given", "Near-duplicates in both sets"):
        assert told in page
    assert boxes["sentence"].split(",")[0] in page and "data:image/jpeg" in page


def test_the_head_of_the_page_says_when_and_with_what(run):
    record, page = read_record(run[0] / "run.json"), (run[0] / "report.html").read_text()
    head = re.sub(r"<[^>]+>", " ", page[page.index("<h1") : page.index("</header>")])
    assert record["started"] <= record["finished"] and f" {record['started'][:10]} " in head
    assert "efficientnet_lite0" in head and f"medclf {__version__}" in head


def test_the_file_of_boxes_agrees_with_the_numbers(run):
    out, _ = run
    rows, boxes = pd.read_csv(out / "boxes.csv"), json.loads((out / "results.json").read_text())["boxes"]
    given = rows[rows["kind"] == "given"]
    assert len(given) == boxes["n_findings"]
    assert (given["outcome"] == "found").mean() == pytest.approx(boxes["hit_rate"]["value"])
    alarms = rows[(rows["outcome"] == "false alarm")]
    assert (alarms["prob"] >= boxes["threshold"]).all()


def test_the_bundle_gives_what_the_run_has(run, drawn):
    out, _ = run
    rows = pd.read_csv(out / "boxes.csv")
    wanted = rows[rows["kind"] == "predicted"]
    path = wanted["path"].iloc[0]
    found = load_detector(out / "bundle").predict(drawn / path)
    own = wanted[wanted["path"] == path]
    np.testing.assert_allclose([box.prob for box in found.boxes], own["prob"], atol=1e-4)
    corners = [[getattr(box, side) for side in SIDES] for box in found.boxes]
    np.testing.assert_allclose(corners, own[list(SIDES)], atol=1e-2)
    assert (found.width, found.height) == (120, 100)
    assert all(0 <= box.x_min <= box.x_max <= 120 and 0 <= box.y_min <= box.y_max <= 100 for box in found.boxes)


def test_predict_prints_a_line_a_box(run, drawn, capsys, tmp_path):
    out, _ = run
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    files = [drawn / "finding" / "00.png", broken]
    print_boxes(out, files, "json", threshold=0.0)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["boxes"][0]["label"] == "disc" and first["width"] == 120 and second["problem"]
    print_boxes(out, files, "csv", threshold=0.0)
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("path,label,prob,x_min") and len(rows) == 1 + len(first["boxes"]) + 1
    print_boxes(out, files[:1], "text", threshold=1.0)
    assert "(no finding)" in capsys.readouterr().out
    with pytest.raises(DataError, match="none of 1 files"):
        print_boxes(out, [broken], "text")


def test_what_is_made_for_classifiers_says_that_this_is_a_detector(run):
    out, _ = run
    with pytest.raises(BundleError, match="holds a detector"):
        load_bundle(out / "bundle")
    with pytest.raises(DataError, match="is of a detector"):
        _ = RunFolder(out).results
    with pytest.raises(DataError, match="trained a detector"):
        settings_in(read_record(out / "run.json"))
    with pytest.raises(DataError, match="holds a detector"):
        started_from(TrainConfig(str(out), "RUN", from_run=str(out)))
    with pytest.raises(BundleError, match="holds no detector"):
        next(predict_boxes(out / "nothing", out))


def test_test_images_are_measured_at_the_threshold_of_the_validation_images(drawn, tmp_path):
    rows = [path.relative_to(drawn).as_posix() for path in sorted(drawn.glob("*/*.png"))]
    parts = [("train", "valid", "test", "train")[number % 4] for number in range(len(rows))]
    table = pd.DataFrame({"path": rows, "label": [row.split("/")[0] for row in rows], "part": parts})
    table.to_csv(drawn / "parts.csv", index=False)
    config = TrainConfig(
        str(drawn / "parts.csv"),
        str(tmp_path / "RUN"),
        arch="resnet18",
        weights=None,
        size=32,
        epochs=1,
        bs=8,
        partition_col="part",
    )
    with pytest.warns(UserWarning, match="does not list"):
        out = train_boxes(config, drawn / "boxes.csv", lambda line: None)
    found = json.loads((out / "results.json").read_text())["boxes"]
    given = pd.read_csv(drawn / "boxes.csv")["path"]
    n = sum(part == "test" and path in set(given) for path, part in zip(rows, parts, strict=True))
    assert found["test"]["hit_rate"]["n"] == n and f"{n} findings" in found["test"]["sentence"]
    page = (out / "report.html").read_text()
    assert ">test images</th>" in page and page.index(found["test"]["sentence"]) < page.index(found["sentence"])


def test_the_backbone_of_a_classifier_stays_what_it_was(drawn, tmp_path):
    """Few boxes, many labels: the labels of --from RUN are those of before, to the bit."""
    torch.manual_seed(0)
    half = Normalization([0.5] * 3, [0.5] * 3)
    known = ModelSpec("efficientnet_lite0", ["disc", "plain"], Preprocessing(96), half)
    classifier = SimpleNamespace(model=build_network("efficientnet_lite0", 2), spec=known)
    before = save_bundle(classifier, tmp_path / "before.bundle")
    config = TrainConfig(str(drawn), str(tmp_path / "RUN"), from_run=str(before), epochs=1, bs=8)
    with pytest.warns(UserWarning, match="does not list"):
        out = train_boxes(config, drawn / "boxes.csv", lambda line: None, neck="light")
    found = load_detector(out / "bundle")
    own = load_bundle(before).network[0].state_dict()
    kept = found.detector.body.state_dict()
    assert found.spec.neck == "light" and own.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in own.items())
    saliency = json.loads((out / "results.json").read_text())["boxes"]["saliency"]
    assert 0 <= saliency["hit_rate"]["value"] <= 1 and saliency["hit_rate"]["n"] > 0
    assert "Grad-CAM" in (out / "report.html").read_text()


def test_what_the_classifier_of_a_backbone_was_trained_on_is_said(tmp_path):
    (tmp_path / "table.csv").write_text("path,sha256,partition\na.png,a,train\nb.png,b,train\nc.png,c,valid\n")
    table = pd.DataFrame({"path": ["x", "y", "z"], "sha256": list("abc"), "partition": ["train", "valid", "test"]})
    table = table.assign(problem="", label="disc")
    (said,) = _known_to_classifier(TrainConfig("d", "o", from_run=str(tmp_path)), table)
    assert said.startswith("1 of the 2 images that are not trained on here are training images of the classifier")
    assert _known_to_classifier(TrainConfig("d", "o"), table) == []


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"keep_accuracy": 0.9}, "keep_accuracy"),
        ({"split": "kfold"}, "kfold"),
        ({"card": "x"}, "card"),
        ({"folds": 9}, "folds"),
        ({"cache": True}, "cache"),
        ({"ordinal": "auto"}, "ordinal does not go with boxes"),
        ({"label_delim": "|"}, "label_delim does not go with boxes"),
        ({"from_run": ".", "size": 320}, "size does not go with from_run"),
        ({"size": (64, 128), "epochs": 2}, 'size="64,128" does not go with boxes'),
    ],
)
def test_settings_that_a_detector_has_no_use_for_are_refused(drawn, tmp_path, settings, name):
    if "card" in settings:
        settings = {"card": str(tmp_path / "card.yaml")}
        Path(settings["card"]).write_text("intended_use: x\n")
    with pytest.raises(DataError, match=name):
        train_boxes(TrainConfig(str(drawn), str(tmp_path / "RUN"), **settings), drawn / "boxes.csv")
    assert not (tmp_path / "RUN").exists()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"frame": "all"}, 'frame="all" does not go with boxes'),
        ({"tabular": "age", "epochs": 2}, "tabular does not go with boxes"),
        ({"unit": "patient", "split": "random"}, "unit does not go with boxes"),
    ],
)
def test_what_boxes_bar_is_refused_without_advice_that_they_bar_too(drawn, tmp_path, asked, says):
    with pytest.raises(DataError, match=says):
        train(str(drawn), boxes=drawn / "boxes.csv", out=str(tmp_path / "RUN"), **asked)


def test_choices_that_do_not_exist_are_refused_before_anything_is_read(drawn, tmp_path):
    config = TrainConfig(str(drawn), str(tmp_path / "RUN"))
    with pytest.raises(DataError, match="neck must be pyramid or light, not 'lite'"):
        train_boxes(config, drawn / "boxes.csv", neck="lite")
    with pytest.raises(DataError, match="unlisted must be negative or skip, not 'negativ'"):
        train_boxes(config, drawn / "boxes.csv", unlisted="negativ")


def test_boxes_inside_the_run_are_not_emptied_before_they_are_read(drawn, tmp_path):
    run = tmp_path / "RUN"
    run.mkdir()
    (run / "run.json").write_text('{"format": 1, "settings": {"data": "d", "out": "o"}}')
    (run / "boxes.csv").write_text("path,label,x_min,y_min,x_max,y_max\n")
    with pytest.raises(OutputError, match=r"boxes: .*boxes\.csv is in .* empties first"):
        train(drawn, out=run, boxes=run / "boxes.csv", overwrite=True)
    assert (run / "boxes.csv").is_file()


def test_hidden_names_are_the_rows_of_the_table_and_absent_labels_are_said(drawn, tmp_path):
    """Boxes name an image that is not there; no validation image has a box of the label of one training image."""
    rows = pd.read_csv(drawn / "boxes.csv")
    paths = [*rows["path"], "plain/16.png", "plain/17.png"]
    parts = ["train" if number < 12 else "valid" for number in range(len(paths))]
    pd.DataFrame({"path": paths, "label": "x", "part": parts}).to_csv(drawn / "hidden.csv", index=False)
    rows.loc[0, "label"] = "rare"
    strange = rows.iloc[[1]].assign(path="Doe^John")
    pd.concat([rows, strange]).to_csv(tmp_path / "boxes.csv", index=False)
    settings = {"arch": "resnet18", "weights": None, "size": 32, "epochs": 0, "partition_col": "part"}
    config = TrainConfig(str(drawn / "hidden.csv"), str(tmp_path / "RUN"), hide_names=True, **settings)
    with pytest.warns(UserWarning, match="does not list"):
        out = train_boxes(config, tmp_path / "boxes.csv", lambda line: None)
    page, content = (out / "report.html").read_text(), (out / "results.json").read_text()
    assert "Doe" not in page + content and ".png" not in page + content
    table, boxes = pd.read_csv(out / "table.csv"), pd.read_csv(out / "boxes.csv")
    seen = set(boxes["path"][boxes["outcome"].isin(["missed", "false alarm", "hit"])])
    wanted = {f"row {number}" for number, path in enumerate(table["path"], 1) if path in seen}
    assert seen and set(re.findall(r"row \d+", page)) == wanted
    told = "No validation image has a box of rare, so it is not measured."
    assert told in page and told in content
    assert "this detector was not trained" in page
    assert json.loads(content)["boxes"]["per_class"]["rare"] == {"n": 0, "ap50": None, "ap": None}


def test_outcomes_by_hand():
    given = pd.DataFrame({"path": ["a", "b"], "label": "polyp", "x_min": 0, "y_min": 0, "x_max": 10, "y_max": 10})
    predicted = pd.DataFrame(
        {"path": ["a", "a", "b", "c"], "label": "polyp", "prob": [0.9, 0.1, 0.8, 0.7], "x_min": [0, 0, 50, 0]}
    ).assign(y_min=0, y_max=10)
    predicted["x_max"] = predicted["x_min"] + 10
    rows = outcomes(given, predicted, 0.5)
    assert rows["outcome"].tolist() == ["found", "hit", "below threshold", "missed", "false alarm", "false alarm"]


class LooksAt:
    """A classifier whose map is hot in one place."""

    def __init__(self, rows: slice, columns: slice) -> None:
        self.vocab, self.preprocessing, self.place = ("disc", "plain"), Preprocessing((100, 120)), (rows, columns)

    def saliency(self, path, label):
        heat = np.zeros((100, 120), np.float32)
        heat[self.place] = 1
        return heat


def test_the_hottest_box_is_measured_as_the_detectors_are(drawn):
    given = pd.read_csv(drawn / "boxes.csv").iloc[:1]
    x, y = int(given["x_min"][0]), int(given["y_min"][0])
    paths = [given["path"][0], "plain/16.png"]
    on = hottest(LooksAt(slice(y + 5, y + 25), slice(x + 5, x + 25)), drawn, paths, given)
    assert on["hit_rate"].value == 1 and on["first_hit_rate"].value == 1 and on["iou_hit_rate"].value == 0
    far = slice(0, 5) if x > 60 else slice(110, 120)
    assert hottest(LooksAt(slice(0, 5), far), drawn, paths, given)["hit_rate"].value == 0
    assert "not know ulcer" in hottest(LooksAt(far, far), drawn, paths, given.assign(label="ulcer"))["note"]
    coarse = LooksAt(far, far)
    coarse.saliency = lambda path, label: check_places((1, 1))
    assert list(found := hottest(coarse, drawn, paths, given)) == ["note"] and "too coarse to show" in found["note"]
    both = pd.concat([given, given.assign(label="ulcer")])
    half = hottest(LooksAt(slice(0, 5), far), drawn, paths, both)
    assert half["hit_rate"].n == 1 and "not know ulcer" in half["note"]
