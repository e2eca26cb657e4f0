"""The page of a shortcut test says what the test found, with pictures before and after."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd

from medclf.auditing.shortcut_test import NO_EVIDENCE, Example, ShortcutTest
from medclf.metrics.intervals import Estimate
from medclf.reporting.shortcut_page import render_shortcuts


def a_test(path="red/1.png"):
    overlays = pd.DataFrame(
        [{"overlay": 1, "kind": "box", "place": "bottom left", "carriers": 9, "share_pale": 0.0, "share_red": 0.9}]
    )
    none = {"donor": None, "donor_carries": None, "towards": None}
    away = Estimate(-0.5, -0.6, -0.4, 9)
    rows = [
        {
            "overlay": 1,
            "edit": "masked",
            "label": "red",
            "n": 9,
            "moved": Estimate(1.0, 0.7, 1.0, 9),
            "change": away,
            **none,
        },
        {
            "overlay": 1,
            "edit": "masked",
            "label": "pale",
            "n": 0,
            "moved": Estimate(0, 0, 1, 0),
            "change": away,
            **none,
        },
        {
            **{"overlay": 1, "edit": "swapped", "label": "pale", "n": 10, "moved": Estimate(0.25, 0.1, 0.5, 10)},
            **{"change": away, "donor": "red", "donor_carries": True, "towards": Estimate(0.3, 0.2, 0.4, 10)},
        },
    ]
    mask = np.zeros((32, 32), bool)
    mask[20:30, 2:12] = True
    grey = np.full((32, 32, 3), 90, np.uint8)
    example = Example(1, "masked", "red", path, grey, grey // 2, "red", (0.9, 0.2), ("red", "pale"))
    words = ["Overlay 1 (box, bottom left) is on 90% of 'red'.", "Another <finding>."]
    return ShortcutTest(overlays, pd.DataFrame(rows), words, 20, mask[None], [example])


def test_it_shows_numbers_and_pictures(tmp_path):
    text = render_shortcuts(a_test(), tmp_path / "page.html").read_text()
    assert "Overlay 1 (box, bottom left) is on 90% of &#39;red&#39;." in text and "Another &lt;finding&gt;." in text
    assert "Overlay 1: box, bottom left" in text
    assert "Share of the images that carry it: red 90 %; pale 0 %." in text
    assert "100 %<small>70.0 to 100 %</small>" in text  # moved, a share
    assert "-0.500<small>-0.600 to -0.400</small>" in text  # change, of probabilities
    assert "red, with it" in text and "0.300<small>0.200 to 0.400</small>" in text
    assert text.count("data:image/jpeg") == 2 and "red → pale" in text
    assert "probability of red: 90.0 % → 20.0 %" in text
    assert not re.search(r"<td[^>]*>pale</td><td[^>]*>0</td>", text)  # an effect on no image is no row


def test_it_asks_for_nothing_and_can_hide_names(tmp_path):
    text = render_shortcuts(a_test(), tmp_path / "page.html", hide_names=True).read_text()
    assert "row 1" in text and "red/1.png" not in text
    assert "default-src &#39;none&#39;" in text and "<script" not in text
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', text)


def test_pictures_can_be_left_out(tmp_path):
    text = render_shortcuts(a_test(), tmp_path / "page.html", pictures=False).read_text()
    assert "<img" not in text and "data:image" not in text


def test_nothing_found(tmp_path):
    none = ShortcutTest(
        pd.DataFrame(), pd.DataFrame(), ["Nothing that stands still was found."], 5, np.zeros((0, 4, 4))
    )
    text = render_shortcuts(none, tmp_path / "page.html").read_text()
    assert "Nothing that stands still was found." in text and "<section" not in text


def test_of_an_overlay_that_moves_nothing_few_images_are_shown(tmp_path):
    test = a_test()
    examples = [test.examples[0]._replace() for _ in range(12)]
    said = f"Overlay 1 (box, bottom left) is on 90 % of 'red'; {NO_EVIDENCE} that predictions depend on it."
    for sentences, shown in ((test.sentences, 8), ([said, "Another."], 3)):
        page = render_shortcuts(replace(test, examples=examples, sentences=sentences), tmp_path / "page.html")
        assert page.read_text().count("data:image/jpeg") == 2 * shown
