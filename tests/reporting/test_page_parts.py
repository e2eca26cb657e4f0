"""The parts of the page in a browser: links that restore what was shown, files, the viewer, doubtful labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from medclf.auditing.label_errors import label_suspects
from medclf.reporting.report import render

LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}
TABS = ("overview", "errors", "labels", "data-tab", "trust", "details")


@pytest.fixture
def made(made_up: Any, tmp_path: Path) -> Path:
    rows = made_up.rows.assign(neighbours=[[path] for path in made_up.rows["path"][::-1]])
    about = {"Data set": "scopes", "Model": "resnet18", "Date": "2026-11-28", "Version": "medclf 0.2.0"}
    return render(made_up.facts, rows, tmp_path / "report.html", read=made_up.read, about=about)


@pytest.fixture
def opened(visit: Any, made: Path) -> Callable[..., Any]:
    return lambda **options: visit(made, **options)


def test_the_first_screen_says_what_it_is_and_what_to_believe(opened: Any) -> None:
    page = opened(viewport=LAPTOP).page
    assert page.inner_text("h1") == "scopes" and "resnet18" in page.inner_text(".about")
    for part in (".scores", ".checks", "#matrix table tbody tr:first-child"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= LAPTOP["height"], part
    names = page.locator(".check a").all_inner_texts()
    assert names == ["Leaks", "Sample size", "Labels", "Shortcuts", "Calibration"]


def test_each_part_is_at_most_three_screens_and_marked(opened: Any) -> None:
    shown = opened(viewport=LAPTOP)
    for name in TABS:
        shown.page.click(f"[data-tab={name}]")
        assert shown.page.eval_on_selector_all("[aria-current=page]", "n => n.map((a) => a.dataset.tab)") == [name]
        assert shown.page.evaluate("document.documentElement.scrollHeight") <= 3 * LAPTOP["height"], name
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"], name
    shown.is_clean()


def test_a_link_shows_the_same_again(opened: Any, visit: Any, made: Path) -> None:
    shown = opened(viewport=LAPTOP)
    page = shown.page
    page.select_option("#filters label:has-text('sex') select", label="f")
    page.select_option("#view", "1")
    page.fill("#threshold", "0.3")
    page.click("[data-cell='1,1']")
    shown.settle()
    page.click("#gallery li:first-child button")
    name, names, matrix = page.inner_text("#dialog-title"), shown.names(), shown.matrix()
    again = visit(made)
    again.page.goto(page.evaluate("location.href"))  # page.url follows a moment later
    again.page.wait_for_selector("#dialog-title:not(:empty)")
    again.page.reload()
    again.page.wait_for_selector("#dialog-title:not(:empty)")
    assert again.page.inner_text("#dialog-title") == name
    assert (again.names(), again.matrix()) == (names, matrix)
    assert again.page.inner_text("#threshold-out") == "0.30"
    again.page.click("#close")
    again.page.click("#reset")
    again.settle()
    address = again.page.evaluate("location.href")
    assert "by=" not in address and "cell=" not in address


def test_a_link_holds_values_as_they_are_and_one_that_was_cut_stops_nothing(
    visit: Any, factory: Any, tmp_path: Path
) -> None:
    made_up = factory()
    rows = made_up.rows.rename(columns={"sex": "dose=mg"}).replace({"dose=mg": {"f": "=<5", "m": "a=b"}})
    page = render(made_up.facts, rows, tmp_path / "report.html")
    shown = visit(page)
    shown.page.select_option("#filters label:has-text('dose') select", label="a=b")
    shown.settle()
    chosen = shown.matrix()
    again = visit(page)
    again.page.goto(shown.page.evaluate("location.href"))
    again.page.reload()
    again.until("document.querySelectorAll('#matrix button').length > 0")
    assert again.matrix() == chosen and sum(chosen) < made_up.facts["n"]
    cut = visit(page)
    cut.page.goto(f"{page.as_uri()}#50%")
    cut.page.reload()
    cut.page.click("#gallery li:first-child button")
    cut.page.keyboard.press("2")
    cut.page.keyboard.press("Escape")
    with cut.page.expect_download():
        cut.page.click("#download")
    assert cut.complaints == []


def test_search_finds_images_by_their_name(opened: Any, made_up: Any) -> None:
    shown = opened(viewport=LAPTOP)
    wanted = made_up.valid["path"].iloc[7]
    shown.page.fill("#search", Path(wanted).stem.upper())
    shown.page.click("[data-group=all]")
    shown.settle()
    assert shown.names() == [wanted]


def test_the_matrix_and_tables_are_files(opened: Any, made_up: Any, tmp_path: Path) -> None:
    page = opened(viewport=LAPTOP).page
    with page.expect_download() as download:
        page.click("[data-saves] button >> nth=0")
    table = pd.read_csv(download.value.path(), index_col=0)
    assert table.iloc[:-1, :-1].to_numpy().tolist() == made_up.facts["confusion_matrix"]
    assert table.loc["all", "all"] == made_up.facts["n"]
    with page.expect_download() as download:
        page.click("[data-saves] button >> nth=1")
    download.value.save_as(tmp_path / "matrix.png")
    with Image.open(tmp_path / "matrix.png") as picture:
        assert min(picture.size) > 200 and len(picture.convert("RGB").getcolors(100_000)) > 20
    page.click("[data-tab=data-tab]")
    with page.expect_download() as download:
        page.click("#data-section .saves button >> nth=0")
    counts = pd.read_csv(download.value.path(), index_col=0)
    assert counts.loc["polyp", "validation"] == made_up.facts["data"]["counts"]["valid"]["polyp"]


def test_the_matrix_can_show_columns_and_put_confused_classes_together(opened: Any, made_up: Any) -> None:
    shown = opened(viewport=LAPTOP)
    matrix = made_up.facts["confusion_matrix"]
    shown.page.select_option("#cells", "column")
    shown.settle()
    share = 100 * matrix[1][0] / sum(row[0] for row in matrix)
    assert abs(int(shown.page.inner_text("[data-cell='1,0'] small").removesuffix(" %")) - share) <= 0.5
    shown.page.select_option("#classes", "confused")
    shown.settle()
    assert sorted(shown.matrix()) == sorted(n for row in matrix for n in row)


def test_the_viewer_zooms_inverts_and_compares(opened: Any) -> None:
    page = opened(viewport=LAPTOP).page
    page.click("#gallery li:first-child button")
    page.keyboard.press("+")
    page.keyboard.press("i")
    style = "getComputedStyle(document.querySelector('.stage .fit'))"
    assert page.inner_text("#zoom") == "140 %" and "matrix(1.4" in page.evaluate(f"{style}.transform")
    assert "invert(1)" in page.evaluate(f"{style}.filter")
    page.click(".compare >> nth=0")
    zooms = page.eval_on_selector_all(".stage", "n => n.map((s) => s.style.getPropertyValue('--zoom'))")
    assert zooms == ["1.4", "1.4"]  # both move together
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#zoom") == "100 %"


def test_doubtful_labels_are_gone_through_by_keyboard(opened: Any, made_up: Any) -> None:
    shown = opened(viewport=LAPTOP)
    page, rows = shown.page, made_up.rows
    probs = rows[[f"prob_{v}" for v in made_up.vocab]].to_numpy()
    suspect, margin = label_suspects(rows["label"].map(made_up.vocab.index).to_numpy(), probs)
    order = rows[suspect].assign(margin=margin[suspect]).sort_values("margin", kind="stable")
    assert len(order) > 3
    page.click("[data-tab=labels]")
    page.click("#review")
    for place, (key, path) in enumerate(zip(["Enter", "k", "2"], order["path"], strict=False)):
        assert page.inner_text("#dialog-title") == path and f"{place + 1} of " in page.inner_text("#place")
        page.keyboard.press(key)
    page.keyboard.press("z")
    assert page.inner_text("#dialog-title") == order["path"].iloc[2]
    page.keyboard.press("Escape")
    shown.settle()
    assert page.inner_text("#queue-progress") == f"2 of {len(order)} done"
    with page.expect_download() as download:
        page.click("#download")
    table = pd.read_csv(download.value.path(), keep_default_na=False).set_index("path")
    first, second = order.iloc[0], order.iloc[1]
    assert table.loc[first["path"], ["mark", "new_label"]].tolist() == ["new label", first["pred"]]
    assert table.loc[second["path"], ["mark", "new_label"]].tolist() == ["", ""] and len(table) == 2


def test_after_a_reload_the_review_goes_on_where_it_was(opened: Any) -> None:
    page = opened(viewport=LAPTOP).page
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("[data-tab=labels]")
    page.click("#review")
    page.keyboard.press("k")
    second = page.inner_text("#dialog-title")
    page.reload()
    assert page.inner_text("#dialog-title") == second and page.inner_text("#place").startswith("2 of ")
    page.keyboard.press("Enter")
    assert page.inner_text("#place").startswith("3 of ")


def test_a_note_is_no_answer_and_leaves_the_one_that_was_given(opened: Any) -> None:
    shown = opened(viewport=LAPTOP)
    page = shown.page
    page.click("[data-tab=labels]")
    page.click("#review")
    page.fill("#note", "ask again")
    page.keyboard.press("Escape")
    page.locator("#queue-progress", has_text="0 of ").wait_for()
    page.click("#review")
    page.click("#keep")
    page.click("#before")
    page.fill("#note", "asked")
    page.keyboard.press("Escape")
    shown.settle()
    assert page.inner_text("#queue-progress").startswith("1 of ")
    assert page.inner_text("#queue .mark") == "label kept"


def test_doubtful_labels_that_are_not_drawn_are_told(visit: Any, factory: Any, tmp_path: Path) -> None:
    doubtful = factory(500, skill=-9.0)
    page = visit(render(doubtful.facts, doubtful.rows, tmp_path / "report.html")).page
    page.click("[data-tab=labels]")
    assert "The 240 most doubtful are shown here" in page.inner_text("#queue-progress")
    assert page.locator("#queue li").count() == 240


def test_one_undo_takes_a_chosen_label_back(opened: Any) -> None:
    page = opened(viewport=LAPTOP).page
    page.click("[data-tab=labels]")
    page.click("#review")
    name = page.inner_text("#dialog-title")
    page.keyboard.press("4")
    page.locator("#label-wanted").wait_for()
    page.keyboard.press("Escape")
    page.locator("#queue-progress", has_text="0 of ").wait_for()  # a mark that lacks its label is no answer
    page.click("#review")
    assert page.inner_text("#dialog-title") == name
    page.select_option("#new-label", index=1)
    page.locator("#marked-count", has_text="1 image marked").wait_for()
    page.keyboard.press("z")
    page.locator("#download").wait_for(state="hidden")  # nothing is marked any more


def test_on_paper_nothing_is_cut_at_the_side(opened: Any) -> None:
    page = opened(viewport={"width": 718, "height": 1000}).page  # A4 less its margins
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    cut = """nodes => nodes.filter((n) => n.scrollWidth > n.clientWidth + 1).map((n) => n.innerText)"""
    assert page.eval_on_selector_all(".scroll, .check, .score", cut) == []


def test_on_a_phone_a_cell_leads_to_its_images(opened: Any) -> None:
    shown = opened(viewport=PHONE, is_mobile=True, has_touch=True)
    page = shown.page
    page.tap("[data-cell='0,0']")
    shown.settle()
    page.wait_for_timeout(100)
    box = page.locator("#gallery-title").bounding_box()
    assert 0 <= box["y"] < PHONE["height"] / 2 and "predicted as" in page.inner_text("#gallery-title")
    bar = page.locator("nav").bounding_box()
    assert box["y"] >= bar["y"] + bar["height"] - 1  # the bar that stays at the top does not cover it
    page.tap("#to-matrix")
    assert page.locator("#matrix").bounding_box()["y"] < PHONE["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_on_a_phone_neighbours_are_compared_and_each_doubtful_label_is_shown_from_its_top(
    visit: Any, made_up: Any, tmp_path: Path
) -> None:
    near = list(made_up.rows["path"][:5])
    rows = made_up.rows.assign(neighbours=[near] * len(made_up.rows))
    page = visit(
        render(made_up.facts, rows, tmp_path / "report.html", read=made_up.read),
        viewport=PHONE,
        is_mobile=True,
        has_touch=True,
    ).page
    page.tap("#gallery li:nth-child(7) button")
    page.tap(".compare >> nth=0")  # nothing lies over it
    page.locator(".beside").wait_for()
    page.tap(".near >> nth=1")
    assert page.inner_text("#dialog-title") == near[1]
    assert page.evaluate("document.querySelector('#dialog').scrollTop") == 0
    page.tap("#close")
    page.tap("[data-tab=labels]")
    page.tap("#review")
    for _ in range(2):
        top, head = page.locator("#suggested").bounding_box()["y"], page.locator(".dialog-head").bounding_box()
        assert top >= head["y"] + head["height"] - 1
        page.tap("#accept")


@pytest.mark.slow
@pytest.mark.parametrize(("viewport", "scheme"), [(LAPTOP, "dark"), (PHONE, "light")])
def test_axe_finds_nothing_serious_in_any_part(opened: Any, axe: str, viewport: Any, scheme: str) -> None:
    page = opened(viewport=viewport, color_scheme=scheme).page
    page.evaluate(axe)
    for name in TABS:
        page.click(f"[data-tab={name}]")
        found = page.evaluate("axe.run()")["violations"]
        assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == [], name


def test_a_doubtful_label_is_shown_whatever_class_is_looked_at(visit: Any, many_labels: Any, tmp_path: Path) -> None:
    """With several labels, too, where the page looks at one after the other."""
    rows = many_labels.rows.copy()
    rows.loc[0, ["label", "prob_edema", "prob_mass", "prob_nodule"]] = ["edema|mass", 0.001, 0.99, 0.01]
    page = visit(render(many_labels.facts, rows, tmp_path / "report.html")).page
    page.select_option("#view", label="nodule")
    page.click("[data-tab=labels]")
    card = page.locator("#queue li", has_text="0000.png").inner_text()
    assert "Label: edema, mass" in card and "Suggested: mass" in card
