"""The sections of what the numbers are worth, on the page."""

import numpy as np
import pandas as pd

from medclf.reporting.report import render
from medclf.reporting.sections import SECTIONS, Section, section_blocks, sections_of
from medclf.reporting.tables import Block, no_picture

METRIC = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
BARS = [{"low": 0.8, "high": 0.9, "confidence": 0.85, "frequency": METRIC}]
FACTS = {
    "task": "single-label",
    "partition": "valid",
    "n": 2,
    "vocab": ["normal", "polyp"],
    "confusion_matrix": [[1, 0], [0, 1]],
    "leak_free": {
        "sentence": "1 of the 2 validation images is a near-duplicate of a training image.",
        "numbers": {"all": {"n": 2, "accuracy": METRIC}, "left": {"n": 1, "accuracy": METRIC}},
    },
    "audit": {
        "sentences": [{"finding": "1 of 2 validation images has a near-duplicate in the training set."}],
        "pairs": [
            {
                "path_a": "a.png",
                "path_b": "t/<b>.png",
                "kind": "twin-across-split",
                "similarity": 0.97,
                "detail": "mirrored",
            }
        ],
    },
    "calibration": {
        "sentence": "Divided by 2.",
        "ece": {"before": METRIC, "after": METRIC},
        "brier": {"before": METRIC, "after": METRIC},
        "reliability": {"before": BARS, "after": BARS},
    },
    "abstain": {
        "sentence": "Below 0.7 it is unsure.",
        "numbers": {"coverage": METRIC, "accuracy": METRIC, "accuracy_unsure": METRIC},
        "curve": {"coverage": [0.5, 1.0], "accuracy": [1.0, 0.9], "low": [0.6, 0.5], "high": [1.0, 0.99]},
    },
    "operating_point": {
        "label": "polyp",
        "threshold": 0.3,
        "sentence": "polyp is called from 0.300.",
        "table": {"tp": 31, "fp": 7, "fn": 5, "tn": 57},
        "sensitivity": METRIC,
        "specificity": METRIC,
        "ppv": METRIC,
        "npv": METRIC,
        "prevalence": 0.01,
        "restated": {"sentence": "Of 1,000 patients, 10 have it: 1 would be missed.", "ppv": METRIC, "npv": METRIC},
        "decides": False,
    },
    "external": [{"images": "clinic two", "n": 30, "accuracy": METRIC, "page": "evaluations/clinic two/report.html"}],
}


def test_the_page_tells_what_the_numbers_are_worth(tmp_path):
    rows = pd.DataFrame(
        {
            "path": ["a.png", "c.png"],
            "partition": "valid",
            "label": ["normal", "polyp"],
            "pred": ["normal", "polyp"],
            "loss": 0.1,
            "prob_normal": [0.9, 0.1],
            "prob_polyp": [0.1, 0.9],
        }
    )
    page = render(FACTS, rows, tmp_path / "p.html", read=lambda row: np.full((8, 8), 99, np.uint8)).read_text()
    for text in (
        "1 of 2 validation images has a near-duplicate in the training set.",
        "split across training, validation or test set, 97.0 % alike",
        "Divided by 2.",
        "Below 0.7 it is unsure.",
        "Of 1,000 patients, 10 have it: 1 would be missed.",
        "At a prevalence of 1.0 %",
        "does not use this threshold",
        'href="evaluations/clinic%20two/report.html"',
    ):
        assert text in page, text
    assert page.count('aria-label="Reliability') == 2  # before and after, and no third elsewhere
    assert "<b>.png" not in page  # a file's name is text
    pair = page[page.index('class="case pair"') :][:6000]
    assert pair[: pair.index("</li>")].count("<img") == 2


def test_what_most_readers_do_without_is_folded():
    (fold,) = section_blocks("audit", {"n_images": 3, "classes": {"a": {"n": 3}}})
    assert (fold.kind, fold.text) == ("folded", "How this was measured")
    assert [row[0].text for row in fold.items[0].rows] == ["Images"]


def test_a_reliability_curve_has_a_point_a_bar():
    bars = [{**BARS[0], "confidence": at} for at in (0.15, 0.45, 0.75, 0.95)]
    (charts,) = section_blocks("calibration", {"reliability": {"here": bars}})
    ((chart, caption),) = charts.items
    assert chart.svg.count("<circle") == 4 and caption.count("dotted line") == 1


def test_a_section_without_a_builder_is_shown_plainly():
    assert [block.kind for block in section_blocks("robustness", {"noise": 0.5})] == ["facts"]


def test_a_link_leads_nowhere_but_beside_the_page():
    links = section_blocks("external", [{"images": "x", "page": "javascript:alert(1)"}])[1]
    assert links.items == [("The page of x", "javascript%3Aalert%281%29")]


def test_several_labels_have_a_heading_each():
    point = FACTS["operating_point"]
    found = section_blocks("operating_point", {"a": {**point, "label": "a"}, "b": {"label": "b", "sentence": "No."}})
    assert [block.text for block in found if block.kind == "heading" and len(block.text) == 1] == ["a", "b"]


def test_one_more_row_is_one_more_section(monkeypatch):
    def build(value, picture):
        return [Block("text", text=f"{value['n']} readers")]

    monkeypatch.setitem(SECTIONS, "readers", Section("Readers", build))
    ((key, heading, (block,)),) = sections_of({"n": 3, "readers": {"n": 4}})
    assert (key, heading, block.text) == ("readers", "Readers", "4 readers")


def test_sections_stand_in_the_tables_order():
    results = {key: {"sentence": "Yes."} for key in reversed([*SECTIONS, "of_my_own"])}
    assert [key for key, _, _ in sections_of(results)] == [*SECTIONS, "of_my_own"]


def test_a_plan_says_what_was_compared_and_how_surely():
    tried = {"name": "fine-tuning: 5 epochs", "chosen": False, "n": 80, "before": 0.3, "after": 0.5, "low": 0.1}
    rows = [{"name": "linear probe", "chosen": True}, {**tried, "high": 0.3, "seconds": 9.0}]
    text, table = section_blocks("plan", {"sentence": "Chosen: linear probe.", "candidates": rows})
    assert text.text == "Chosen: linear probe."
    cells = [[cell.text for cell in row] for row in table.rows]
    assert cells[1] == ["fine-tuning: 5 epochs", "no", "80", "0.3", "0.5", "+0.100 to +0.300"]
    assert [block.kind for block in section_blocks("plan", {"sentence": "Nothing is fine-tuned."})] == ["text"]


def test_of_units_a_row_is_shown_and_the_others_are_folded():
    images = [{"path": "1.png", "contribution": 0.5}]
    row = {"unit_path": "p", "n_images": 1, "actual": "a", "predicted": "b", "images": images}
    shown = SECTIONS["units"].build({"sentence": "One answer for each patient.", "rows": [row] * 9}, no_picture)
    (first,) = [block for block in shown if block.kind == "pairs"]
    (folded,) = [block for block in shown if block.kind == "folded"]
    assert len(first.items) == 4 and folded.text == "5 more" and len(folded.items[0].items) == 5


def test_labels_and_columns_are_written_as_they_are(tmp_path):
    by_label = {name: {"n": 40, "share": 0.5, "reliability": BARS} for name in ("openI_CXR", "n_of_1")}
    table = {"tp": 1, "fn": 0, "fp": 0, "tn": 1}
    point = {"sentence": "At 0.5.", "label": "openI_CXR", "table": table}
    point |= dict.fromkeys(("sensitivity", "specificity", "ppv", "npv"), METRIC)
    (folded,) = [b for b in section_blocks("calibration", {"by_label": by_label}) if b.kind == "folded"]
    (matrix,) = [b for b in section_blocks("operating_point", point) if b.kind == "table"]
    assert [row[0].text for row in folded.items[0].rows] == ["openI_CXR", "n_of_1"]
    assert [row[0].text for row in matrix.rows] == ["openI_CXR", "not openI_CXR"]
