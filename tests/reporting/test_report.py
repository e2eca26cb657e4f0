"""The page as a text: what it shows is what the facts say, and nothing of it reaches out or runs."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.errors import DataError, MedclfWarning, OutputError, ReadError
from medclf.images.heatmap import png_uri
from medclf.reporting.report import render, report
from medclf.results.run_folder import RunFolder

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
FOREIGN = {"svg", "line", "rect", "circle", "path", "text"}


class Strict(HTMLParser):
    """Parses a page and holds it to well-formedness."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice on {tag}"
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(str(found["id"]))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "style"):
            self.scripts.append((found, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in FOREIGN, f"<{tag}/> closes nothing in HTML"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        else:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"[ \n]+", " ", "".join(self.words))

    def json(self, name: str) -> Any:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == name))


def page(facts: Any, rows: Any, folder: Path, **options: Any) -> tuple[Strict, str]:
    text = render(facts, rows, folder / "page" / "report.html", **options).read_text(encoding="utf-8")
    return Strict(text), text


def test_the_first_sentence_is_about_the_images_that_do_not_leak(made_up: Any, tmp_path: Path) -> None:
    share = {"value": 0.75, "low": 0.531, "high": 0.888, "n": 20}
    numbers = {"all": {"n": 32, "accuracy": made_up.facts["accuracy"]}, "left": {"n": 20, "accuracy": share}}
    leak = {"sentence": "12 images are near-duplicates of training images.", "n": 32, "n_leaking": 12}
    parsed, _ = page(
        made_up.facts | {"leak_free": leak | {"numbers": numbers}}, made_up.rows, tmp_path, read=made_up.read
    )
    told = "Without leaked images, 15 of 20 validation images were classified correctly: accuracy 75 % (95 % CI 53"
    assert told in parsed.text


def test_the_page_shows_the_facts(made_up: Any, tmp_path: Path) -> None:
    parsed, _ = page(made_up.facts, made_up.rows, tmp_path, read=made_up.read, title="Scopes")
    facts, text = made_up.facts, parsed.text
    right = sum(facts["confusion_matrix"][i][i] for i in range(3))
    assert f"{right} of {facts['n']} validation images were classified correctly" in text
    share = facts["accuracy"]
    expected = f"{100 * share['value']:.0f} % (95 % CI {100 * share['low']:.0f} to {100 * share['high']:.0f} %)"
    assert expected in text
    for shown in ("71.2 %", "0.838", "0.562", "68.8 %", "0.812", "65.6 %"):  # metrics of the facts, rounded
        assert shown in text, shown
    assert "For research use" in text and "Scopes" in text
    assert "No patient is on both sides of the split." in text
    assert "ulcer/cut off.jpg" in text and "the file is truncated" in text
    assert "efficientnet_lite0" in text and "0.0021" in text and "2.14.1" in text
    for label, pred, n in facts["most_confused"][:6]:
        assert f"{label} predicted as {pred}: {n}" in text
    worst = made_up.valid.sort_values("loss", ascending=False).head(12)
    for row in worst.itertuples():
        assert row.path.rpartition("/")[2] in text and f"loss {row.loss:.3f}" in text
    for label in made_up.vocab:
        counted = [facts["data"]["counts"][p][label] for p in ("train", "valid")]
        assert f"{label}{counted[0]}{counted[1]}{sum(counted)}" in text.replace(" ", "")


def losses_of(made_up: Any, folder: Path, rows: Any) -> str:
    text = page(made_up.facts, rows, folder)[1]
    return text[text.index('id="errors"') : text.index('id="labels"')]


def test_the_top_losses_stop_at_the_errors(made_up: Any, tmp_path: Path) -> None:
    rows = made_up.rows.copy()
    wrong = rows.index[(rows["partition"] == "valid") & (rows["label"] != rows["pred"])]
    assert len(wrong) > 12
    part = losses_of(made_up, tmp_path, rows)
    assert f"the 12 of {len(wrong)} errors with the highest loss" in part
    rows.loc[wrong[3:], "pred"] = rows.loc[wrong[3:], "label"]  # right, by another rule than the highest probability
    part = losses_of(made_up, tmp_path, rows)
    top = part[: part.index('id="confused"')]
    assert "all 3 errors, the highest loss first" in top and top.count("✕") == 3 and "✓" not in top
    made_up.facts["most_confused"] = [["polyp", "ulcer", 1], ["normal", "polyp", 1]]  # which the top losses show
    assert "confused" not in losses_of(made_up, tmp_path, rows)
    rows.loc[wrong, "pred"] = rows.loc[wrong, "label"]
    made_up.facts["most_confused"] = []
    part = losses_of(made_up, tmp_path, rows)
    assert "No errors to show." in part and "#group=right&amp;order=unsure" in part and "✓" not in part


def test_both_probabilities_stand_beside_a_loss(made_up: Any, tmp_path: Path) -> None:
    parsed, _ = page(made_up.facts, made_up.rows, tmp_path)
    worst = made_up.valid.sort_values("loss", ascending=False).iloc[0]
    card = parsed.text[parsed.text.index(f"{worst['path'].rpartition('/')[2]} ") :][:200]
    assert f"{worst['label']} → {worst['pred']}" in card
    assert f"{worst['pred']}{100 * worst['prob_' + worst['pred']]:.1f} %" in card
    assert f"{worst['label']}{100 * worst['prob_' + worst['label']]:.1f} %" in card


def test_nothing_reaches_out(made_up: Any, tmp_path: Path) -> None:
    parsed, text = page(made_up.facts, made_up.rows, tmp_path, read=made_up.read)
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", re.sub(r'"data:[^"]*"', "", text), re.IGNORECASE)
    for tag, attributes in parsed.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form", "frame")
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert "url(" not in text and "@import" not in text
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_policy_admits_one_script_and_one_style(made_up: Any, tmp_path: Path) -> None:
    parsed, _ = page(made_up.facts, made_up.rows, tmp_path)
    policy = next(str(a["content"]) for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:" and "unsafe" not in policy
    run = [text for attributes, text in parsed.scripts if attributes.get("type") != "application/json"]
    for text, rule in zip(run, ("style-src", "script-src"), strict=True):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") or name == "style" for _, a in parsed.tags for name in a)
    assert not re.search(r"innerHTML|outerHTML|document\.write|\beval\(|new Function", run[1])


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(1)>",
    "\" onload='x'",
    "]]>&amp;",
]


def test_hostile_words_are_only_words(factory: Any, tmp_path: Path) -> None:
    data = factory(vocab=HOSTILE)
    data.rows["path"] = [f"{HOSTILE[i % 5]}/{i}.png" for i in range(len(data.rows))]
    data.rows["sex"] = [HOSTILE[i % 5] for i in range(len(data.rows))]
    data.facts["settings"] = {word: word for word in HOSTILE}
    data.facts["checklist"] = [{word: word} for word in HOSTILE]
    parsed, text = page(data.facts, data.rows, tmp_path, title=HOSTILE[0])
    plain, _ = page(factory(vocab=list("abcde")).facts, factory(vocab=list("abcde")).rows, tmp_path)
    assert sum(tag == "script" for tag, _ in parsed.tags) == sum(tag == "script" for tag, _ in plain.tags)
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert parsed.json("data")["vocab"] == HOSTILE
    assert all(word in parsed.text for word in HOSTILE)
    assert "<!--" not in text


def test_every_row_is_in_the_data(made_up: Any, tmp_path: Path) -> None:
    data = page(made_up.facts, made_up.rows, tmp_path)[0].json("data")
    assert data["names"] == made_up.rows["path"].tolist()
    assert [data["vocab"][c] for c in data["actual"]] == made_up.rows["label"].tolist()
    probs = np.array(data["probs"]).reshape(len(made_up.rows), -1)
    assert np.allclose(probs, made_up.rows[[f"prob_{v}" for v in made_up.vocab]], atol=1e-6)


def test_probabilities_of_many_labels_are_as_exact_as_they_are_shown(factory: Any, tmp_path: Path) -> None:
    made = factory(vocab=[f"grade {i}" for i in range(101)])
    data = page(made.facts, made.rows, tmp_path)[0].json("data")
    given = made.rows[[f"prob_{v}" for v in made.vocab]].to_numpy()
    assert np.abs(np.array(data["probs"]).reshape(given.shape) - given).max() <= 0.00005 + 1e-12
    assert max(len(json.dumps(p)) for p in data["probs"]) <= 6  # 0.1234


@pytest.mark.parametrize("limit", [{"max_thumbnails": 220}, {"max_megabytes": 2.6}])
def test_sampling_keeps_every_error_and_says_so(factory: Any, tmp_path: Path, limit: dict[str, Any]) -> None:
    data = factory(400)
    parsed, text = page(data.facts, data.rows, tmp_path, read=data.read, **limit)
    found = parsed.json("data")
    wrong = (data.rows["label"] != data.rows["pred"]).to_numpy()
    kept = np.array(found["place"]) >= 0
    assert kept[wrong].all() and 0 < (kept & ~wrong).sum() < (~wrong).sum()
    assert f"the pictures of {kept.sum()} of 400 images: all errors and a sample" in parsed.text
    if "max_megabytes" in limit:
        assert len(text) < limit["max_megabytes"] * 1e6
    small, large, saliency, *others = parsed.json("pictures-0")[0]
    assert small.startswith("data:image/jpeg;base64,") and large.startswith("data:image/jpeg;base64,")
    assert saliency == "" and others == ["", ""]


def test_all_pictures_are_kept_when_they_fit(made_up: Any, tmp_path: Path) -> None:
    parsed, _ = page(made_up.facts, made_up.rows, tmp_path, read=made_up.read)
    assert sorted(parsed.json("data")["place"]) == list(range(len(made_up.rows)))
    assert "To keep this page small" not in parsed.text


def test_an_assets_folder_holds_every_picture(made_up: Any, tmp_path: Path) -> None:
    options = {"read": made_up.read, "assets": tmp_path / "beside", "max_thumbnails": 5, "max_megabytes": 0.1}
    parsed, text = page(made_up.facts, made_up.rows, tmp_path, **options)
    sources = [source for chunk in (0, 1) for source in parsed.json(f"pictures-{chunk}")]
    assert len(sources) == len(made_up.rows) and "data:image/jpeg" not in text
    for small, large, *_ in sources:
        for address in (small, large):
            assert (tmp_path / "page" / address).resolve().is_file()
    with Image.open(tmp_path / "page" / sources[0][1]) as image:
        assert max(image.size) == 120  # as large as the image itself, never enlarged


def test_a_file_that_cannot_be_read_is_named(made_up: Any, tmp_path: Path) -> None:
    bad = made_up.rows["path"].iloc[3]
    hidden = made_up.rows["path"].iloc[4]

    def read(row: Any) -> Any:
        if row["path"] == bad:
            raise ReadError(bad, "12 bytes are missing")
        return None if row["path"] == hidden else made_up.read(row)

    parsed, _ = page(made_up.facts, made_up.rows, tmp_path, read=read)
    assert f"{bad}12 bytes are missing" in parsed.text
    assert "1 picture is withheld. 1 file could not be read." in parsed.text
    data = parsed.json("data")
    assert [data["absence"][-1 - data["place"][row]] for row in (3, 4)] == ["Cannot be read", "Picture withheld"]


def test_pictures_can_be_left_out(made_up: Any, tmp_path: Path) -> None:
    for pictures in (True, False):
        _, text = page(made_up.facts, made_up.rows, tmp_path, read=made_up.read, pictures=pictures)
        assert ("image/jpeg" in text) is pictures


def test_hidden_names_are_nowhere(made_up: Any, tmp_path: Path) -> None:
    paths = made_up.rows["path"].tolist()
    made_up.facts["audit"] = {
        "pairs": [{"path_a": paths[5], "path_b": "elsewhere/x 1.png", "why": f"{paths[6]} is a copy"}],
        "folder": "/home/someone/scopes",
    }
    rows = made_up.rows.assign(neighbours=[[paths[7], "train only.png"]] * len(paths))
    parsed, text = page(made_up.facts, rows, tmp_path, read=made_up.read, hide_names=True)
    for name in (*paths, "cut off", "elsewhere", "train only", "someone", "scopes"):
        assert html.escape(name) not in text and name not in text, name
    assert "row 6" in parsed.text and "row 7 is a copy" in parsed.text
    assert parsed.json("data")["patient"] == []


def test_optional_facts_appear_only_where_they_are(made_up: Any, tmp_path: Path) -> None:
    before = page(made_up.facts, made_up.rows, tmp_path)[1]
    made_up.facts |= {
        "folds": [{"fold": 1, "accuracy": {"value": 0.90625, "low": 0.8, "high": 0.95, "n": 40}}],
        "checklist": [{"item": "10", "text": "Eligibility", "value": "MISSING"}],
        "subgroups": {"sex": {"f": {"n": 40}, "m": {"n": 41}}},
        "calibration": {"temperature": 1.3125, "curve": {"coverage": [i / 20 for i in range(21)], "kept": [1.0] * 21}},
        "operating_point": {"label": "polyp", "threshold": 0.37},
        "something_new": {"answer": 42},
    }
    parsed, after = page(made_up.facts, made_up.rows, tmp_path)
    for heading in ("Cross-validation", "Checklist", "Subgroups", "Calibration", "Operating point", "Something new"):
        assert f"<h2>{heading}</h2>" not in before and f"<h2>{heading}</h2>" in after
    for value in ("90.6 %", "MISSING", "1.312", "0.37", "42"):
        assert value in parsed.text
    assert parsed.json("data")["thresholds"] == {"polyp": 0.37}


def test_the_page_opens_at_the_thresholds_that_decide(many_labels: Any, tmp_path: Path) -> None:
    label = many_labels.vocab[0]
    many_labels.facts["operating_point"] = {label: {"label": label, "threshold": 0.06, "decides": False}}
    ways = {"accuracy": {}, "threshold": {"thresholds": {label: 0.06}}}
    for rule, expected in (("accuracy", {}), ("threshold", {label: 0.06})):
        many_labels.facts["decision"] = {"rule": rule, "ways": ways}
        parsed, _ = page(many_labels.facts, many_labels.rows, tmp_path)
        assert parsed.json("data")["thresholds"] == expected


def test_several_labels(many_labels: Any, tmp_path: Path) -> None:
    parsed, _ = page(many_labels.facts, many_labels.rows, tmp_path)
    assert "Mean AUROC of 3 labels on 90 validation images of 31 patients: 0.812" in parsed.text
    for label, ((tn, fp), (fn, tp)) in many_labels.facts["confusion_matrix"].items():
        assert f"{label}{tp}{fn}{fp}{tn}" in parsed.text.replace(" ", "")
        assert f"{label}: missed: {fn}" in parsed.text


def test_no_nan_and_no_empty_set_stops_the_page(made_up: Any, tmp_path: Path) -> None:
    made_up.facts["auroc"] = {"value": float("nan"), "low": None, "high": None, "n": 0, "note": "one class only"}
    made_up.rows.loc[0, "loss"] = np.nan
    assert "one class only" in page(made_up.facts, made_up.rows, tmp_path)[0].text
    empty, _ = page(made_up.facts, made_up.rows.iloc[:0], tmp_path, read=made_up.read)
    assert empty.json("data")["n"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, r: (f, r.drop(columns="prob_polyp")), "no column 'prob_polyp'"),
        (lambda f, r: ({k: v for k, v in f.items() if k != "vocab"}, r), "no 'vocab'"),
        (lambda f, r: (f, r.assign(pred="cat")), "pred 'cat'"),
        (lambda f, r: (f, r.assign(saliency="javascript:alert(1)")), "no PNG data URI"),
    ],
)
def test_what_does_not_fit_is_named(made_up: Any, tmp_path: Path, change: Any, words: str) -> None:
    facts, rows = change(made_up.facts, made_up.rows)
    with pytest.raises(DataError, match=re.escape(words)):
        page(facts, rows, tmp_path)
    assert not (tmp_path / "page" / "report.html").exists()


def test_a_picture_of_another_type_is_refused(made_up: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float64"):
        page(made_up.facts, made_up.rows, tmp_path, read=lambda row: np.zeros((4, 4)))


def test_an_assets_folder_that_cannot_be_made_is_named(made_up: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match="taken"):
        page(made_up.facts, made_up.rows, tmp_path, read=made_up.read, assets=tmp_path / "taken")


def write_run(data: Any, folder: Path, images: Path) -> Path:
    run = folder / "RUN"
    run.mkdir()
    (run / "results.json").write_text(json.dumps(data.facts))
    (run / "run.json").write_text(json.dumps({"root": str(images)}))
    data.rows.drop(columns=["sex", "age"]).to_csv(run / "predictions.csv", index=False)
    data.rows[["path", "label", "sex"]].assign(problem="").to_csv(run / "table.csv", index=False)
    return run


def test_a_run_folder_becomes_its_report(factory: Any, tmp_path: Path) -> None:
    data = factory(30, vocab=["001", "NA"])
    for path in data.rows["path"]:
        target = tmp_path / "images" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.read({"path": path})).save(target)
    (tmp_path / "images" / data.rows["path"].iloc[2]).write_bytes(b"no picture")
    made = report(write_run(data, tmp_path, tmp_path / "images"), progress=False)
    assert made == tmp_path / "RUN" / "report.html"
    found = Strict(made.read_text(encoding="utf-8")).json("data")
    assert [found["vocab"][c] for c in found["actual"]] == data.rows["label"].tolist()
    assert found["columns"]["sex"][0] == ["f", "m"]
    assert [place >= 0 for place in found["place"]] == [i != 2 for i in range(30)]


def test_a_run_whose_images_are_gone_still_has_a_report(factory: Any, tmp_path: Path) -> None:
    run = write_run(factory(30), tmp_path, tmp_path / "moved")
    with pytest.warns(MedclfWarning, match="moved"):
        assert report(run, tmp_path / "r.html", progress=False).is_file()


def test_a_report_takes_no_other_file_s_place(factory: Any, tmp_path: Path) -> None:
    run, mine = write_run(factory(12), tmp_path, tmp_path), tmp_path / "mine.html"
    mine.write_text("<h1>My page</h1>")
    with pytest.raises(OutputError, match="medclf did not write it"):
        report(run, mine, progress=False)
    assert mine.read_text() == "<h1>My page</h1>"
    with pytest.raises(OutputError, match=r"does not end in \.html"):
        report(run, run / "predictions.csv", progress=False)
    report(run, mine, overwrite=True, progress=False)
    report(run, mine, progress=False)  # which medclf wrote, now
    for _ in range(2):
        report(run, run / "report.html", progress=False)  # its own


@pytest.mark.filterwarnings("ignore:.*the page shows none")
def test_an_assets_folder_loses_no_pictures_but_those_of_its_own_page(factory: Any, tmp_path: Path) -> None:
    data, pictures = factory(12), tmp_path / "pic tures"
    for path in data.rows["path"]:
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.read({"path": path})).save(tmp_path / "images" / path)
    run, mine = write_run(data, tmp_path, tmp_path / "images"), pictures / "000001-small.jpg"
    pictures.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"000001-small\.jpg is none of the pictures of .*a\.html"):
        report(run, tmp_path / "a.html", assets=pictures, progress=False)
    assert mine.read_bytes() == b"mine" and not (tmp_path / "a.html").exists()
    report(run, tmp_path / "a.html", assets=pictures, overwrite=True, progress=False)
    (pictures / "000099-large.jpg").write_bytes(b"of an image that is withheld now")
    (pictures / "notes.txt").write_text("mine")
    report(run, tmp_path / "a.html", assets=pictures, progress=False)  # its own
    with pytest.raises(OutputError, match=r"is none of the pictures of .*a\.html"):  # they would be trained on
        report(run, tmp_path / "a.html", assets=(tmp_path / "images" / path).parent, progress=False)
    assert not (pictures / "000099-large.jpg").exists() and (pictures / "notes.txt").exists() and mine.exists()
    with pytest.raises(OutputError, match=r"none of the pictures of .*b\.html"):  # page a would show those of b
        report(run, tmp_path / "b.html", assets=pictures, progress=False)


def test_an_interpretation_replaces_no_results_but_its_like(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"accuracy": 0.9}')
    with pytest.raises(OutputError, match=r"results\.json exists already, and medclf did not write it"):
        report(SimpleNamespace(), tmp_path / "page.html")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match=r"results\.json is of a run"):
        report(SimpleNamespace(), tmp_path / "page.html", overwrite=True)


def test_a_run_reads_nothing_outside_its_data(factory: Any, tmp_path: Path) -> None:
    data = factory(30)
    Image.new("L", (9, 9)).save(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    data.rows.loc[0, "path"], data.rows.loc[1, "path"] = "../secret.png", str(tmp_path / "secret.png")
    read = RunFolder(write_run(data, tmp_path, tmp_path / "images")).reader()
    assert read is not None
    for path in data.rows["path"][:2]:
        with pytest.raises(ReadError, match="outside"):
            read({"path": path})


@pytest.mark.parametrize("name", ["results.json", "predictions.csv"])
def test_a_run_that_lacks_a_file_is_named(factory: Any, tmp_path: Path, name: str) -> None:
    run = write_run(factory(30), tmp_path, tmp_path)
    (run / name).unlink()
    with pytest.raises(DataError, match=name):
        report(run)


def test_an_interpretation_gives_page_and_results(made_up: Any, tmp_path: Path, monkeypatch: Any) -> None:
    table = SimpleNamespace(to_frame=lambda: made_up.rows)
    looked = {made_up.rows["path"].iloc[1]: png_uri(np.zeros((2, 2, 4), np.uint8))}
    known = SimpleNamespace(predictions=table, results=made_up.facts, saliency=looked)
    known.table = known.neighbours = known.audit = known.out_of_fold = known.labels = None
    known.augmentation = ""
    monkeypatch.setattr("medclf.learn.assess.assessment_of", lambda learn, valid: known)
    interp = SimpleNamespace(learn=None, predictions=table, partition="valid", reader=lambda show: made_up.read)
    made = report(interp, tmp_path / "report.html", progress=False)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results.pop("checklist")["filled"] and results == made_up.facts
    parsed = Strict(made.read_text(encoding="utf-8"))
    assert parsed.json("data")["n"] == len(made_up.rows) and parsed.json("data")["saliency"] == 1
    report(interp, tmp_path / "report.html", progress=False)  # once more
    report(interp, tmp_path / "hidden" / "report.html", progress=False, hide_names=True)
    assert "cut off" not in (tmp_path / "hidden" / "results.json").read_text()


def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    labels = pd.read_csv(shared_data / "hyperkvasir-lower-gi" / "labels.csv").groupby("label").head(4)
    vocab = sorted(labels["label"].unique())
    probs = {f"prob_{name}": np.where(labels["label"] == name, 0.6, 0.1) for name in vocab}
    rows = pd.DataFrame({"path": labels["file"], "label": labels["label"], "pred": labels["label"], **probs})
    facts = {"task": "single-label", "partition": "valid", "n": len(rows), "vocab": vocab}

    def read(row: Any) -> np.ndarray:
        with Image.open(shared_data / "hyperkvasir-lower-gi" / row["path"]) as image:
            return np.asarray(image.convert("RGB"))

    parsed, text = page(facts, rows, tmp_path, read=read)
    assert min(parsed.json("data")["place"]) == 0
    assert 20 * 3_000 < len(text) < 20 * 200_000 + 200_000
