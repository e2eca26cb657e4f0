"""The notebook's review: what its keys do in a browser, and what Python gets of it."""

import base64
import json
import sys
from importlib import resources

import pytest

from medclf.dataset.corrections import read_corrections
from medclf.errors import DataError, MissingDependency
from medclf.reporting.widget import Review, ReviewItem

VOCAB = ["normal", "polyp", "ulcer"]


def made(**options):
    items = [
        ReviewItem("a.png", "", "polyp", ("normal",), "doubtful labels", ("a.png", "label polyp")),
        ReviewItem("b.png", "", "ulcer", ("polyp",), "ulcer predicted as polyp", ("b.png",)),
        ReviewItem("c.png", "", "normal", ("polyp",), "normal predicted as polyp", ("c.png",)),
    ]
    return Review(items, VOCAB, **options)


def test_what_was_said_becomes_corrections(tmp_path):
    review = made()
    assert review.to_frame().empty
    review.answer("a.png", "normal")
    review.answer("b.png", "ulcer", note="sure")
    review.answer("c.png", mark="poor image")
    assert review.to_frame()[["path", "mark", "new_label"]].to_numpy().tolist() == [
        ["a.png", "new label", "normal"], ["b.png", "", ""], ["c.png", "poor image", ""]
    ]  # fmt: skip
    rows = read_corrections(review.to_csv(tmp_path / "review.csv")).rows
    assert rows["label"].tolist() == ["polyp", "ulcer", "normal"] and rows["note"].tolist() == ["", "sure", ""]
    review.answer("a.png")
    assert "a.png" not in set(review.to_frame()["path"])


@pytest.mark.parametrize("said", [("d.png", "polyp"), ("a.png", "cancer"), ("a.png", "(none)")])
def test_what_is_no_image_or_class_is_refused(said):
    with pytest.raises(DataError):
        made().answer(*said)
    assert made(multi_label=True).answer("a.png", "(none)") is None


def test_a_sheet_of_labels_holds_those_given_earlier():
    review = made(sheet="labels", earlier=[("z.png", "ulcer", "unsure", "seen before")])
    review.answer("b.png", "polyp", mark="unsure")
    review.answer("c.png", "polyp", mark="poor image")
    said = [["b.png", "polyp", "unsure", "", ""], ["c.png", "", "poor image", "", ""]]
    expected = [["z.png", "ulcer", "unsure", "seen before", "yes"], *said]
    assert review.to_frame().to_numpy().tolist() == expected


def test_the_widget_and_python_share_the_answers_and_a_blind_one_is_told_nothing():
    pytest.importorskip("anywidget")
    review = made(blind=True)
    review.answer("a.png", "normal")
    widget = review.widget
    assert widget.answers == {"a.png": {"labels": ["normal"], "mark": "", "note": ""}}
    widget.answers = {**widget.answers, "b.png": {"labels": ["polyp"]}}  # as the browser sends it
    assert review.to_frame()["new_label"].tolist() == ["normal", "polyp"]
    told = json.dumps([{key: value for key, value in item.items() if key != "path"} for item in widget.items])
    assert not any(word in told for word in [*VOCAB, "doubtful"])
    assert "application/vnd.jupyter.widget-view+json" in str(review._repr_mimebundle_())
    widget.answers = {"a.png": {"labels": ["<script>"]}}
    with pytest.raises(DataError, match="unknown label"):
        review.to_frame()


def test_without_anywidget_the_extra_is_named(monkeypatch):
    from medclf.reporting import widget

    widget._widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(MissingDependency, match=r"medclf\[notebook\]"):
        _ = made().widget


_PAGE = """async ([code, traits]) => {
  const module = await import(`data:text/javascript;base64,${code}`);
  const heard = [];
  window.model = {
    get: (name) => traits[name],
    set: (name, value) => { traits[name] = value; heard.forEach((act) => act()); },
    save_changes: () => {},
    on: (name, act) => heard.push(act),
    off: () => {},
  };
  module.default.render({ model: window.model, el: document.body });
}"""


def shown(browser, review):
    """The widget in a page of its own, with a stand-in for the notebook's model."""
    page = browser.new_page()
    page.set_content("<!doctype html><html lang='en'><title>t</title><body></body></html>")
    code = (resources.files("medclf.reporting") / "templates" / "widget.js").read_bytes()
    traits = {name: getattr(review.widget, name) for name in ("items", "vocab", "several", "none", "answers")}
    page.evaluate(_PAGE, [base64.b64encode(code).decode(), traits])
    page.locator(".medclf-review").focus()
    return page, lambda: page.evaluate("window.model.get('answers')")


def test_keys_answer_undo_and_lose_nothing_between_groups(browser):
    pytest.importorskip("anywidget")
    page, answers = shown(browser, made())
    page.evaluate("() => { window.seen = 0; document.addEventListener('keydown', () => window.seen++); }")
    page.keyboard.press("Enter")  # accepts the suggestion, and the next one comes
    assert answers()["a.png"]["labels"] == ["normal"]
    page.keyboard.press("3")
    assert answers()["b.png"]["labels"] == ["ulcer"]
    assert page.get_by_role("status").inner_text() == "2 of 3 read"
    page.get_by_label("Images", exact=True).select_option("normal predicted as polyp")
    page.locator(".medclf-review").focus()
    page.keyboard.press("p")
    page.keyboard.press("4")  # there is no fourth class
    assert answers()["c.png"] == {"labels": [], "mark": "poor image", "note": ""} and len(answers()) == 3
    page.get_by_label("Images", exact=True).select_option("all images")
    assert page.get_by_role("status").inner_text() == "3 of 3 read"
    page.locator(".medclf-review").focus()
    assert page.locator(".about").inner_text().startswith("1 of 3")
    assert page.get_by_role("button", name="normal (1)").get_attribute("aria-pressed") == "true"
    page.keyboard.press("z")
    assert set(answers()) == {"a.png", "b.png"}
    page.get_by_label("Note").fill("3u")
    page.get_by_label("Note").press("Tab")
    assert sum(answer["note"] == "3u" for answer in answers().values()) == 1
    assert page.evaluate("window.seen") == 0  # the notebook's own keys were not pressed
    page.close()


def test_unsure_is_an_answer_that_enter_leaves(browser):
    pytest.importorskip("anywidget")
    page, answers = shown(browser, made())
    page.keyboard.press("u")
    assert page.get_by_role("status").inner_text() == "1 of 3 read"
    page.keyboard.press("Enter")
    assert answers()["a.png"] == {"labels": [], "mark": "unsure", "note": ""} and "b.png" not in answers()
    assert page.locator(".about").inner_text().startswith("2 of 3")
    page.close()


def test_of_several_labels_none_takes_the_others_back(browser):
    pytest.importorskip("anywidget")
    page, answers = shown(browser, made(multi_label=True))
    for key in ("1", "2", "1", "3"):
        page.keyboard.press(key)
    assert answers()["a.png"]["labels"] == ["polyp", "ulcer"]
    page.keyboard.press("0")
    assert answers()["a.png"]["labels"] == ["(none)"]
    page.keyboard.press("1")
    assert answers()["a.png"]["labels"] == ["normal"]
    page.close()
