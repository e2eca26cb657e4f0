"""`label-next` as a whole: a page and a sheet out, labels back in, on from there, and a training with them."""

import html
import json
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from medclf.auditing.labelling import STRENGTH, TYPICAL, choose_next, margin_of
from medclf.dataset.scan import scan
from medclf.errors import DataError, OutputError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.predictor import Predictor
from medclf.models.backbones import build_network
from medclf.models.heads import pool_by
from medclf.models.spec import ModelSpec, Normalization
from medclf.run import label_page
from medclf.run.label_next import FittedPool, NextLabels, label_next
from medclf.run.label_page import write_next
from medclf.run.labels_so_far import notes_of
from medclf.run.pool_features import encoder

VOCAB = ["bright", "dark"]
QUICK = {"arch": "resnet18", "weights": None, "progress": False}


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """24 noisy images, half of them bright, and a file that is no image."""
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    folder = tmp_path / "pool"
    folder.mkdir()
    for number in range(24):
        level = 200 if number % 2 else 50
        pixels = np.clip(rng.normal(level, 20, (32, 32)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def answer(path):
    return VOCAB[1 - int(path[:2]) % 2]


def test_a_page_and_a_sheet_and_on_from_what_came_back(pool, tmp_path):
    lines = write_next(pool, tmp_path / "next.html", n=6, vocab=VOCAB, **QUICK)
    sheet = pd.read_csv(tmp_path / "next.csv", dtype=str, keep_default_na=False)
    assert list(sheet) == ["path", "label", "mark", "note"]
    assert len(sheet) == sheet["path"].nunique() == 6 and (sheet["label"] == "").all()
    page = (tmp_path / "next.html").read_text()
    assert page.count('class="reading') >= 6 and "data-path=" in page and "http" not in page.split("<main")[1]
    assert any("medclf train" in line for line in lines)
    sheet["label"] = [answer(path) for path in sheet["path"]]
    sheet.loc[0, ["label", "mark"]] = ["", "poor image"]
    sheet.to_csv(tmp_path / "next.csv", index=False)
    lines = write_next(pool, tmp_path / "more.html", n=6, labels=tmp_path / "next.csv", **QUICK)
    assert not any("neither label nor mark" in line for line in lines)
    again = pd.read_csv(tmp_path / "more.csv", dtype=str, keep_default_na=False).set_index("path")
    assert len(again) == 12 and again.index.is_unique
    assert again.loc[sheet["path"][1], "label"] == answer(sheet["path"][1])  # the sheet carries what was said before
    assert again.loc[sheet["path"][0], "mark"] == "poor image"
    assert (again["label"] == "").sum() == 7
    lines = write_next(pool, tmp_path / "third.html", n=6, labels=tmp_path / "more.csv", **QUICK)  # not filled in
    assert lines[0] == "6 of 12 images of more.csv have neither label nor mark."
    table = scan(pool, labels=tmp_path / "next.csv", progress=False)  # as `train --labels` reads it
    assert (table["problem"] == "").sum() == 5


def test_images_whose_pictures_are_withheld_take_no_place(pool, tmp_path):
    for number in range(3):
        shutil.copy(get_testdata_file("examples_palette.dcm"), pool / f"us{number}.dcm")  # ultrasound
    lines = write_next(pool, tmp_path / "next.html", n=24, vocab=VOCAB, **QUICK)
    assert set(pd.read_csv(tmp_path / "next.csv")["path"]) == {f"{number:02}.png" for number in range(24)}
    assert any(line.startswith("3 images are not asked for, since such pixels") for line in lines)
    lines = write_next(pool, tmp_path / "all.html", n=27, vocab=VOCAB, show_burned_in=True, **QUICK)
    assert len(pd.read_csv(tmp_path / "all.csv")) == 27 and not any("not asked for" in line for line in lines)
    labels = {f"{number:02}.png": answer(f"{number:02}.png") for number in range(24)}
    with pytest.raises(DataError, match="all 3 images without a label often carry the patient's name"):
        write_next(pool, tmp_path / "none.html", labels=labels, **QUICK)


def commands(lines):
    """The two commands that a page and the terminal say to go on with, as words."""
    return [shlex.split(line) for line in lines[-2:]]


def test_what_it_says_to_go_on_with_goes_on(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = write_next("pool", "next.html", n=6, vocab=[*VOCAB, "in between"], seed=3, **QUICK)
    again, train = commands(lines)
    assert again[:6] == ["medclf", "label-next", "pool", "--labels", "next.csv", "--out"] and again[6] == "next-2.html"
    assert shlex.join(again[7:]) == "--n 6 --vocab bright --vocab dark --vocab 'in between' --seed 3 --arch resnet18"
    assert train == ["medclf", "train", "pool", "--labels", "next.csv"]
    page = html.unescape((tmp_path / "next.html").read_text())
    assert shlex.join(again) in page and shlex.join(train) in page
    assert "Why these images: 6 stand for images like them, of which none has a label." in page
    with pytest.raises(DataError, match=r"next\.csv is not filled in"):
        write_next("pool", "next-2.html", n=6, labels="next.csv", **QUICK)


def test_a_note_without_a_label_stays_in_the_sheet_or_stands_on_the_page(pool, tmp_path, monkeypatch):
    images = pd.DataFrame({"path": ["00.png", "01.png"], "why": TYPICAL, "suggestion": "", "prob": 0.5, "margin": 0.0})
    remarks = {"00.png": ("", 'two "lesions"'), "02.png": ("", "ask A."), "03.png": ("", ""), "04.png": ("", "sharp")}
    found = NextLabels(images, None, {"04.png": "dark"}, [], VOCAB, pool, remarks=remarks)
    monkeypatch.setattr(label_page, "label_next", lambda *_, **__: found)
    write_next(pool, tmp_path / "next.html", n=2)
    sheet = pd.read_csv(tmp_path / "next.csv", dtype=str, keep_default_na=False).set_index("path")
    notes = {"04.png": "sharp", "02.png": "ask A.", "00.png": 'two "lesions"', "01.png": ""}
    assert sheet["note"].to_dict() == notes and sheet["label"].tolist() == ["dark", "", "", ""]
    assert 'value="two &#34;lesions&#34;"' in (tmp_path / "next.html").read_text()


def test_patients_and_remarks_travel_with_the_sheet(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = sorted(path.name for path in pool.iterdir())
    rows = pd.DataFrame({"path": [f"pool/{path}" for path in paths], "who": [f"P{path[:2]}" for path in paths]})
    rows.to_csv("all.csv", index=False)
    said = pd.DataFrame({"path": rows["path"][:3], "label": [*VOCAB, "dark"], "mark": "", "note": ""})
    said.loc[1, ["mark", "note"]] = ["unsure", "blurred"]
    said.to_csv("said.csv", index=False)
    lines = write_next("all.csv", "next.html", n=4, labels="said.csv", patient_col="who", **QUICK)
    sheet = pd.read_csv("next.csv", dtype=str, keep_default_na=False).set_index("path")
    assert sheet["who"].nunique() == len(sheet) == 7 and not sheet["who"].isin(rows["who"]).any()  # pseudonyms
    assert list(sheet.loc["pool/01.png", ["label", "mark", "note"]]) == ["dark", "unsure", "blurred"]
    again, train = commands(lines)
    assert again[2] == "all.csv" and "--patient-col who" in shlex.join(again)
    assert train == ["medclf", "train", ".", "--labels", "next.csv", "--patient-col", "who"]
    table = scan(train[2], labels="said.csv", progress=False)  # its paths are those of the sheet
    assert (table["problem"] == "").sum() == 3
    rows.rename(columns={"path": "file"}).to_csv("named.csv", index=False)
    again, train = commands(write_next("named.csv", "second.html", n=4, labels="said.csv", path_col="file", **QUICK))
    assert "--path-col file" in shlex.join(again)
    assert train == ["medclf", "train", ".", "--labels", "second.csv"]  # the sheet's paths are in a column of its own


def test_no_other_file_is_replaced_by_the_sheet(pool, tmp_path):
    (tmp_path / "mine.csv").write_text("path\npool/00.png\n")
    for given, message in (({}, "mine.csv exists already"), ({"overwrite": True}, "which is the pool")):
        with pytest.raises(OutputError, match=message):
            write_next(tmp_path / "mine.csv", tmp_path / "mine.html", vocab=VOCAB, **given, **QUICK)
    with pytest.raises(OutputError, match="which is the second reader's sheet"):
        write_next(pool, tmp_path / "mine.html", second=tmp_path / "mine.csv", overwrite=True, vocab=VOCAB, **QUICK)
    assert (tmp_path / "mine.csv").read_text().startswith("path")


def test_the_encoders_stages_count_alike(pool, monkeypatch):
    module, fitted, chosen = sys.modules["medclf.run.label_next"], [], []
    fit, choose = module.fit_linear, module.choose_next
    monkeypatch.setattr(module, "fit_linear", lambda x, *a, **k: fitted.append((x, k["widths"])) or fit(x, *a, **k))
    monkeypatch.setattr(module, "choose_next", lambda x, *a, **k: chosen.append((x, k["skill"])) or choose(x, *a, **k))
    label_next(None, pool, 3, vocab=VOCAB, **QUICK)
    assert not fitted
    labels = {path.name: answer(path.name) for path in sorted(pool.iterdir())[:14]}
    label_next(None, pool, 3, labels=labels, **QUICK)
    features, widths = fitted[0]
    assert widths == (64, 64, 128, 256, 512) and features.shape == (14, sum(widths))
    (first, _), (second, skill) = chosen  # the same images, with and without labels
    np.testing.assert_allclose(first, second)
    assert first.shape == (24, 24) and 0.5 < skill <= 1  # the main axes of all stages


def test_it_is_unsure_where_a_fit_is_in_which_all_classes_weigh_alike():
    rng = np.random.default_rng(0)
    y = (np.arange(200) % 10 == 0).astype(int)
    features = rng.normal(size=(200, 6)) + 1.5 * y[:, None]
    known = np.arange(200) < 60
    found = FittedPool(features, (), np.where(known, y, -1), None, 2).choose(known, None, 8)
    x = StandardScaler().fit_transform(features)
    fit = LogisticRegression(C=STRENGTH, class_weight="balanced").fit(x[known], y[known])
    margins = margin_of(fit.predict_proba(x))
    assert found["margin"].to_numpy() == pytest.approx(margins[found["row"]], abs=0.02)
    assert found["margin"].mean() < margins[~known].mean()


@pytest.mark.parametrize("told", [True, False])
def test_of_several_labels_doubt_counts_as_far_as_the_probe_is_right(told):
    rng = np.random.default_rng(0)
    features, known = rng.normal(size=(200, 8)), np.arange(200) < 80
    y = (features[:, :2] > 0 if told else rng.random((200, 2)) > 0.5).astype(int)
    pool = FittedPool(features, (), np.where(known[:, None], y, -1), None, 2, multi_label=True)
    probs, _ = pool.probs(False, None)
    found = pool.choose(known, probs, 10)
    alike = choose_next(features, known, 10)
    assert (pool.skill > 0.6) == told and (pool.skill < 0.3) == (not told)
    least_sure = np.abs(2 * probs[~known] - 1).min(1)
    assert found["margin"].mean() < least_sure.mean() or not told
    assert len(set(found["row"]) & set(alike["row"])) >= 6 or told


def test_labels_fit_a_probe_that_suggests_and_forecasts(pool):
    paths = sorted(path.name for path in pool.iterdir())
    labels = {path: answer(path) for path in paths[:14]}
    found = label_next(None, pool, 12, labels=labels, **QUICK)
    assert not set(found.images["path"]) & set(labels)
    assert "Only 10 images are left to label: all of them are chosen." in found.notes
    assert found.vocab == VOCAB and found.images["prob"].between(0.5, 1).all()
    assert (found.images["suggestion"] == found.images["path"].map(answer)).mean() >= 0.8
    assert found.forecast is None  # 14 labels are too few
    twenty = {path: answer(path) for path in paths[:20]}
    said = label_next(None, pool, 3, labels=twenty, **QUICK).forecast
    assert said.n == 20 and said.more == 3 and 0 <= said.now.low <= said.now.high <= 1


def test_two_readers_agree_so_far_and_where_they_differ_comes_first(pool, tmp_path):
    paths = sorted(path.name for path in pool.iterdir())
    first = pd.DataFrame({"path": paths[:8], "label": [answer(path) for path in paths[:8]], "mark": ""})
    first.to_csv(tmp_path / "a.csv", index=False)
    first.assign(label=[*first["label"][:7], "bright" if answer(paths[7]) == "dark" else "dark"]).to_csv(
        tmp_path / "b.csv", index=False
    )
    found = label_next(None, pool, 4, labels=tmp_path / "a.csv", second=tmp_path / "b.csv", **QUICK)
    assert found.images["path"][0] == paths[7] and "disagree" in found.images["why"][0]
    assert "differ on 1" in found.notes[0] and "0.75" in found.notes[0]  # kappa by hand: (7/8 - 1/2) / (1 - 1/2)


def test_what_cannot_be_is_refused_with_a_remedy(pool, tmp_path):
    with pytest.raises(DataError, match="no two classes"):
        label_next(None, pool, **QUICK)
    with pytest.raises(DataError, match="is there twice"):
        label_next(None, pool, vocab=["dark", "dark"], **QUICK)
    with pytest.raises(DataError, match="'grey' is none of the classes"):
        label_next(None, pool, labels={"00.png": "grey"}, vocab=VOCAB, **QUICK)
    with pytest.raises(DataError, match=r"no image gone\.png"):
        label_next(None, pool, labels={"gone.png": "dark"}, vocab=VOCAB, **QUICK)
    with pytest.raises(DataError, match="n must be 1 or more, not 0"):
        label_next(None, pool, 0, vocab=VOCAB, **QUICK)
    with pytest.raises(DataError, match="a bundle or a RUN, not a dict"):
        label_next({}, pool, **QUICK)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes((pool / "00.png").read_bytes()[:60])
    with pytest.raises(DataError, match="none of the images can be read"):
        label_next(None, tmp_path / "broken", vocab=VOCAB, **QUICK)
    with pytest.raises(OutputError, match=r"does not end in \.html"):
        write_next(pool, tmp_path / "next.csv", vocab=VOCAB, **QUICK)
    (tmp_path / "next.html").write_text(json.dumps("mine"))
    with pytest.raises(OutputError, match="exists already"):
        write_next(pool, tmp_path / "next.html", vocab=VOCAB, **QUICK)


def test_what_two_readers_alone_said_is_told_and_a_mistake_is_none_of_their_differences(pool, tmp_path):
    paths = sorted(path.name for path in pool.iterdir())
    first = pd.DataFrame({"path": paths[:8], "label": [answer(path) for path in paths[:8]], "mark": ""})
    first.to_csv(tmp_path / "a.csv", index=False)
    other = pd.DataFrame({"path": paths[:10], "label": [answer(path) for path in paths[:10]], "mark": ""})
    other.loc[0, ["label", "mark"]] = ["", "poor image"]
    other.loc[1:2, "label"] = [answer(paths[2]), answer(paths[1])]
    other.to_csv(tmp_path / "b.csv", index=False)
    both = {"labels": tmp_path / "a.csv", "second": tmp_path / "b.csv"}
    notes = label_next(None, pool, 1, **both, **QUICK).notes
    assert notes[0].startswith("Two readers labelled 7 images and differ on 2:")
    assert notes[1] == "2 labels are the second reader's alone. They do not count."
    assert notes[2] == "1 images are poor for the second reader alone. The first one's labels count."
    assert "1 more images on which the readers differ have no label now" in notes[-1]
    other.assign(label=other["label"].replace("dark", "Dark")).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match="'Dark' is none of the classes"):
        label_next(None, pool, 4, vocab=VOCAB, **both, **QUICK)


def test_an_unsure_image_without_a_label_stays_in_the_sheet_and_is_not_asked_for_again(pool, tmp_path):
    rows = [("00.png", "dark", "", ""), ("01.png", "", "unsure", "two findings")]
    pd.DataFrame(rows, columns=["path", "label", "mark", "note"]).to_csv(tmp_path / "said.csv", index=False)
    lines = write_next(pool, tmp_path / "next.html", n=24, labels=tmp_path / "said.csv", vocab=VOCAB, **QUICK)
    sheet = pd.read_csv(tmp_path / "next.csv", dtype=str, keep_default_na=False).set_index("path")
    assert sheet.index.is_unique and len(sheet) == 24
    assert list(sheet.loc["01.png"]) == ["", "unsure", "two findings", "yes"]
    assert (sheet["earlier"] == "yes").sum() == 2  # not what the page's reader said
    assert lines[0] == "1 image is marked unsure without a label, and not asked for again."


@pytest.mark.parametrize("names", [["dark", "bright"], ["grey", "bright", "dark"]])
def test_a_model_s_suggestions_keep_their_names_in_another_order_of_the_classes(pool, monkeypatch, names):
    level = {path.name: np.asarray(Image.open(path)).mean() for path in pool.iterdir()}

    def encoder(*_):
        def encode(paths, digests):
            light = np.array([level[path.name] for path in paths]) / 255
            return np.stack([light, light**2], axis=1), np.stack([light, 1 - light], axis=1)  # of bright, of dark

        return encode, ()

    monkeypatch.setattr("medclf.run.label_next.encoder", encoder)
    model = SimpleNamespace(
        spec=SimpleNamespace(vocab=VOCAB, multi_label=False, ordinal=False, preprocessing=Preprocessing(32))
    )
    found = label_next(model, pool, 6, vocab=names)
    assert (found.images["suggestion"] == found.images["path"].map(answer)).all()
    fewer = label_next(model, pool, 6, vocab=["dark", "grey"])
    assert (fewer.images["suggestion"] == "").all()
    assert "The model's class 'bright' is none of those named, so the model has no part in the choice." in fewer.notes


def test_of_a_run_whose_frames_are_images_each_frame_is_asked_for(pool, tmp_path, monkeypatch):
    stack = [Image.new("L", (20, 20), 40 * page) for page in range(6)]
    (tmp_path / "stacks").mkdir()
    stack[0].save(tmp_path / "stacks" / "a.tif", save_all=True, append_images=stack[1:])
    values = np.random.default_rng(0).normal(size=(6, 4))
    monkeypatch.setattr("medclf.run.label_next.encoder", lambda *_: (lambda paths, digests: (values, None), ()))
    how = Preprocessing(32, frame="all")
    model = SimpleNamespace(
        spec=SimpleNamespace(vocab=VOCAB, multi_label=False, ordinal=False, preprocessing=how),
        preprocessing=how,
        multi_label=False,
    )
    monkeypatch.setattr("medclf.run.label_page.opened", lambda run: model)
    lines = write_next(tmp_path / "stacks", tmp_path / "next.html", run="RUN", n=3, progress=False)
    sheet = pd.read_csv(tmp_path / "next.csv", dtype=str)
    assert sheet["path"].str.fullmatch(r"a\.tif#\d").all() and len(sheet) == 3
    assert shlex.join(commands(lines)[1]).endswith("--labels next.csv --frame all")
    with pytest.raises(DataError, match="window is for an encoder without a model"):
        label_next(model, tmp_path / "stacks", window="lung")


def test_a_learner_a_bundle_and_an_exported_file_see_the_same_stages(pool, tmp_path):
    network = build_network("resnet18", 2, weights=None)
    pool_by(network, "stages")
    half = Normalization([0.5] * 3, [0.5] * 3)
    learn = SimpleNamespace(model=network, spec=ModelSpec("resnet18", VOCAB, Preprocessing(32), half, all_stages=True))
    network.eval()
    bundle = load_bundle(save_bundle(learn, tmp_path / "a.bundle", calibration={}), verify=False)
    exported = Predictor(bundle.content, "a", bundle.runnable.run)  # what OnnxModel is, on another runtime
    exported.calibration = {"temperature": 2.0}
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    seen = []
    for model in (learn, bundle, exported):
        encode, widths = encoder(model, "", None, None, "middle", False)
        features, probs = encode([pool / "00.png", broken, pool / "01.png"], ["", "", ""])
        assert widths == (64, 64, 128, 256, 512) and features.shape == (3, sum(widths)) and probs.shape == (3, 2)
        assert np.isfinite(features).all(1).tolist() == [True, False, True]
        seen.append(features[[0, 2]])
    for other in seen[1:]:
        assert other == pytest.approx(seen[0], rel=1e-3, abs=1e-4)
    told = [row["prob"] for row in label_next(exported, pool, 24, progress=False).images.to_dict("records")]
    assert max(told) == pytest.approx(max(exported.predict_probs(sorted(pool.iterdir())).max(1)), rel=1e-4)
    lines = write_next(pool, tmp_path / "next.html", run=tmp_path / "a.bundle", n=4, progress=False)
    assert "classes: bright, dark" in "".join(lines) and "labelled images of the run" not in "".join(lines)
    given = label_next(bundle, pool, 4, progress=False).images
    assert list(pd.read_csv(tmp_path / "next.csv")["path"]) == list(given["path"])


def test_what_has_no_part_in_the_choice_is_told():
    model = SimpleNamespace(fields=[{"name": "age"}], unit_rule=SimpleNamespace(unit="patient"))
    told = notes_of(model, ["Dark", "bright", "dark"])
    assert [text.split(":")[0].split(";")[0] for text in told] == [
        "The labels 'Dark' and 'dark' differ only in spelling",
        "The model's columns beside the image have no part in this",
        "The model answers for each patient",
    ]
    assert notes_of(None, VOCAB) == []


@pytest.mark.parametrize("ordinal", [True, False])
def test_the_order_of_a_model_s_grades_goes_on_into_the_training(tmp_path, ordinal):
    found = NextLabels(pd.DataFrame(), None, {}, [], ["grade 1", "grade 0"], tmp_path, ordinal=ordinal)
    *_, train = label_page._commands(tmp_path, Path("n.html"), Path("n.csv"), found, {"run": "RUN"})
    assert ("--ordinal 'grade 1,grade 0'" in train) == ordinal
