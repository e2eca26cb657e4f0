"""The page of a detector: the test set's numbers first, each part in a column, and no part left out unsaid."""

import re

import pandas as pd

from medclf.images.box_places import SIDES
from medclf.images.preprocessing import Preprocessing
from medclf.metrics.intervals import Estimate
from medclf.reporting.boxes_page import render_boxes
from medclf.results.names import Names
from medclf.run.boxes import outcomes, sentence


def estimates(found, n):
    none = Estimate(0.25, 0.0, 0.5, 8)
    return {"hit_rate": Estimate(found / n, 0.2, 0.9, n), "false_alarms": none, "map50": none, "sensitivity_at_2": none}


def test_the_test_set_comes_first_and_empty_parts_are_named(tmp_path):
    given = pd.DataFrame([("a.png", "polyp", 1, 1, 9, 9)], columns=["path", "label", *SIDES])
    rows = outcomes(given, pd.DataFrame(columns=["path", "label", "prob", *SIDES]), 0.5)
    valid, test = estimates(3, 4), estimates(1, 2)
    boxes = {"sentence": sentence(valid, 8), "threshold": 0.5, **valid, "data": ["1 box"]}
    boxes["test"] = {"sentence": sentence(test, 8, "test"), **test}
    page = render_boxes(tmp_path, {"boxes": boxes}, rows, tmp_path, Preprocessing(32), Names(["a.png"], False))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()[page.read_text().index("<h1") :]))
    first = "1 of 2 findings on 8 test images were found: sensitivity 50 % (95 % CI 20 to 90 %), with 0.25 false alarms"
    assert text.index(first) < text.index("3 of 4 findings on 8 validation images were found: sensitivity 75 %")
    assert "The test images had no part in it." in text and "1 box." in text
    assert re.search(r"test images +validation images", text) and re.search(r"lies in them\) +50.0 % .* 75.0 %", text)
    assert "False alarms None." in re.sub(" +", " ", text) and "1 on 1 image." in text
    assert re.search(r"False alarms an image +2 +sensitivity +25.0 %", text)
    assert "no picture: " in text  # a.png is not there


def test_the_head_says_what_the_page_is_of(tmp_path):
    found = estimates(3, 4)
    boxes = {"sentence": sentence(found, 8), "threshold": 0.5, **found}
    results = {"boxes": boxes, "settings": {"arch": "resnet18"}, "versions": {"medclf": "0.2.0"}}
    rows, root = pd.DataFrame(columns=["path", "prob", "outcome"]), tmp_path / "kvasir" / "images"
    for hide, title in ((False, "Boxes: kvasir/images"), (True, "Boxes")):
        how = Preprocessing(32), Names([], hide)
        text = render_boxes(tmp_path, results, rows, root, *how, day="2026-01-31").read_text()
        head = " ".join(re.sub(r"<[^>]+>", " ", text[text.index("<h1") : text.index("</header>")]).split())
        assert head.startswith(f"{title} Model resnet18 Date 2026-01-31 Version medclf 0.2.0 ")
