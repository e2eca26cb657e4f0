"""The service's page in a real browser: pictures in, answers out, nothing fetched from elsewhere."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom.data
import pytest
from PIL import Image

from medclf.dataset.corrections import read_corrections
from medclf.serving.app import create_app, running

from .test_fields import WithAge

TOKEN = "a-token-of-some-length"
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.slow

_DROP = """async ([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  const target = document.getElementById("drop");
  for (const type of ["dragover", "drop"])
    target.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test on any console error and on any request to another host."""
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if _leaves(request.url) else None)
    page.expected_problems = []
    yield page
    context.close()
    assert [text for text in problems if not any(known in text for known in page.expected_problems)] == []


def _leaves(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def _drop(page: Any, name: str, body: bytes) -> None:
    import base64

    page.evaluate(_DROP, [name, base64.b64encode(body).decode()])


def _keep_picture(page: Any, name: str) -> None:
    """CI keeps it, where it names a folder."""
    if folder := os.environ.get("MEDCLF_CI_OUTPUT"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def _endoscopy_like() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").point(lambda level: 255 - level).save(file, "PNG")
    return file.getvalue()


def test_a_png_and_a_dicom_file_are_dropped_and_answered(page: Any, url: str) -> None:
    page.goto(url)
    playwright.expect(page.get_by_text("For research use.")).to_be_visible()
    _drop(page, "scan-of-mine.png", _endoscopy_like())
    _drop(page, "IM0001", Path(pydicom.data.get_testdata_file("CT_small.dcm")).read_bytes())
    playwright.expect(page.get_by_text("2 of 2 answered.")).to_be_visible(timeout=60_000)
    answers = page.locator(".answer")
    assert answers.count() == 2
    for index, name in enumerate(("scan-of-mine.png", "IM0001")):
        answer = answers.nth(index)
        assert answer.locator(".file").inner_text() == name
        assert answer.locator("h3").inner_text() in ("dark", "light")
        assert answer.locator(".probs .percent").count() == 2
        assert answer.locator("img.seen").evaluate("image => image.naturalWidth") == 32
        widths = answer.locator(".fill").evaluate_all("bars => bars.map((bar) => bar.getBoundingClientRect().width)")
        assert widths[0] > widths[1]
    _keep_picture(page, "service")


def test_flags_and_the_saliency_overlay_are_shown(page: Any, url: str, picture: Callable[..., bytes]) -> None:
    page.goto(url)
    _drop(page, "grey.png", picture(128))
    playwright.expect(page.locator(".flags")).to_have_text("unsure", timeout=60_000)
    playwright.expect(page.get_by_text("Unsure: the confidence is below this model's limit")).to_be_visible()
    heat = page.locator("img.heat")
    assert not heat.is_visible()
    page.get_by_label("Show where the model looked").check()
    playwright.expect(heat).to_be_visible()


def test_of_a_flagged_image_the_flag_comes_first_and_it_can_be_enlarged_and_corrected(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    page.goto(url)
    _drop(page, "grey.png", picture(128, size=(40, 60)))
    playwright.expect(page.locator(".flagged .flags")).to_have_text("unsure", timeout=60_000)
    order = page.locator(".words > *").evaluate_all("parts => parts.map((part) => part.className || part.tagName)")
    assert order.index("flags") < order.index("H3")
    page.get_by_role("button", name="Enlarge").click()
    large = page.locator("#large")
    playwright.expect(large).to_be_visible()
    playwright.expect(large).to_have_js_property("naturalWidth", 40)  # the file itself, not the model's square
    playwright.expect(large).to_have_js_property("naturalHeight", 60)
    whole, room = large.bounding_box(), page.locator(".pan").bounding_box()
    assert whole["height"] == pytest.approx(1.5 * whole["width"], abs=1) and whole["height"] <= room["height"] + 1
    page.get_by_label("Zoom").fill("300")
    assert large.bounding_box()["width"] == pytest.approx(3 * whole["width"], abs=2)
    page.get_by_role("button", name="Close").click()
    page.get_by_label("Correct class").select_option("light")
    assert "medclf train DATA --corrections corrections.csv" in page.locator("#corrections-use").inner_text()
    with page.expect_download() as found:
        page.get_by_role("button", name="Download corrections (CSV)").click()
    corrections = read_corrections(found.value.path())
    assert corrections.rows.iloc[0].to_dict() == {
        "path": "grey.png", "label": "", "mark": "new label", "new_label": "light", "note": ""
    }  # fmt: skip
    with page.expect_download() as found:
        page.get_by_role("button", name="Download answers (CSV)").click()
    header, row = Path(found.value.path()).read_text().splitlines()
    assert header.startswith('"path","label","prob_dark","prob_light","flags"') and "unsure" in row


def test_a_batch_is_a_table_that_sorts_with_the_flagged_first(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    page.goto(url)
    for name, level in (("b10.png", 250), ("b9.png", 20), ("grey.png", 128)):
        _drop(page, name, picture(level))
    _drop(page, "text.png", b"no picture")
    page.expected_problems = ["415"]
    playwright.expect(page.get_by_text("3 of 4 answered. 1 file has no answer.")).to_be_visible(timeout=60_000)
    page.locator(".answer", has_text="b9.png").get_by_label("Correct class").select_option("light")
    page.get_by_label("As a table").check()
    rows = page.locator("#table tbody tr")
    assert not page.locator("#answers").is_visible()
    assert rows.first.inner_text().split() == ["unsure", "light", "50.2", "%", "grey.png"]
    playwright.expect(page.locator("#unanswered")).to_have_text("1 file has no answer: see the list.")

    def files() -> list[str]:
        return [row.split()[-1] for row in rows.all_inner_texts()]

    page.get_by_role("button", name="File", exact=True).click()
    assert files() == ["b9.png", "b10.png", "grey.png"] and "light" in rows.first.inner_text()
    page.get_by_role("button", name="File", exact=True).press("Enter")  # the heading kept the focus
    assert files() == ["grey.png", "b10.png", "b9.png"]
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("File")
    _keep_picture(page, "service-table")
    page.get_by_role("button", name="b9.png").click()
    assert page.locator("#answers").is_visible() and not page.locator("#table").is_visible()
    assert page.evaluate("document.activeElement.closest('.answer').querySelector('.file').textContent") == "b9.png"


def _answers(page: Any, url: str, answers: dict[bytes, dict[str, Any]]) -> None:
    """Open the page and drop files, which the service answers as given."""
    more = {"flags": [], "model": {"name": "m", "hash": "0"}, "preview": "data:image/png;base64,"}
    page.route("**/v1/predict*", lambda route: route.fulfill(json=answers[route.request.post_data_buffer] | more))
    page.goto(url)
    for place, body in enumerate(answers):
        _drop(page, f"{place}.png", body)
    playwright.expect(page.get_by_text(f"{len(answers)} of {len(answers)} answered.")).to_be_visible(timeout=60_000)


def test_why_a_map_is_lacking_stands_in_its_place(page: Any, url: str, picture: Callable[..., bytes]) -> None:
    told = {"label": "dark", "probs": {"dark": 0.9, "light": 0.1}, "saliency_problem": "too coarse"}
    _answers(page, url, {picture(20): told})
    why = page.get_by_text("Where the model looked is not shown: too coarse.")
    assert not why.is_visible()
    page.get_by_label("Show where the model looked").check()
    playwright.expect(why).to_be_visible()


def _cells(page: Any) -> list[list[str]]:
    """Label and confidence in the table, by file."""
    page.get_by_label("As a table").check()
    rows = [row.split("\t") for row in page.locator("#table tbody tr").all_inner_texts()]
    return [row[1:3] for row in sorted(rows, key=lambda row: row[4])]


def test_several_labels_are_as_sure_as_the_least_certain_and_corrected_together(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    given = [([], 0.02, 0.01), (["light"], 0.02, 0.6), (["light"], 0.02, 0.97)]
    told = [{"label": label, "probs": {"dark": dark, "light": light}} for label, dark, light in given]
    _answers(page, url, {picture(50 * level): answer for level, answer in enumerate(told)})
    page.get_by_label("Least certain first").check()
    assert page.locator(".file").all_inner_texts() == ["1.png", "2.png", "0.png"]  # an image of no label is not unsure
    corrections = page.get_by_role("button", name="Download corrections (CSV)")
    playwright.expect(corrections).to_be_disabled()
    for name, chosen in (("1.png", ["dark", "light"]), ("2.png", ["(none)"])):
        page.locator(".answer", has_text=name).get_by_label("Correct classes").select_option(chosen)
    assert _cells(page) == [["none of the labels", "98.0 %"], ["light", "60.0 %"], ["light", "97.0 %"]]
    with page.expect_download() as found:
        corrections.click()
    rows = read_corrections(found.value.path()).rows.set_index("path")["new_label"]
    assert rows.to_dict() == {"1.png": "dark|light", "2.png": "(none)"}


def test_what_a_detector_found_is_drawn_and_saved(page: Any, url: str, picture: Callable[..., bytes]) -> None:
    box = {"label": "dark", "prob": 0.75, "x_min": 10, "y_min": 5, "x_max": 30, "y_max": 20}
    found = {"label": ["dark"], "probs": {"dark": 0.75}, "boxes": [box]}
    page.route("**/v1/model", lambda route: route.fulfill(json=route.fetch().json() | {"threshold": 0.8}))
    _answers(page, url, {picture(20): found, picture(250): found | {"label": [], "boxes": []}})
    assert not page.get_by_role("button", name="Download corrections (CSV)").is_visible()
    assert not page.locator("#corrections-use").is_visible()
    empty = page.locator(".answer", has_text="1.png").locator(".remedy")
    assert empty.inner_text() == "The surest box (75.0 %) is below this detector's threshold of 80.0 %."
    answer = page.locator(".answer", has_text="0.png")
    frame, square = (answer.locator(one).bounding_box() for one in ("rect", ".picture"))
    scale = square["width"] / 60  # the picture fills the width of its square
    top = square["y"] + (square["height"] - 40 * scale) / 2
    wanted = [square["x"] + 10 * scale, top + 5 * scale, 20 * scale, 15 * scale]
    assert [frame[key] for key in ("x", "y", "width", "height")] == pytest.approx(wanted, abs=4)
    answer.get_by_role("button", name="Enlarge").click()
    playwright.expect(page.locator("#sheet rect")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    assert _cells(page) == [["dark", "75.0 %"], ["no finding", "–"]]
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download answers (CSV)").click()
    header, first, second = Path(saved.value.path()).read_text().splitlines()
    assert header.endswith('"boxes"') and first.endswith('"dark 0.75 10 5 30 20"') and second.endswith('""')


def test_two_drawn_images_are_there_to_try_and_the_classes_are_told(page: Any, url: str) -> None:
    page.goto(url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/predict" in request.url else None)
    page.get_by_role("button", name="Try two drawn images").click()
    playwright.expect(page.get_by_text("2 of 2 answered.")).to_be_visible(timeout=60_000)
    assert page.locator(".file").all_inner_texts() == ["drawn-1.png", "drawn-2.png"]
    assert len(asked) == 2 and all("sketch=false" in address for address in asked)  # not what medclf watch looks for
    page.get_by_text("About this model").click()
    told = [row.split("\t") for row in page.locator("#classes tbody tr").all_inner_texts()]
    assert told == [["dark", "90 % of 10 images"], ["light", "not stated"]]
    facts = page.locator("#facts").inner_text()
    assert "Intended use" in facts and "Trained\nnot stated" in facts


def test_of_a_model_of_patients_the_page_says_that_it_answers_images(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_text("About this model").click()
    assert not page.locator("#unit").is_visible()
    page.route("**/v1/model", lambda route: route.fulfill(json=route.fetch().json() | {"unit": "patient"}))
    page.reload()
    playwright.expect(page.get_by_text("measured on all images of a patient together")).to_be_visible()


def test_an_image_dropped_before_the_model_is_known_has_its_map_too(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    held: list[Any] = []
    page.route("**/v1/model", lambda route: held.append(route))
    page.goto(url)
    _drop(page, "grey.png", picture(128))
    page.wait_for_timeout(300)  # an image that does not wait is asked for by now
    held[0].continue_()
    page.get_by_label("Show where the model looked").check()
    playwright.expect(page.locator("img.heat")).to_be_visible(timeout=60_000)


def test_files_are_chosen_in_the_first_field_that_tab_reaches_and_pasted(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    page.goto(url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    page.locator("#files").set_input_files(
        [{"name": f"{level}.png", "mimeType": "image/png", "buffer": picture(level)} for level in (20, 240)]
    )
    playwright.expect(page.get_by_text("2 of 2 answered.")).to_be_visible(timeout=60_000)
    assert sorted(page.locator("h3").all_inner_texts()) == ["dark", "light"]
    page.evaluate(
        """async (bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "pasted.png"));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        list(picture(250)),
    )
    playwright.expect(page.get_by_text("3 of 3 answered.")).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".answer").count() == 0


def test_a_file_that_is_no_image_is_refused_in_words(page: Any, url: str) -> None:
    page.expected_problems.append("415")  # Chromium reports each refused request
    page.goto(url)
    _drop(page, "<img src=x onerror=alert(1)>.png", b"not an image at all")
    playwright.expect(page.locator(".failed h3")).to_contain_text("Not an image", timeout=60_000)
    assert page.locator(".file").inner_text().startswith("<img src=x onerror=alert(1)>.png")


@pytest.mark.parametrize(
    ("status", "words"),
    [(413, "too large"), (502, "does not answer"), (504, "too long"), (418, "not the service's own")],
)
def test_a_proxy_s_own_page_is_not_called_a_dead_service(page: Any, url: str, status: int, words: str) -> None:
    page.expected_problems.append(str(status))
    answer = {"status": status, "content_type": "text/html", "body": "<html><h1>nginx</h1></html>"}
    page.route("**/v1/predict*", lambda route: route.fulfill(**answer))
    page.goto(url)
    _drop(page, "scan.png", _endoscopy_like())
    heading = page.locator(".answer h3")
    playwright.expect(heading).to_contain_text(words, timeout=60_000)
    assert f"(status {status})" in heading.inner_text()


def test_an_empty_file_is_called_one(page: Any, url: str) -> None:
    page.expected_problems.append("400")
    page.goto(url)
    _drop(page, "scan.png", b"")
    playwright.expect(page.locator(".answer h3")).to_have_text("The file is empty", timeout=60_000)


def test_a_folder_is_not_called_a_dead_service_and_a_dead_one_is(page: Any, url: str) -> None:
    page.expected_problems.append("ERR_FAILED")
    page.goto(url)
    page.evaluate("File.prototype.slice = () => ({ arrayBuffer: () => Promise.reject(new Error('a folder')) })")
    _drop(page, "folder", b"")
    heading, remedy = page.locator(".answer h3"), page.locator(".answer .remedy")
    playwright.expect(heading).to_have_text("This is a folder, or a file that cannot be read", timeout=60_000)
    page.reload()
    page.route("**/v1/predict*", lambda route: route.abort())
    _drop(page, "scan.png", _endoscopy_like())
    playwright.expect(heading).to_have_text("The service cannot be reached", timeout=60_000)
    assert remedy.inner_text() == "Is it still running?"


def test_corrections_are_not_lost_unasked(page: Any, url: str, picture: Callable[..., bytes]) -> None:
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.goto(url)
    _drop(page, "grey.png", picture(128))
    page.get_by_label("Correct class").select_option("dark", timeout=60_000)
    page.get_by_role("button", name="Clear").click()
    assert asked == ["confirm"] and page.locator(".answer").count() == 1
    with page.expect_download():
        page.get_by_role("button", name="Download corrections (CSV)").click()
    page.get_by_role("button", name="Clear").click()
    assert asked == ["confirm"] and page.locator(".answer").count() == 0


def test_labels_with_markup_are_text_and_many_labels_fold(page: Any, bundle: Any, quick_decoder: type) -> None:
    bundle.vocab = ["<img src=x onerror=alert(1)>", *(f"label {number}" for number in range(22))]
    bundle.card = {"<b>source</b>": "<script>alert(1)</script>", "data": {"n_images": 3}, "empty": None}
    probs = dict.fromkeys(bundle.vocab, 0.01) | {bundle.vocab[0]: 0.78}
    answer = SimpleNamespace(label=bundle.vocab[0], probs=probs, flags=["<i>unsure</i>"])
    bundle.predict_pixels = lambda pixels: [answer] * len(pixels)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    with running(create_app(bundle)) as address:
        page.goto(address)
        _drop(page, "a.png", _endoscopy_like())
        playwright.expect(page.locator(".answer h3")).to_have_text(bundle.vocab[0], timeout=60_000)
        page.get_by_text("About this model").click()
        assert "<script>alert(1)</script>" in page.locator("#facts").inner_text()
        assert "Data\nn images: 3" in page.locator("#facts").inner_text()
        assert not page.locator(".label", has_text="label 21").is_visible()
        page.get_by_text("18 more labels").click()
        assert page.locator(".label", has_text="label 21").is_visible()
        assert page.locator("#answers img:not(.seen):not(.heat), #facts script, .flags i").count() == 0


def test_a_token_is_asked_for_and_then_used(
    page: Any, bundle: Any, quick_decoder: type, picture: Callable[..., bytes]
) -> None:
    page.expected_problems.append("401")
    with running(create_app(bundle, token=TOKEN)) as address:
        page.goto(address)
        field = page.get_by_label("This service asks for a token")
        playwright.expect(field).to_be_focused()
        field.fill("a wrong one")
        page.keyboard.press("Enter")
        playwright.expect(page.get_by_role("alert")).to_have_text("The token is wrong.")
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        playwright.expect(field).to_be_hidden()
        _drop(page, "light.png", picture(250))
        playwright.expect(page.locator(".answer h3")).to_have_text("light", timeout=60_000)
        assert TOKEN not in page.url + page.evaluate(
            "document.cookie + JSON.stringify({...localStorage, ...sessionStorage})"
        )


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 360)])
def test_axe_finds_nothing_wrong_and_nothing_is_cut_off(browser: Any, url: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    for path in ("/", "/docs"):
        page.goto(url + path)
        if path == "/":
            _drop(page, "a-file-with-quite-a-long-name-as-scanners-write-them-0000000001.png", _endoscopy_like())
            playwright.expect(page.get_by_text("1 of 1 answered.")).to_be_visible(timeout=60_000)
            page.get_by_text("About this model").click()
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        _keep_picture(page, f"service-{scheme}-{width}{path.strip('/') and '-docs'}")
    context.close()


def test_fields_beside_the_image_are_filled_in(page: Any, quick_decoder: type, picture: Callable[..., bytes]) -> None:
    with running(create_app(WithAge())) as url:
        page.goto(url)
        age, site = page.locator("#fields [name=age]"), page.locator("#fields [name=site]")
        playwright.expect(site.locator("option")).to_have_text(["unknown", "<b>", "arm", "leg"])
        _drop(page, "before.png", picture())
        playwright.expect(page.get_by_text("1 of 1 answered.")).to_be_visible(timeout=60_000)
        age.fill("80")
        site.select_option("leg")
        _drop(page, "after.png", picture())
        playwright.expect(page.get_by_text("2 of 2 answered.")).to_be_visible(timeout=60_000)
        assert page.locator(".answer").nth(0).locator(".flags").inner_text() == "unsure"  # at an unknown age
        assert page.locator(".answer").nth(1).locator(".percent").first.inner_text() == "80.0 %"


def test_answers_stand_in_the_files_order_whichever_came_first(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    bodies = [picture(20), picture(90), picture(250)]
    routes: dict[bytes, Any] = {}

    def answer(route: Any) -> None:
        routes[route.request.post_data_buffer] = route
        if len(routes) == 3:
            more = {"flags": [], "model": {"name": "m", "hash": "0"}, "preview": "data:image/png;base64,"}
            for body in reversed(bodies):
                routes[body].fulfill(json={"label": "dark", "probs": {"dark": 0.9, "light": 0.1}} | more)

    page.route("**/v1/predict*", answer)
    page.goto(url)
    for place, body in enumerate(bodies):
        _drop(page, f"{place}.png", body)
    playwright.expect(page.get_by_text("3 of 3 answered.")).to_be_visible(timeout=60_000)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download answers (CSV)").click()
    rows = Path(saved.value.path()).read_text().splitlines()[1:]
    assert [row.split(",")[0].strip('"') for row in rows] == ["0.png", "1.png", "2.png"]


def test_the_confidence_is_that_of_the_label_which_a_threshold_chose(
    page: Any, url: str, picture: Callable[..., bytes]
) -> None:
    told = [{"label": "dark", "probs": {"dark": p, "light": 1 - p}} for p in (0.1, 0.9)]
    _answers(page, url, {picture(20): told[0], picture(250): told[1]})
    assert _cells(page) == [["dark", "10.0 %"], ["dark", "90.0 %"]]
