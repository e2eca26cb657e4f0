"""The checklist says what medclf knows, what the card says, and MISSING where neither does."""

import json
import re

import pytest
from torch import nn

from medclf.errors import DataError
from medclf.models.heads import describe_head
from medclf.models.pooling import GeMPool
from medclf.reporting.card import QUESTIONS, read_card, write_card
from medclf.reporting.checklist.claim import ITEMS, MISSING, checklist
from medclf.reporting.report import render, report

RUN = {  # what a plain run without a card knows
    "settings": {
        "arch": "resnet34",
        "weights": "default",
        "modality": "endoscopy",
        "n_in": 3,
        "n_out": 3,
        "dropout": 0.2,
        "bs": 64,
        "seed": 42,
        "preprocessing": {"size": [224, 320], "resize": "squish", "channels": 3, "window": None, "frame": "middle"},
        "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.2, 0.2, 0.2]},
    },
    "versions": {"medclf": "0.1.0", "torch": "2.14.1"},
}


def answers(facts, card=None, settings=None):
    return {row["item"].split()[0]: row for row in checklist(facts, card, settings)["items"]}


def test_there_are_44_items_and_each_can_be_answered():
    assert len(ITEMS) == 44
    assert all(item.answer or item.card for item in ITEMS)
    assert {item.card for item in ITEMS if item.card} == set(QUESTIONS)


def test_a_plain_run_fills_more_than_half(made_up):
    found = checklist({**made_up.facts, **RUN}, settings={"epochs": 3})
    missing = {int(row["item"].split()[0]) for row in found["items"] if row["answer"] == MISSING}
    assert found["filled"] == 44 - len(missing) >= 25
    # what no program can know of folders of images
    assert missing >= {3, 4, 5, 7, 8, 13, 14, 15, 16, 17, 18, 34, 41, 44}


def test_what_is_not_known_is_not_made_up():
    found = checklist({"task": "single-label", "vocab": ["a", "b"]})
    assert found["filled"] == 0
    assert {row["answer"] for row in found["items"]} == {MISSING}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "global average pooling, dropout 0.2, one linear layer of 3 outputs"),
        ({"all_stages": True}, "global average pooling of every stage, dropout 0.2, one linear layer of 3 outputs"),
        ({"head": describe_head(nn.Sequential(GeMPool(), nn.Flatten(), nn.Linear(8, 3)))}, "GeMPool, Flatten, Linear"),
    ],
)
def test_the_head_is_the_runs_own(made_up, more, told):
    run = {**RUN, "settings": {**RUN["settings"], **more}}
    answer = answers({**made_up.facts, **run})["22"]["answer"]
    assert told in answer and ("global average" in answer) == ("head" not in more)


def test_the_figures_are_those_of_the_run(made_up):
    accuracy = {"value": 0.9, "low": 0.86, "high": 0.93, "n": 200}
    found = answers({**made_up.facts, **RUN, "accuracy": accuracy}, settings={"epochs": 3, "lr": 1e-4})
    assert "Accuracy 90.0 % (86.0 to 93.0 %)" in found["37"]["answer"]
    assert "resnet34" in found["22"]["answer"] and "3 x 224 x 320 in" in found["22"]["answer"]
    assert "to 320 x 224 pixels of 3 channels" in found["9"]["answer"]
    assert "for 3 epochs" in found["25"]["answer"] and "base rate of 0.0001" in found["25"]["answer"]
    assert "preset for endoscopy" in found["25"]["answer"]
    assert "200 images here give the accuracy an interval of 7.0 points" in found["21"]["answer"]
    assert found["12"]["answer"].startswith("1 file was left out")
    assert found["23"]["answer"] == "medclf 0.1.0, torch 2.14.1."


def test_other_ways_to_train_are_told(made_up):
    facts = {**made_up.facts, **RUN, "folds": [{"fold": 0}], "training": {"history": [], "linear_probe": None}}
    found = answers(facts, settings={"epochs": 0})
    assert found["32"]["answer"].startswith("Cross-validation")
    assert "that of its fold" in found["27"]["answer"]
    assert "1 folds" in found["30"]["answer"]
    maps = answers({**facts, "saliency": {"method": "Grad-CAM", "n_images": 40}})["31"]["answer"]
    none = {"method": "Grad-CAM", "n_images": 0, "note": "too coarse"}
    assert answers({**facts, "saliency": none})["31"]["answer"] == "MISSING"
    assert maps.startswith("Grad-CAM maps") and "of 40 images" in maps
    head = {"strength": 0.01, "n_train": 70, "cv_folds": 5, "seconds": 1.0}
    found = answers({**facts, "training": {"history": [], "linear_probe": head}}, settings={"epochs": 0})
    assert "C = 0.01, by 5-fold cross-validation" in found["25"]["answer"]
    assert "features of 70 images" in found["24"]["answer"]


def test_a_part_of_the_network_and_smaller_images_first(made_up):
    settings = {"epochs": 2, "train_from": "layer4", "first_sizes": [128]}
    text = answers({**made_up.facts, **RUN}, settings=settings)["25"]["answer"]
    assert "the network from layer4 on for 2 epochs" in text and "first epochs at 128 pixels" in text


def test_the_card_answers_and_adds(made_up, tmp_path):
    card = {"Source": "two hospitals, 2019", "limitations": "one scope maker", "intended-use": "teaching"}
    found = answers({**made_up.facts, **RUN}, card)
    assert (found["7"]["answer"], found["7"]["source"]) == ("two hospitals, 2019", "card")
    assert found["40"]["answer"].startswith("one scope maker ") and found["40"]["source"] == "card and medclf"
    assert found["41"]["answer"] == "teaching"
    assert found["8"]["source"] == "card: eligibility"  # says where the answer could come from


def test_a_card_in_yaml(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("source: |\n  two hospitals,\n  2019\nannotators: [A, B]\nfunding:\ndesign: 2019-05-01\n")
    assert read_card(path) == {"design": "2019-05-01", "source": "two hospitals, 2019", "annotators": "A; B"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sorce: x", "did you mean source"),
        ("colour: x", "'colour' is not asked for"),
        ("source: {a: {b: c}}", "source is not text"),
        ("source: 'open", "not YAML in line"),
        ("- source", "holds no keys"),
        ("source: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_cards_that_cannot_be(tmp_path, text, words):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_card(path)


def test_a_card_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="medclf card"):
        read_card(tmp_path / "card.yaml")


def test_aliases_do_not_blow_up(tmp_path):
    path = tmp_path / "card.yaml"
    levels = "\n".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 12))
    path.write_text(f"x0: &x0 [lol]\n{levels}\nsource: *x11\n")
    with pytest.raises(DataError):
        read_card(path)


def test_the_written_card_asks_every_question(tmp_path):
    text = write_card(tmp_path / "card.yaml").read_text()
    assert re.findall(r"^(\w+):$", text, re.M) == list(QUESTIONS)
    assert read_card(tmp_path / "card.yaml") == {}


def test_the_page_shows_what_is_missing(made_up, tmp_path):
    facts = {**made_up.facts, **RUN}
    facts["checklist"] = checklist(facts, {"aims": "<b>to try it</b>"})
    page = render(facts, made_up.rows, tmp_path / "report.html").read_text()
    assert page.count('<td class="missing">MISSING') == facts["checklist"]["missing"]
    assert "&lt;b&gt;to try it&lt;/b&gt;" in page


def test_a_card_may_come_later(made_up, tmp_path):
    made_up.rows.to_csv(tmp_path / "predictions.csv", index=False)
    (tmp_path / "results.json").write_text(json.dumps({**made_up.facts, **RUN}))
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"epochs": 7}}))
    with pytest.warns(match="does not say where the images are"):
        page = report(tmp_path, card={"funding": "a foundation"}).read_text()
    facts = json.loads((tmp_path / "results.json").read_text())
    assert facts["card"] == {"funding": "a foundation"} and "a foundation" in page
    assert "for 7 epochs" in facts["checklist"]["items"][24]["answer"]
