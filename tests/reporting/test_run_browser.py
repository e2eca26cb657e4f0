"""The pages of a real run in a real browser: the report, and the sheet of a second reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from medclf.config import TrainConfig
from medclf.dataset.corrections import correct, read_corrections
from medclf.dataset.scan import scan
from medclf.run.review import export_review
from medclf.run.second_read import import_review
from medclf.run.train import train

LAPTOP = {"viewport": {"width": 1366, "height": 768}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def run(browser: Any, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hello-world, the linear probe alone, half of the images held for validation so that some are wrong."""
    room = tmp_path_factory.mktemp("browser")
    config = TrainConfig(
        data=str(shared_data / "hello-world"),
        out=str(room / "RUN"),
        arch="efficientnet_lite0",
        epochs=0,
        size=64,
        split="stratified",
        valid_pct=0.6,
        device="cpu",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDCLF_CACHE", str(room / "cache"))
        patch.setenv("MEDCLF_PATIENT_KEY", str(room / "patients.key"))
        return train(config, lambda line: None)


@pytest.fixture
def rows(run: Path) -> pd.DataFrame:
    rows = pd.read_csv(run / "predictions.csv", dtype={"path": str})
    return rows[rows["partition"] == "valid"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_an_analyst_goes_through_a_real_report(
    visit: Any, run: Path, rows: pd.DataFrame, shared_data: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    shown = visit(run / "report.html", **options)
    page, name = shown.page, "phone" if options is PHONE else "laptop"
    width = options["viewport"]["width"]
    vocab = sorted(rows["label"].unique())
    counts = pd.crosstab(rows["label"], rows["pred"]).reindex(index=vocab, columns=vocab, fill_value=0)
    assert shown.matrix() == counts.to_numpy().ravel().tolist()
    for i, j in np.argwhere(counts.to_numpy() > 0):
        page.click(f"[data-cell='{i},{j}']")
        shown.settle()
        cell = rows[(rows["label"] == vocab[i]) & (rows["pred"] == vocab[j])]
        sure = cell[f"prob_{vocab[j]}"].map(lambda p: float(f"{p:.7g}"))  # as the page has them
        assert shown.names() == cell.loc[sure.sort_values(ascending=False, kind="stable").index, "path"].tolist()[:60]
    shown.keep(f"run-{name}-cell")
    page.select_option("#view", "1")
    threshold = float(np.round(rows[f"prob_{vocab[1]}"].median(), 2))
    page.fill("#threshold", str(threshold))
    shown.settle()
    sick, called = rows["label"] == vocab[1], rows[f"prob_{vocab[1]}"] >= threshold
    low, high = proportion_confint((sick & called).sum(), sick.sum(), method="wilson")
    value, ends, _ = shown.number("Sensitivity")
    assert value.removesuffix(" %").startswith(f"{100 * (sick & called).sum() / sick.sum():.1f}".removesuffix(".0"))
    assert ends == f"{100 * low:.1f} to {100 * high:.1f} %".replace("100.0", "100")
    page.select_option("#view", "-1")
    page.click("[data-group=all]")
    shown.settle()
    marked = shown.names()[:3]
    for place, mark in enumerate(("label wrong", "poor image", "new label")):
        page.click(f"#gallery li:nth-child({place + 1}) button")
        shown.until("document.querySelector('#dialog-picture img').naturalWidth >= 64")
        near = page.locator("#dialog-linked section", has_text="Most similar training images")
        assert near.locator("img").count() == 5 and near.locator(".name").count() == 5
        assert set(near.locator(".near > span:last-child").all_inner_texts()) <= set(vocab)
        if mark == "new label":
            before = rows.set_index("path").loc[marked[2], "label"]
            page.select_option("#new-label", next(v for v in vocab if v != before))
        else:
            page.check(f"#mark-choices input[value='{mark}']")
        assert page.evaluate("document.querySelector('#dialog').scrollWidth") <= width
        if place == 0:
            shown.keep(f"run-{name}-image")
        page.click("#close")
    with page.expect_download() as download:
        page.click("#download")
    file = tmp_path / "review.csv"
    download.value.save_as(file)
    corrections = read_corrections(file)
    assert dict(zip(corrections.rows["path"], corrections.rows["mark"], strict=True)) == dict(
        zip(marked, ("label wrong", "poor image", "new label"), strict=True)
    )
    _, done = correct(scan(shared_data / "hello-world", progress=False), corrections)
    assert (done["relabelled"], done["left_out"]) == (1, 2)
    assert import_review(run, file, n_boot=20)["n_poor"] == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown.is_clean()


@pytest.mark.slow
def test_a_second_reader_needs_no_mouse(visit: Any, run: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    export_review(run, tmp_path / "sheet.csv", n=16, controls=0.9)  # controls of both labels
    sheet = pd.read_csv(tmp_path / "sheet.csv")["item"][0].partition("-")[0]
    key = pd.read_csv(run / "review" / f"key-{sheet}.csv").set_index("item")
    vocab = sorted(rows["label"].unique())
    shown = visit(tmp_path / "sheet.html")
    page = shown.page
    page.focus("#next")
    page.keyboard.press("Enter")
    items = page.eval_on_selector_all(".reading", "nodes => nodes.map((n) => n.id)")
    assert page.evaluate("document.activeElement.id") == items[0] and items == key.index.tolist()
    for place, item in enumerate(items):
        page.keyboard.press(str(vocab.index(key.loc[item, "label"]) + 1) if place else "p")
        page.keyboard.press("n")
    assert page.inner_text("#progress") == f"{len(items)} of {len(items)} read"
    shown.until("document.querySelector('.reading img').naturalWidth > 63")
    shown.keep("sheet")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "sheet.csv"
    download.value.save_as(tmp_path / "filled.csv")
    found = import_review(run, tmp_path / "filled.csv", n_boot=50)
    assert found["n_poor"] == 1 and found["n_read"] == len(items) - 1 and found["disagreements"] == []
    assert found["agreement"]["reader_and_label"]["value"] == 1
    shown.is_clean()


@pytest.mark.slow
def test_two_tabs_of_a_sheet_keep_the_answers_of_both(visit: Any, run: Path, tmp_path: Path) -> None:
    export_review(run, tmp_path / "sheet.csv", n=6)
    shown = visit(tmp_path / "sheet.html")
    other = shown.context.new_page()
    other.goto((tmp_path / "sheet.html").as_uri())
    shown.page.check(".reading >> nth=0 >> input[type=radio] >> nth=0")
    other.wait_for_timeout(300)
    other.check(".reading >> nth=1 >> input[type=radio] >> nth=0")
    shown.until("document.querySelector('#progress').textContent.startsWith('2 of ')")
    shown.page.on("dialog", lambda dialog: dialog.accept())
    shown.page.reload()
    assert shown.page.inner_text("#progress").startswith("2 of ")


def test_answers_stay_when_the_sheet_is_opened_again(visit: Any, run: Path, tmp_path: Path) -> None:
    export_review(run, tmp_path / "sheet.csv", n=6)
    shown = visit(tmp_path / "sheet.html", **PHONE)
    page = shown.page
    page.check(".reading:first-child input[type=radio] >> nth=0")
    page.fill(".reading:first-child [data-note]", "=1+1, seen")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    assert page.inner_text("#progress").startswith("1 of ")
    with page.expect_download() as download:
        page.click("#download")
    assert '"\'=1+1, seen"' in Path(download.value.path()).read_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert shown.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("options", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_axe_finds_nothing_serious_in_the_sheet(
    visit: Any, axe: str, run: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    export_review(run, tmp_path / "sheet.csv", n=6)
    page = visit(tmp_path / "sheet.html", **options).page
    page.evaluate(axe)
    result = page.evaluate("axe.run()")
    assert [v["id"] for v in result["violations"] if v["impact"] in ("serious", "critical")] == []
    assert len(result["passes"]) > 10
