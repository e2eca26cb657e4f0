"""What objects say of themselves: facts as text, the same as HTML with every text escaped, and pages inline."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import medclf
from medclf.auditing.audit import audit
from medclf.display import Page, Shown
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.results.wording import metrics_frame


def small(pretrained=False):
    stem = [torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    return torch.nn.Sequential(*stem, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10))


@pytest.fixture
def learn(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(16):
        file = tmp_path / "data" / ("polyp" if i % 2 else "<b>normal") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 36, 3), dtype=np.uint8)).save(file)
    dls = MedDataLoaders.from_folder(tmp_path / "data", size=32, bs=8, progress=False)
    return med_learner(dls, small, pretrained=False)


class Thing(Shown):
    def _shown(self):
        return "Thing <a>", {"n": 3, "label": "<script>"}, pd.DataFrame({"<i>": ["<u>"]})


def test_text_and_html_say_the_same_and_nothing_is_obeyed():
    assert repr(Thing()) == "Thing <a>\n  n: 3\n  label: <script>"
    shown = Thing()._repr_html_()
    assert "Thing &lt;a&gt;" in shown and "&lt;script&gt;" in shown and "&lt;u&gt;" in shown
    assert not any(tag in shown for tag in ("<a>", "<script>", "<i>", "<u>"))


def test_loaders_learner_interpretation_and_bundle_show_what_they_hold(learn, tmp_path):
    assert "training images: 13" in repr(learn.dls) and "validation images: 3" in repr(learn.dls)
    with learn.no_logging(), learn.no_bar():
        learn.fit(2, 1e-3)
    assert "own/small" in repr(learn) and "epochs trained: 2" in repr(learn) and "valid_loss" in learn._repr_html_()
    interp = MedInterpretation.from_learner(learn)
    right = np.trace(interp.confusion_matrix())
    assert f"classified correctly: {right} of 3" in repr(interp)
    bundle = load_bundle(save_bundle(learn, tmp_path / "net.bundle", calibration={}, card={"evaluated": "never <b>"}))
    assert "32 x 32 pixels, 3 channels" in repr(bundle) and "never &lt;b&gt;" in bundle._repr_html_()
    for one in (learn.dls, learn, interp, bundle):
        assert "<b>normal" not in one._repr_html_() and "&lt;b&gt;normal" in one._repr_html_()


def test_an_audit_shows_what_it_found(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(pixels).save(tmp_path / name)
    found = audit(tmp_path, progress=False)
    assert f"findings: {len(found.findings)}" in repr(found) and "images: 2" in repr(found)
    assert found.findings["kind"].iloc[0] in found._repr_html_()


def test_a_run_shows_its_result_or_what_is_wrong_with_it(tmp_path):
    accuracy = {"value": 0.9, "low": 0.596, "high": 0.982, "n": 10}
    facts = {"schema": 2, "task": "single-label", "partition": "valid", "n": 10, "accuracy": accuracy}
    facts |= {"vocab": ["normal", "polyp"], "per_class": {}, "confusion_matrix": [[5, 0], [1, 4]]}
    (tmp_path / "results.json").write_text(json.dumps(facts))
    run = medclf.Run(tmp_path)
    assert "9 of 10 validation images" in repr(run) and "0.596" in run._repr_html_()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "results.json").write_text("{")
    assert "not readable" in repr(medclf.Run(tmp_path / "bad"))


def test_metrics_are_a_table():
    one, two = ({"value": v, "low": 0.0, "high": 1.0, "n": 4} for v in (0.5, 0.75))
    frame = metrics_frame({"n": 4, "accuracy": one, "per_class": {"polyp": {"n": 2, "sensitivity": two}}})
    assert list(frame.index) == ["accuracy", "sensitivity of polyp"] and list(frame["value"]) == [0.5, 0.75]


def test_a_page_is_shown_inline_and_cannot_reach_the_notebook(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text('<p title="x">page</p>', encoding="utf-8")
    page = Page(tmp_path / "report.html")
    assert isinstance(page, Path) and page == tmp_path / "report.html"
    shown = page._repr_html_()
    assert "&lt;p title=&quot;x&quot;&gt;page" in shown
    assert "sandbox=" in shown and "allow-same-origin" not in shown
    monkeypatch.setattr("medclf.display._EMBEDDED", 5)
    assert "iframe" not in page._repr_html_() and page.parent._repr_html_() is None
