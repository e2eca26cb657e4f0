"""The pages of boxes, of units and of a table beside the images, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.images.box_places import SIDES
from medclf.images.preprocessing import Preprocessing
from medclf.reporting.boxes_page import render_boxes
from medclf.reporting.plain_page import Section, write_page
from medclf.reporting.tables import Block
from medclf.results.names import Names
from medclf.run.boxes import outcomes
from medclf.run.run import Run
from medclf.run.train import train

LAPTOP = {"viewport": {"width": 1366, "height": 768}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True, "is_mobile": True}
SCREENS = pytest.mark.parametrize("options", [LAPTOP, PHONE], ids=["laptop", "phone"])
SMALL = {"arch": "efficientnet_lite0", "size": 32, "saliency": 0, "audit": False}


def _is_fit_for_all(shown: Any, axe: str, options: dict[str, Any]) -> None:
    page = shown.page
    assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    shown.is_clean()
    page.evaluate(axe)
    found = page.evaluate("axe.run()")["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.fixture(scope="module")
def boxes_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images: a found growth, two missed ones, and false alarms on three."""
    root = tmp_path_factory.mktemp("boxes")
    for name in "abcdef":
        Image.fromarray(np.full((80, 100, 3), 40 + 20 * ord(name) % 97, np.uint8)).save(root / f"{name}.png")
    given = pd.DataFrame(
        [(f"{name}.png", "polyp", 10, 10, 40, 40) for name in "abc"], columns=["path", "label", *SIDES]
    )
    said = [("a", 0.9, 12), ("d", 0.8, 50), ("e", 0.7, 50), ("f", 0.6, 50), ("b", 0.1, 12)]
    columns = ["path", "label", "prob", *SIDES]
    predicted = [(f"{name}.png", "polyp", prob, at, at, at + 26, at + 26) for name, prob, at in said]
    rows = outcomes(given, pd.DataFrame(predicted, columns=columns), 0.5)
    results = {"boxes": {"sentence": "1 of 3 findings was found.", "threshold": 0.5}}
    names = Names([f"{name}.png" for name in "abcdef"], False)
    return render_boxes(root, results, rows, root, Preprocessing((64, 64)), names)


@SCREENS
def test_missed_findings_and_false_alarms_are_clicked_through(
    visit: Any, axe: str, boxes_page: Path, options: dict[str, Any]
) -> None:
    shown = visit(boxes_page, **options)
    page = shown.page
    tabs, heading = page.locator("nav a"), page.locator("main h2:visible")
    assert tabs.all_inner_texts() == ["Numbers", "Missed findings 2", "False alarms 3", "Hits 1"]
    assert heading.all_inner_texts() == ["Numbers"] and tabs.nth(0).get_attribute("aria-current") == "page"
    tabs.nth(1).click()
    page.locator("main h2:visible", has_text="Missed findings").wait_for()  # the address tells a moment later
    assert heading.all_inner_texts() == ["Missed findings"] and tabs.nth(1).get_attribute("aria-current") == "page"
    page.locator("section:visible .exhibits button").first.click()
    assert page.inner_text("#leaf-name") == "b.png" and page.inner_text("#leaf-place") == "1 of 2"
    assert page.inner_text("#leaf-words") == "polyp given: missed"
    assert page.is_disabled("#leaf-before")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#leaf-name") == "c.png" and page.is_disabled("#leaf-after")
    assert page.evaluate("document.querySelector('#leaf-picture').naturalWidth") == 100
    shown.keep(f"boxes-{options['viewport']['width']}")
    page.keyboard.press("Escape")
    page.locator("li:has(:focus)", has_text="c.png").wait_for()  # the dialog tells a moment later that it was closed
    tabs.nth(2).click()
    page.locator("main h2:visible", has_text="False alarms").wait_for()
    page.locator("section:visible .exhibits button").nth(1).click()
    page.click("#leaf-after")
    assert page.inner_text("#leaf-name") == "f.png"
    assert "polyp predicted (60.0 %): false alarm" in page.inner_text("#leaf-words")
    page.click("#leaf-close")
    _is_fit_for_all(shown, axe, options)
    page.reload()
    assert heading.all_inner_texts() == ["False alarms"]  # the address names the part


@SCREENS
def test_a_part_with_many_images_unfolds_and_one_without_any_says_so(
    visit: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    paths = [f"{number:02}.png" for number in range(40)]
    for path in paths:
        Image.new("RGB", (60, 40)).save(tmp_path / path)
    given = pd.DataFrame([(path, "polyp", 5, 5, 30, 30) for path in paths], columns=["path", "label", *SIDES])
    rows = outcomes(given, pd.DataFrame(columns=["path", "label", "prob", *SIDES]), 0.5)
    results = {"boxes": {"sentence": "0 of 40 findings were found.", "threshold": 0.5}}
    page = visit(
        render_boxes(tmp_path, results, rows, tmp_path, Preprocessing((64, 64)), Names(paths, False)), **options
    ).page
    page.click("nav a >> nth=1")
    page.locator("main h2:visible", has_text="Missed findings").wait_for()
    items, more = page.locator(".exhibits li:visible"), page.locator(".more:visible")
    assert items.count() == 30 and more.inner_text() == "Show 10 more"
    if options is LAPTOP:  # three screens at most
        assert page.evaluate("document.documentElement.scrollHeight") <= 3 * 768
    items.nth(29).locator("button").click()
    page.click("#leaf-after")  # leafing goes on behind the fold
    assert page.inner_text("#leaf-place") == "31 of 40"
    page.click("#leaf-close")
    page.locator("li:has(:focus)", has_text="30.png").wait_for()
    assert items.count() == 40 and more.count() == 0
    page.click("nav a >> nth=2")
    assert "None." in page.inner_text("main")


@SCREENS
def test_no_link_of_a_plain_page_s_navigation_is_clipped(visit: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    sections = [Section(f"Overlay {k}: border, top right", [Block("text", text="None.")]) for k in range(6)]
    page = visit(write_page(tmp_path / "page.html", "Shortcuts", "Six.", sections), **options).page
    ends = page.eval_on_selector_all("nav a", "n => n.map((a) => a.getBoundingClientRect().right)")
    assert len(ends) == 6 and max(ends) <= options["viewport"]["width"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """A linear probe on drawn images of 24 patients with two or three each, and a column that tells the label."""
    root, rng, rows = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0), []
    for patient in range(24):
        for k in range(2 + patient % 2):
            pixels = rng.integers(40, 120, (48, 48))
            pixels[8:32, 8:32] += 90 * (patient % 2 and k == 0)
            name = f"{patient:02d}_{k}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / name)
            age = 40 + 20 * (patient % 2) + rng.normal(0, 8)
            rows.append([name, ["normal", "polyp"][patient % 2], f"P{patient}", age])
    pd.DataFrame(rows, columns=["path", "label", "patient", "age"]).to_csv(root / "labels.csv", index=False)

    def run(**options: Any) -> Run:
        out = tmp_path_factory.mktemp("run") / "RUN"
        return Run(train(root / "labels.csv", lambda _: None, out=out, valid_pct=0.5, **SMALL, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MEDCLF_PATIENT_KEY", str(tmp_path_factory.mktemp("key") / "patients.key"))
        yield run


@pytest.fixture(scope="module")
def by_patient(trained: Callable[..., Run]) -> Run:
    return trained(unit="patient", unit_answer="mean")


@pytest.fixture(scope="module")
def with_age(trained: Callable[..., Run]) -> Run:
    return trained(tabular=["age"], split="patient")


@pytest.mark.slow
@SCREENS
def test_a_patient_opens_with_its_images_and_the_one_that_decided(
    visit: Any, axe: str, by_patient: Run, options: dict[str, Any]
) -> None:
    shown = visit(by_patient.path / "report.html", **options)
    page, units = shown.page, by_patient.predictions.table.set_index("path")
    assert f"{len(units)} validation patients" in page.inner_text(".masthead")
    page.click("[data-group=all]")
    shown.settle()
    assert page.inner_text("#gallery-title") == f"All patients: {len(units)}"
    first = shown.names()[0]
    page.click("#gallery li:first-child button")
    members = page.locator("#dialog-linked section", has_text="Images of this patient").locator("li")
    assert members.locator(".name").evaluate_all("nodes => nodes.map((n) => n.title)") == units.loc[
        first, "unit_images"
    ].split("|")
    assert members.locator(".decided").count() == 1 and "decided" in members.first.inner_text()
    assert members.count() == units.loc[first, "n_images"] and members.locator("img").count() == members.count()
    shown.keep(f"units-{options['viewport']['width']}")
    page.click("#close")
    page.click("[data-tab=trust]")
    page.evaluate("document.getElementById('section-units').open = true")
    strip = page.locator("#section-units .pair").first.locator("figcaption").all_inner_texts()
    assert strip[0].startswith("decided: ") and not any(text.startswith("decided") for text in strip[1:])
    _is_fit_for_all(shown, axe, options)


@pytest.mark.slow
@SCREENS
def test_image_table_and_both_stand_side_by_side(visit: Any, axe: str, with_age: Run, options: dict[str, Any]) -> None:
    shown = visit(with_age.path / "report.html", **options)
    page, section = shown.page, with_age.results["tabular"]
    page.click("[data-tab=trust]")
    page.evaluate("document.getElementById('section-tabular').open = true")
    part = page.locator("#section-tabular")
    assert section["sentence"] in part.inner_text()
    rows = part.locator("table").first.locator("tbody tr")
    assert [text.split("\t")[0].strip() for text in rows.all_inner_texts()] == ["image alone", "table alone", "both"]
    assert all("%" in text for text in rows.all_inner_texts())
    shown.keep(f"tabular-{options['viewport']['width']}")
    _is_fit_for_all(shown, axe, options)
