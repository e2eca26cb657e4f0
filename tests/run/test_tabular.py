"""A table beside the pixels, from the option to the page, the bundle, an evaluation and a prediction."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from medclf.config import TrainConfig
from medclf.errors import BundleError, DataError, MedclfWarning
from medclf.inference.bundle import load_bundle
from medclf.inference.onnx import export_onnx
from medclf.run.evaluate import evaluate
from medclf.run.predict import fields_for, predict, print_predictions
from medclf.run.terminal import show_results
from medclf.run.train import train

pytestmark = pytest.mark.slow

SMALL = {"arch": "efficientnet_lite0", "size": 32, "saliency": 0, "audit": False, "split": "stratified"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures that say a little of the label, and a column that says more."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    rows = []
    for index in range(120):
        sick = index % 2
        pixels = np.clip(rng.normal(100 + 6 * sick, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        site = "leg" if rng.random() < (0.85 if sick else 0.15) else "arm"
        row = {"path": f"{index}.png", "label": ("well", "sick")[sick], "site": site, "age": 40 + 15 * sick}
        row["age"] += float(rng.normal(0, 12))
        rows.append(row | {"code": f"c{index}"})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "RUN"
    return train(data, out=out, say=lambda _: None, tabular=["site,age", "code"], valid_pct=0.4, **SMALL)


def test_three_results_stand_side_by_side(run, capsys):
    facts = json.loads((run / "results.json").read_text())
    section = facts["tabular"]
    assert section["used"] and section["columns"] == ["site", "age"] and "'code' is not used" in section["notes"][0]
    numbers = section["numbers"]
    assert facts["auroc"]["value"] == pytest.approx(numbers["both"]["auroc"]["value"], abs=0.02)  # but for calibration
    assert numbers["both"]["auroc"]["value"] > numbers["image alone"]["auroc"]["value"]
    page = (run / "report.html").read_text()
    assert "Image and table" in page and "both less image alone" in page
    show_results(run)
    shown = capsys.readouterr().out
    assert "image and table: The model uses image and table" in shown and "- table alone: accuracy" in shown


def test_the_bundle_gives_what_the_run_says(run, data, tmp_path):
    bundle, table = load_bundle(run / "bundle"), pd.read_csv(run / "predictions.csv")
    assert [field["name"] for field in bundle.fields] == ["site", "age"] and bundle.content["format"] == 2
    fields = table[["site", "age"]].to_dict("records")
    paths = [data.parent / path for path in table["path"]]
    answers = bundle.predict(paths, fields)
    assert [answer.probs["sick"] for answer in answers] == pytest.approx(table["prob_sick"].tolist(), abs=1e-4)
    blind = bundle.predict(paths[0])
    assert "fields unknown" in blind.flags and blind.probs["sick"] != pytest.approx(answers[0].probs["sick"], abs=1e-3)
    found = evaluate(run, data, tmp_path / "again", saliency=0)
    again = found.predictions.to_frame().set_index("path").loc[table["path"], "prob_sick"]
    assert again.tolist() == pytest.approx(table["prob_sick"].tolist(), abs=1e-4)
    with pytest.warns(MedclfWarning, match="no column 'age'"):
        less = pd.read_csv(data).drop(columns="age").head(8).assign(site="toe")
        kept = evaluate(run, less, tmp_path / "less", saliency=0, root=data.parent).results["data"]["notes"]
    assert any("no column 'age'" in text for text in kept) and any("site=toe (8 images)" in text for text in kept)
    with pytest.raises(BundleError, match="site, age"):
        export_onnx(bundle, tmp_path / "a.onnx")


def test_predict_takes_fields(run, data):
    files, wanted = [data.parent / f"{index}.png" for index in range(3)], pd.read_csv(data).head(3)
    bundle = load_bundle(run / "bundle")
    answers = bundle.predict(files, wanted[["site", "age"]].to_dict("records"))
    found = predict(run, files, fields=data)
    assert [one.probs["sick"] for one in found] == pytest.approx([one.probs["sick"] for one in answers])
    (one,) = predict(run, files[:1], field=["age=60", "site=unknown"])
    assert one.probs["sick"] == pytest.approx(bundle.predict(files[0], {"age": 60}).probs["sick"])
    for given, said in (
        (["age=old"], "must be a number"),
        (["agee=3"], "no field 'agee'"),
        (["age"], "NAME=VALUE"),
        (["age=1", "age=2"], "twice"),
    ):
        with pytest.raises(DataError, match=said):
            predict(run, files, field=given)
    with pytest.warns(MedclfWarning, match="site=toe, age outside"):
        (one,) = predict(run, files[:1], field=["site=toe", "age=1e9"])
    assert "fields unlike training" in one.flags


def test_a_csv_has_no_header_where_the_fields_are_refused(run, data, capsys):
    with pytest.raises(DataError, match="must be a number"):
        print_predictions(run, [data.parent / "0.png"], "csv", field=["age=old"])
    assert capsys.readouterr().out == ""
    print_predictions(run, [data.parent / "0.png"], "csv", field=["age=60"])
    header, answer = capsys.readouterr().out.splitlines()
    assert header.startswith("path,label,prob_") and answer.startswith(str(data.parent / "0.png"))


def test_fields_that_do_not_fit_the_images_are_refused(run, data):
    bundle, files = load_bundle(run / "bundle"), [data.parent / f"{index}.png" for index in range(2)]
    for images, fields in ((files, {"age": 60}), (files, [{"age": 60}]), (files[0], [{"age": 60}])):
        with pytest.raises(DataError, match="do not fit"):
            bundle.predict(images, fields)
    with pytest.raises(DataError, match="fewer images"):
        list(bundle.predict_stream(files, fields=[{"age": 60}]))


class Aged:
    """A model that takes one number."""

    name, fields = "aged", ({"name": "age", "kind": "number"},)

    def check_fields(self, fields):
        return []


class AgedSomewhere(Aged):
    """A model that takes a place as well."""

    fields = (*Aged.fields, {"name": "site", "kind": "category"})


def test_a_csv_says_fields_of_the_image_that_it_names_and_of_no_other(tmp_path):
    first, second = tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"
    said = tmp_path / "said.csv"
    said.write_text("path;age\n1.png;60\n")  # semicolons, as Excel writes them
    assert fields_for(Aged(), [first], said, ()) == [{"age": "60"}]
    with pytest.raises(DataError, match="names none of the 2 images"):
        fields_for(Aged(), [first, second], said, ())
    said.write_text("path,age\na/1.png,60\nb/1.png,\n")
    assert fields_for(Aged(), [first, second], said, ()) == [{"age": "60"}, {}]
    said.write_text("path,age\na/1.png,60\na/1.png,20\n")
    with pytest.raises(DataError, match=r"names 'a/1\.png' twice"):
        fields_for(Aged(), [first], said, ())
    with pytest.warns(MedclfWarning, match=r"no column 'site': it counts as unknown \(did you mean 'Site'\?\)"):
        said.write_text("path,age,Site\na/1.png,60,arm\n")
        assert fields_for(AgedSomewhere(), [first], said, ()) == [{"age": "60"}]
    said.write_bytes(b"path,age\na/1.png,\xe9\n")
    with pytest.raises(DataError, match="UTF-8"):
        fields_for(Aged(), [first], said, ())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 3}, "asks for another network"),
        ({"recipe": "auto"}, "asks for another network"),
        ({"linear_probe": False}, "asks for another network"),
        ({"split": "patient", "unit": "patient"}, "stands beside single images"),
    ],
)
def test_what_cannot_be_beside_a_table_is_refused_early(settings, said):
    with pytest.raises(DataError, match=said):
        TrainConfig("images", "RUN", tabular="age", **settings)


def test_a_label_in_other_words_is_refused_before_the_training(data, tmp_path):
    rows = pd.read_csv(data)
    rows["finding"] = rows["label"].str.upper()
    rows.to_csv(data.parent / "more.csv", index=False)
    with pytest.raises(DataError, match="says the label itself"):
        train(data.parent / "more.csv", out=tmp_path / "RUN", say=lambda _: None, tabular="finding", **SMALL)


@pytest.fixture(scope="module")
def scoped(tmp_path_factory):
    """Frames whose label only the course in the position box tells; every tenth box is painted over."""
    folder, rng = tmp_path_factory.mktemp("scoped"), np.random.default_rng(0)
    for index in range(140):
        label = ("left", "right")[index % 2]
        pixels = np.clip(rng.normal((170, 90, 70), 30, (96, 96, 3)), 0, 255).astype(np.uint8)
        image = Image.fromarray(pixels)
        pen = ImageDraw.Draw(image)
        pen.rectangle([0, 66, 29, 95], fill=(0, 0, 0) if index % 10 > 7 else (18, 112, 62))
        if index % 10 <= 7:
            x = 9 + (11 if label == "right" else 0) + rng.normal(0, 1)
            pen.line([(x, 71), (x + rng.normal(0, 2), 90)], fill=(196, 214, 120), width=3)
        (folder / label).mkdir(exist_ok=True)
        image.save(folder / label / f"{index}.png")
    return folder


def test_the_position_box_is_read_fused_and_bundled(scoped, tmp_path):
    settings = {**SMALL, "size": 96, "valid_pct": 0.4}
    run = train(scoped, out=tmp_path / "RUN", say=lambda _: None, tabular="position-box", **settings)
    section = json.loads((run / "results.json").read_text())["tabular"]
    assert section["columns"] == ["position-box"]
    assert section["notes"][0] == "position-box: present in 112 of 140 images, painted over in 28, absent in 0."
    assert section["numbers"]["table alone"]["auroc"]["value"] > 0.85  # a fifth of the boxes says nothing
    table = pd.read_csv(run / "predictions.csv").head(8)
    bundle = load_bundle(run / "bundle")
    assert bundle.fields == []
    answers = bundle.predict([scoped / path for path in table["path"]])
    assert [one.probs["left"] for one in answers] == pytest.approx(table["prob_left"].tolist(), abs=1e-4)
    with pytest.raises(DataError, match="cuts its rim off"):
        train(scoped, out=tmp_path / "CROP", say=lambda _: None, tabular="position-box", resize="crop", **settings)


@pytest.mark.slow
def test_with_folds_a_table_stands_beside_fine_tuned_networks_too(data, tmp_path):
    settings = {**SMALL, "split": "kfold", "folds": 2, "epochs": 1}
    run = train(data, out=tmp_path / "RUN", say=lambda _: None, tabular="site,age", **settings)
    facts = json.loads((run / "results.json").read_text())
    section, rows = facts["tabular"], pd.read_csv(run / "predictions.csv")
    assert section["used"] and section["notes"][-1].endswith("which flatters a little.")
    assert facts["n"] == 120 and section["numbers"]["both"]["n"] == 120
    assert facts["auroc"]["value"] == pytest.approx(section["numbers"]["both"]["auroc"]["value"], abs=0.03)
    assert section["numbers"]["both"]["auroc"]["value"] > section["numbers"]["image alone"]["auroc"]["value"]
    bundle = load_bundle(run / "bundle")
    told = pd.read_csv(data).set_index("path").loc[rows["path"][:20]]
    found = [bundle.predict(data.parent / path, {"site": one.site, "age": one.age}) for path, one in told.iterrows()]
    assert np.mean([one.label == label for one, label in zip(found, told["label"], strict=True)]) > 0.7
