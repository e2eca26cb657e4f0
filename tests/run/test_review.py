"""The second read: a blinded sheet out, agreement and corrections back, and a training with them."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, cohen_kappa_score

from medclf.dataset.corrections import read_corrections
from medclf.errors import DataError, OutputError
from medclf.results.predictions import Predictions
from medclf.run.review import choose_images, export_review
from medclf.run.second_read import import_review, show_review

VOCAB = ["normal", "polyp", "ulcer"]


def make_run(folder, seed=0, n=60, multi_label=False):
    """A RUN of drawn predictions, the first four labels wrong, with an image of each row."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) * 1.2
    logits[np.arange(n), true] += 2.5
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probs[:4] = 0.02
    probs[np.arange(4), true[:4]] = 0.96
    given = true.copy()
    given[:4] = (true[:4] + 1) % 3
    table = pd.DataFrame({"path": [f"{VOCAB[c]}/secret {i:03}.png" for i, c in enumerate(given)], "partition": "valid"})
    y = given
    if multi_label:
        y = np.eye(3, dtype=int)[given]
    predictions = Predictions(VOCAB, multi_label, y, probs, np.ones(n), table)
    images = folder / "images"
    for path in table["path"]:
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (24, 30), dtype=np.uint8)).save(images / path)
    run = folder / "RUN"
    run.mkdir()
    predictions.save(run / "predictions.csv")
    task = "multi-label" if multi_label else "single-label"
    (run / "results.json").write_text(json.dumps({"vocab": VOCAB, "task": task, "partition": "valid", "n": n}))
    (run / "run.json").write_text(json.dumps({"root": str(images)}))
    return run, predictions, true


@pytest.fixture
def made(tmp_path):
    return make_run(tmp_path)


def key_of(run):
    (file,) = (run / "review").glob("key-*.csv")
    return pd.read_csv(file, dtype=str).set_index("item")


def fill(sheet, answers, marks=None):
    """Write answers {item: label} into a sheet."""
    frame = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    frame["label"] = [answers.get(item, "") for item in frame["item"]]
    frame["mark"] = [(marks or {}).get(item, "") for item in frame["item"]]
    frame.to_csv(sheet, index=False)
    return frame


def test_the_sheet_tells_nothing(made, tmp_path):
    run, predictions, _ = made
    sheet = tmp_path / "out" / "sheet.csv"
    lines = export_review(run, sheet, n=20, seed=3)
    frame = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    assert list(frame.columns) == ["item", "label", "mark", "note"]
    assert (frame.drop(columns="item") == "").to_numpy().all()
    page = (tmp_path / "out" / "sheet.html").read_text()
    assert "secret" not in page and "secret" not in sheet.read_text()
    assert page.count("data:image/jpeg") == len(frame) and "Content-Security-Policy" in page
    assert re.findall(r'data-item="([^"]+)"', page) == frame["item"].tolist()
    main = page.partition("<main")[2].partition("</main>")[0]
    for label in VOCAB:  # each label is offered once for each image, and stands nowhere else
        assert main.count(label) == 2 * len(frame)
    key = key_of(run)
    assert set(key.index) == set(frame["item"]) and any("key-" in line for line in lines)
    assert not list((tmp_path / "out").glob("key*"))
    rows = key["why"].value_counts()
    assert rows["control"] == round(rows.sum() * 0.3)
    actual = dict(zip(predictions.table["path"], predictions.labels, strict=True))
    assert all(actual[path] == label for path, label in zip(key["path"], key["label"], strict=True))


def test_planted_mistakes_are_in_and_the_order_is_drawn(made):
    _, predictions, _ = made
    first, again, other = (choose_images(predictions, 20, seed=seed) for seed in (1, 1, 2))
    assert first.equals(again) and first["path"].tolist() != other["path"].tolist()
    assert set(range(4)) <= set(first.loc[first["why"] == "suspect", "row"])
    control = first[first["why"] == "control"]
    assert (control["label"] == control["pred"]).all() and set(control["label"]) == set(VOCAB)
    confused = first[first["why"] == "confused"]
    assert (confused["label"] != confused["pred"]).all()
    assert first["why"].tolist() != sorted(first["why"])


def test_training_images_are_read_too_and_their_corrections_come_back(made, tmp_path):
    run, predictions, _ = made
    rows = np.arange(30, 60)
    table = predictions.table.iloc[rows].assign(partition="train")
    table["path"] = [f"train/{i}.png" for i in range(30)]
    for path in table["path"]:
        (tmp_path / "images" / path).parent.mkdir(exist_ok=True)
        Image.new("L", (9, 9)).save(tmp_path / "images" / path)
    part = predictions.subset(rows)
    Predictions(VOCAB, False, part.y, part.probs, np.ones(30), table).save(run / "out_of_fold.csv")
    doubted = ["train/7.png", "train/3.png", predictions.table["path"][0]]
    found = pd.DataFrame({"path": doubted, "label": "", "suggested": "", "margin": -0.5, "near_duplicate": ""})
    found.to_csv(run / "label_errors.csv", index=False)
    sheet = tmp_path / "sheet.csv"
    export_review(run, sheet, n=12)
    key = key_of(run)
    assert set(key.loc[key["why"] == "suspect", "path"]) == set(doubted)
    assert key["path"].str.startswith("train/").sum() > 2  # controls and confused ones besides
    (item,) = key.index[key["path"] == "train/7.png"]
    said = next(label for label in VOCAB if label not in (key["label"][item], key["pred"][item]))
    fill(sheet, {item: said})
    back = import_review(run, sheet, n_boot=5)
    assert [row["path"] for row in back["disagreements"]] == ["train/7.png"]
    assert back["before"] == back["after"]  # the scores are of the validation images
    (correction,) = read_corrections(run / "review" / "sheet-corrections.csv").rows.to_dict("records")
    assert (correction["path"], correction["new_label"]) == ("train/7.png", said)


def test_what_comes_back_is_measured(made, tmp_path):
    run, predictions, true = made
    sheet = tmp_path / "reader.csv"
    export_review(run, sheet, n=24, pictures="folder")
    assert len(list((tmp_path / "reader-pictures").glob("*.png"))) == len(pd.read_csv(sheet))
    key = key_of(run)
    truth = dict(zip(predictions.table["path"], (VOCAB[c] for c in true), strict=True))
    answers = {item: truth[path] for item, path in key["path"].items()}
    poor = key.index[key["why"] == "control"][0]
    fill(sheet, answers | {key.index[5]: ""} if key.index[5] != poor else answers, {poor: "poor image"})
    frame = pd.read_csv(sheet, dtype=str, keep_default_na=False).set_index("item")
    found = import_review(run, sheet, n_boot=200)
    used = frame[(frame["label"] != "") & (frame["mark"] != "poor image")]
    for other, name in (("label", "reader_and_label"), ("pred", "reader_and_model")):
        peer = cohen_kappa_score(key.loc[used.index, other], used["label"])
        metric = found["agreement"][name]
        assert metric["value"] == pytest.approx(peer) and metric["low"] <= peer <= metric["high"]
        assert metric["n"] == len(used)
    labels = np.array(predictions.labels)
    assert found["before"]["accuracy"]["value"] == pytest.approx(accuracy_score(labels, predictions.preds))
    place = {path: row for row, path in enumerate(predictions.table["path"])}
    keep = np.ones(len(labels), bool)
    keep[place[key.loc[poor, "path"]]] = False
    for item in used.index:
        labels[place[key.loc[item, "path"]]] = used.loc[item, "label"]
    after = accuracy_score(labels[keep], np.array(predictions.preds)[keep])
    assert found["after"]["accuracy"]["value"] == pytest.approx(after) and found["after"]["n"] == len(labels) - 1
    assert json.loads((run / "review" / "reader.json").read_text())["after"]["n"] == len(labels) - 1
    rows = read_corrections(run / "review" / "reader-corrections.csv").rows
    assert set(rows["mark"]) == {"new label", "poor image"} and (rows["mark"] == "poor image").sum() == 1
    assert {f"{VOCAB[(true[i] + 1) % 3]}/secret {i:03}.png" for i in range(4)} <= set(rows["path"])
    assert any("favour" in sentence for sentence in found["sentences"])
    assert any(line.startswith("  doubtful labels: the reader agrees") for line in found["sentences"])


def test_rows_that_were_removed_are_counted(made, tmp_path):
    run, *_ = made
    sheet = tmp_path / "s.csv"
    export_review(run, sheet, n=10, pictures="none")
    label = key_of(run)["label"].to_dict()
    frame = fill(sheet, label)
    told = import_review(run, sheet, n_boot=50)["sentences"]
    assert not any("exported" in sentence for sentence in told)
    frame.iloc[2:].to_csv(sheet, index=False)
    found = import_review(run, sheet, n_boot=50)
    assert found["n_removed"] == 2 and found["n_read"] == len(label) - 2
    assert "2 images of the exported sheet are not in it." in found["sentences"]


def test_case_does_not_matter_and_blank_is_unread(made, tmp_path):
    run, *_ = made
    sheet = tmp_path / "s.csv"
    export_review(run, sheet, n=10, pictures="none")
    key = key_of(run)
    assert "path" in pd.read_csv(sheet)  # for a viewer of one's own
    fill(sheet, {item: label.upper() for item, label in key["label"].iloc[:6].items()})
    found = import_review(run, sheet, n_boot=50)
    assert found["n_read"] == 6 and found["agreement"]["reader_and_label"]["value"] == 1.0
    assert found["disagreements"] == [] and found["before"]["accuracy"] == found["after"]["accuracy"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(item=f["item"].str.replace("^.{6}", "000000", regex=True)), "no key holds its items"),
        (lambda f: f.assign(item=["../x-1", *f["item"][1:]]), "no key holds its items"),
        (lambda f: f.assign(item=[f["item"][0][:7] + "999", *f["item"][1:]]), "is not in its key"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "is there 2 times"),
        (lambda f: f.assign(label="polip"), "the label 'polip' is unknown"),
        (lambda f: f.assign(mark="good"), "the mark 'good' is unknown"),
        (lambda f: f, "is not filled in"),
        (lambda f: f.rename(columns={"item": "id"}), "has no column 'path'"),
    ],
)
def test_a_sheet_that_cannot_be_is_named(made, tmp_path, change, message):
    run, *_ = made
    sheet = tmp_path / "s.csv"
    export_review(run, sheet, n=8, pictures="none")
    frame = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    change(frame.drop(columns="path")).to_csv(sheet, index=False)
    with pytest.raises(DataError, match=message):
        import_review(run, sheet)
    assert not list((run / "review").glob("*-corrections.csv"))


def test_nothing_is_overwritten_unasked(made, tmp_path):
    run, *_ = made
    export_review(run, tmp_path / "s.csv", n=5, pictures="none")
    with pytest.raises(OutputError, match="exists already"):
        export_review(run, tmp_path / "s.csv", n=5, pictures="none")
    export_review(run, tmp_path / "s.csv", n=6, pictures="none", overwrite=True)
    (tmp_path / "report.html").write_text("mine")  # the sheet's page would stand there
    with pytest.raises(OutputError, match=r"report\.html exists already"):
        export_review(run, tmp_path / "report.csv", n=5)
    assert not (tmp_path / "report.csv").exists()
    with pytest.raises(OutputError, match=r"does not end in \.csv"):
        export_review(run, tmp_path / "s.html")


def test_the_page_s_review_comes_in_by_row_or_path(made, tmp_path):
    run, predictions, true = made
    lines = [f"{i + 1},{predictions.labels[i]},new label,{VOCAB[true[i]]}," for i in range(4)]
    lines.append(f"9,{predictions.labels[8]},label wrong,,")
    (tmp_path / "review.csv").write_text("row,label,mark,new_label,note\n" + "\n".join(lines) + "\n")
    found = import_review(run, tmp_path / "review.csv", n_boot=50)
    assert "agreement" not in found and found["after"]["n"] == len(predictions) - 1
    assert "1 image with a wrong label and no other would be left out, too." in found["sentences"]
    kept = len(predictions) - 1
    of = rf"The numbers before are of {kept + 1} \w+ images, those after of the {kept} that stay\."
    assert any(re.fullmatch(of, line) for line in found["sentences"])
    lines = show_review(run, tmp_path / "review.csv")
    assert "They replace those of an earlier sheet named review: rename one of two readers' sheets." in lines
    command = shlex.split(lines[-1].partition(": ")[2])
    assert command[3] == str(run) and command[-1] == str(run / "review" / "review-corrections.csv")
    rows = read_corrections(run / "review" / "review-corrections.csv").rows
    assert rows["path"].tolist() == predictions.table["path"].iloc[[0, 1, 2, 3, 8]].tolist()
    assert rows["new_label"].tolist() == [*(VOCAB[true[i]] for i in range(4)), ""]
    (tmp_path / "other.csv").write_text("path,label,mark,new_label\nnowhere.png,x,unsure,\n")
    with pytest.raises(DataError, match=r"no image nowhere\.png"):
        import_review(run, tmp_path / "other.csv")
    wrong = next(label for label in VOCAB if label != predictions.labels[0])
    (tmp_path / "other.csv").write_text(f"row,label,mark,new_label\n1,{wrong},unsure,\n")
    with pytest.raises(DataError, match="had the label"):
        import_review(run, tmp_path / "other.csv")


def test_several_labels(tmp_path):
    run, predictions, _ = make_run(tmp_path, multi_label=True)
    sheet = tmp_path / "s.csv"
    export_review(run, sheet, n=12)
    key = key_of(run)
    assert 'type="checkbox"' in (tmp_path / "s.html").read_text()
    answers = dict.fromkeys(key.index[:5], "ulcer | normal") | {key.index[6]: "(none)"}
    fill(sheet, answers)
    found = import_review(run, sheet, n_boot=50)
    assert found["n_read"] == 6 and set(found["agreement"]["by_label"]) == set(VOCAB)
    rows = read_corrections(run / "review" / "s-corrections.csv").rows.set_index("path")
    assert rows.loc[key["path"].iloc[0], "new_label"] == "normal|ulcer"
    assert rows.loc[key["path"].iloc[6], "new_label"] == "(none)"
    replace(predictions, y=predictions.y * (np.arange(60) > 0)[:, None]).save(run / "predictions.csv")  # one of none
    (tmp_path / "page.csv").write_text("row,label,mark,new_label\n1,(none),new label,ulcer\n")
    assert import_review(run, tmp_path / "page.csv", n_boot=50)["disagreements"][0]["new_label"] == "ulcer"


@pytest.mark.slow
def test_a_training_with_corrections(tmp_path, monkeypatch):
    from medclf.config import TrainConfig
    from medclf.demo_images import draw_endoscopy
    from medclf.reporting.report import Reported
    from medclf.results.run_folder import RunFolder
    from medclf.run.train import train

    data = draw_endoscopy(tmp_path / "data", n_per_class=6, size=(48, 48))
    before = {path: path.read_bytes() for path in data.rglob("*.jpg")}
    images = sorted((data / "polyp").glob("*.jpg"))
    lines = [f"polyp/{images[0].name},polyp,new label,normal,", f"polyp/{images[1].name},polyp,poor image,,"]
    (tmp_path / "review.csv").write_text("path,label,mark,new_label,note\n" + "\n".join(lines) + "\n")
    said: list[str] = []
    config = TrainConfig(
        data=str(data),
        out=str(tmp_path / "RUN"),
        arch="resnet18",
        weights=None,
        epochs=0,
        size=32,
        device="cpu",
        corrections=str(tmp_path / "review.csv"),
    )
    run = train(config, said.append)
    assert any("1 image has another label, 1 is left out" in line for line in said)
    record = json.loads((run / "run.json").read_text())
    assert record["settings"]["corrections"] == str(tmp_path / "review.csv")
    assert record["corrections"]["images"][0]["now"] == "normal" and len(record["corrections"]["sha256"]) == 64
    table = pd.read_csv(run / "table.csv", keep_default_na=False).set_index("path")
    assert table.loc[f"polyp/{images[0].name}", ["label", "label_before"]].tolist() == ["normal", "polyp"]
    assert table.loc[f"polyp/{images[1].name}", "problem"] == "poor image (review.csv)"
    facts = json.loads((run / "results.json").read_text())
    assert facts["corrections"]["left_out"] == 1 and "Corrections" in (run / "report.html").read_text()
    assert {path: path.read_bytes() for path in data.rglob("*.jpg")} == before
    rows = Reported.of_run(RunFolder(run)).rows
    part = table["partition"].to_dict()
    assert all(len(near) == 5 and {part[p] for p in near} == {"train"} for near in rows["neighbours"])
