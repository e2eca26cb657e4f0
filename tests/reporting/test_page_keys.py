"""Every key of an opened image, in every place that its focus can be: nothing is marked, changed or lost unasked."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.reporting.reading_sheet import write_sheet_page
from medclf.reporting.report import render
from medclf.reporting.thumbnails import data_uri, encode

FOCUSES = {
    "a mark": "#mark-choices label >> nth=2",
    "the switch of the maps": "dialog [data-overlay]",
    "the picture": "#dialog-picture",
    "the probabilities": "#dialog-probs",
    "the next button": "#after",
}


@pytest.fixture
def opened(visit: Any, made_up: Any, tmp_path: Path) -> Any:
    """A page whose images have maps, the first of its gallery opened."""
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(buffer, "PNG")
    uri = "data:image/png;base64," + data_uri(buffer.getvalue()).partition(",")[2]
    rows = made_up.rows.assign(saliency=uri)
    shown = visit(render(made_up.facts, rows, tmp_path / "report.html", read=made_up.read))
    shown.page.click("#gallery li:nth-child(3) button")
    return shown


def mark_of(page: Any) -> str:
    return str(page.evaluate("document.querySelector('[name=mark]:checked').value"))


@pytest.mark.parametrize("focus", FOCUSES)
def test_keys_mark_and_leaf_wherever_the_focus_is(opened: Any, focus: str) -> None:
    page = opened.page
    page.click(FOCUSES[focus])
    here, before = page.inner_text("#dialog-title"), mark_of(page)
    page.keyboard.press("ArrowRight")
    there = page.inner_text("#dialog-title")
    assert there != here and mark_of(page) == ""
    page.keyboard.press("3")
    assert mark_of(page) == "poor image"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#dialog-title") == here and mark_of(page) == before
    page.keyboard.press("Control+2")
    page.keyboard.press("ArrowDown")
    assert mark_of(page) == before
    page.keyboard.press("0")
    page.keyboard.press("ArrowRight")
    assert mark_of(page) == "poor image"
    opened.is_clean()


def test_a_text_field_keeps_its_keys(opened: Any) -> None:
    page = opened.page
    here = page.inner_text("#dialog-title")
    page.focus("#note")
    page.keyboard.type("seen 2 of 3")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#note") == "seen 2 of 3" and mark_of(page) == ""
    assert page.inner_text("#dialog-title") == here


def test_an_arrow_across_leaves_the_chosen_class_as_it_is(opened: Any) -> None:
    page = opened.page
    here = page.inner_text("#dialog-title")
    page.select_option("#new-label", "polyp")
    page.focus("#new-label")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#dialog-title") != here and page.input_value("#new-label") == ""
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#new-label") == "polyp" and mark_of(page) == "new label"
    page.keyboard.press("0")
    assert page.input_value("#new-label") == "" and mark_of(page) == ""


def test_arrows_up_and_down_move_among_the_marks_and_space_chooses(opened: Any) -> None:
    page = opened.page
    page.focus("[name=mark]:checked")
    page.keyboard.press("ArrowDown")
    assert mark_of(page) == ""
    page.keyboard.press("Space")
    assert mark_of(page) == "label wrong"


def test_a_new_label_is_one_of_the_classes_and_is_asked_for(opened: Any, made_up: Any) -> None:
    page = opened.page
    offered = page.eval_on_selector_all("#new-label option", "nodes => nodes.map((n) => n.value)")
    assert offered == ["", *made_up.vocab]
    page.keyboard.press("4")
    assert page.evaluate("document.activeElement.id") == "new-label" and page.is_visible("#label-wanted")
    name = page.inner_text("#dialog-title")
    page.click("#close")
    page.click("#download")  # what lacks its label is opened, not written
    assert page.inner_text("#dialog-title") == name and page.is_visible("#label-wanted")
    page.select_option("#new-label", "ulcer")
    assert not page.is_visible("#label-wanted")
    page.click("#close")
    with page.expect_download() as download:
        page.click("#download")
    table = pd.read_csv(download.value.path(), keep_default_na=False)
    assert table[["path", "mark", "new_label"]].values.tolist() == [[name, "new label", "ulcer"]]


def test_a_list_of_classes_keeps_the_keys_that_their_names_have(visit: Any, factory: Any, tmp_path: Path) -> None:
    graded = factory(vocab=("bcc", "bkl", "grade 2"))
    page = visit(render(graded.facts, graded.rows, tmp_path / "report.html")).page
    page.click("[data-tab=labels]")
    page.click("#review")
    name = page.inner_text("#dialog-title")
    page.keyboard.press("4")
    page.keyboard.type("bk")  # k would keep the label, and 2 mark it unsure
    assert page.inner_text("#dialog-title") == name and page.input_value("#new-label") == "bkl"
    page.wait_for_timeout(1100)  # until a list forgets what was typed
    page.keyboard.press("2")
    assert page.inner_text("#dialog-title") == name and mark_of(page) == "new label"


def test_marks_survive_a_reload(opened: Any) -> None:
    page = opened.page
    name = page.inner_text("#dialog-title")
    page.keyboard.press("2")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    assert page.inner_text("#dialog-title") == name  # the address names the image that was open
    page.click("#close")
    page.click("[data-group=marked]")
    opened.settle()
    assert opened.names() == [name]


@pytest.fixture
def sheet(visit: Any, tmp_path: Path) -> Callable[..., Any]:
    """A page of four images to review, opened."""

    def open_sheet(multi_label: bool = False) -> Any:
        picture = data_uri(encode(np.full((40, 40), 90, np.uint8), 40))
        items = [(f"s-{i}", picture) for i in range(4)]
        options = {"sheet": "s", "file": "sheet.csv", "multi_label": multi_label}
        return visit(write_sheet_page(tmp_path / "sheet.html", items, ["flat", "polyp"], **options))

    return open_sheet


def answers(page: Any) -> list[str]:
    """Class and remark of each image."""
    script = "n => [...n.querySelectorAll('input:checked')].map((box) => box.value).filter(Boolean).join(' ')"
    return [page.locator(".reading").nth(i).evaluate(script) for i in range(4)]


def test_the_sheet_heeds_its_keys_wherever_the_focus_is(sheet: Any) -> None:
    page = sheet().page
    page.click(".reading:nth-child(1) label >> nth=0")
    page.keyboard.press("ArrowDown")
    assert answers(page)[0] == "flat"
    page.keyboard.press("ArrowRight")
    bar = page.locator("nav").bounding_box()["height"]
    assert bar < page.locator("#s-1").bounding_box()["y"] < bar + 40  # at once, close below the bar
    page.click("h1")
    page.keyboard.press("2")
    page.keyboard.press("u")
    assert answers(page) == ["flat", "polyp unsure", "", ""]
    page.click(".reading:nth-child(3) img")
    page.keyboard.press("n")
    page.fill(".reading:nth-child(3) [data-note]", "1 of 2")
    page.focus(".reading:nth-child(3) [data-note]")
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    assert answers(page) == ["flat", "polyp unsure", "", "flat"]
    page.keyboard.press("0")
    assert answers(page)[3] == ""


def test_the_sheet_says_what_is_left_and_what_to_do_then(sheet: Any) -> None:
    page = sheet().page
    page.click(".reading:nth-child(2) img")
    page.keyboard.press("u")  # unsure is an answer, too
    page.click("#next")
    assert page.evaluate("document.activeElement.id") == "s-2"  # on from here, not back to the first
    for key in ("1", "n", "1"):
        page.keyboard.press(key)
    page.click("#next")
    assert page.evaluate("document.activeElement.id") == "s-0" and page.is_enabled("#next")
    page.keyboard.press("2")
    assert page.inner_text("#progress") == "4 of 4 read" and page.is_disabled("#next")
    assert "1–2 class" in page.inner_text(".sheet-bar .note").replace(" ", "").replace("class", " class")
    assert "send it back to whoever gave you this page" in page.inner_text("main")


def test_patients_and_earlier_answers_stand_in_the_downloaded_sheet(visit: Any, tmp_path: Path) -> None:
    picture = data_uri(encode(np.full((40, 40), 90, np.uint8), 40))
    named: dict[str, Any] = {"paths": ["b.png"], "patient_col": "who", "patients": {"a.png": "=P1", "b.png": "P2"}}
    earlier = [("a.png", "flat", "unsure", "seen before")]
    options = {"sheet": "s", "file": "next.csv", "earlier": earlier, "then": ["medclf train pool --labels next.csv"]}
    file = write_sheet_page(tmp_path / "next.html", [("i", picture)], ["flat", "polyp"], **named, **options)
    page = visit(file).page
    assert "medclf train pool --labels next.csv" in page.inner_text("main")
    page.focus(".reading")
    page.keyboard.press("2")
    with page.expect_download() as download:
        page.click("#download")
    found = pd.read_csv(download.value.path(), dtype=str, keep_default_na=False)
    assert found.to_dict("records") == [
        {"path": "a.png", "label": "flat", "mark": "unsure", "note": "seen before", "earlier": "yes", "who": "'=P1"},
        {"path": "b.png", "label": "polyp", "mark": "", "note": "", "earlier": "", "who": "P2"},
    ]


def test_none_of_these_takes_the_others_back(sheet: Any) -> None:
    page = sheet(multi_label=True).page
    page.focus(".reading:nth-child(1)")
    for key in "12":
        page.keyboard.press(key)
    assert answers(page)[0] == "flat polyp"
    page.keyboard.press("0")
    assert answers(page)[0] == "(none)"
