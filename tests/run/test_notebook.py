"""`review` in a notebook: of a RUN, of an interpretation, and of the images to label next."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.run.label_next import NextLabels
from medclf.run.notebook import DOUBTFUL, review


@pytest.fixture(scope="module")
def interp(tmp_path_factory):
    """Of a network of random weights, so that many answers are wrong."""
    folder = draw_endoscopy(tmp_path_factory.mktemp("drawn"), n_per_class=6, size=(48, 48))
    dls = MedDataLoaders.from_folder(folder, size=32, split="stratified", seed=1, cache=False)
    return MedInterpretation.from_learner(med_learner(dls, "efficientnet_lite0", weights=None, linear_probe=False))


def test_of_an_interpretation_doubtful_labels_come_first_then_the_errors_worst_first(interp):
    found = review(interp, n=50)
    frame = interp.to_frame().set_index("path")
    errors = [item for item in found.items if item.group != DOUBTFUL]
    doubtful = [item for item in found.items if item.group == DOUBTFUL]
    assert found.items == [*doubtful, *errors] and found.vocab == list(interp.vocab)
    wrong = frame[frame["label"] != frame["pred"]]
    assert {item.path for item in found.items} >= set(wrong.index)
    losses = [frame["loss"][item.path] for item in errors]
    assert losses == sorted(losses, reverse=True)
    for item in errors:
        label, pred = frame.loc[item.path, ["label", "pred"]]
        assert (item.label, item.suggestion, item.group) == (label, (pred,), f"{label} predicted as {pred}")
    assert all(item.picture.startswith("data:image/jpeg") for item in found.items)
    assert len(review(interp, n=2).items) == 2
    blind = review(interp, n=50, blind=True, seed=3)
    assert sorted(i.path for i in blind.items) == sorted(i.path for i in found.items) and blind.items != found.items
    with pytest.raises(DataError, match="n must be 1"):
        review(interp, n=0)


def test_of_label_next_the_sheet_holds_all_labels(tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 20), 90, np.uint8)).save(tmp_path / name)
    (tmp_path / "c.png").write_text("no picture")
    rows = [
        ("a.png", "unsure", "polyp", 0.6, 0.2),
        ("c.png", "unsure", "", np.nan, 0.0),
        ("b.png", "typical", "", 0.0, 0.0),
    ]
    images = pd.DataFrame(rows, columns=["path", "why", "suggestion", "prob", "margin"])
    chosen = NextLabels(images, None, {"z.png": "normal"}, ["y.png"], ["normal", "polyp"], tmp_path)
    found = review(replace(chosen, remarks={"y.png": ("poor image", "blurred")}))
    assert [(item.path, item.group, item.suggestion) for item in found.items] == [
        ("a.png", "unsure", ("polyp",)), ("b.png", "typical", ())
    ]  # fmt: skip
    assert len(found.missing) == 1 and found.missing[0].startswith("c.png: ")
    found.answer("b.png", "polyp")
    assert found.to_frame().to_numpy().tolist() == [
        ["z.png", "normal", "", "", "yes"],
        ["y.png", "", "poor image", "blurred", "yes"],
        ["b.png", "polyp", "", "", ""],
    ]
    several = review(replace(chosen, multi_label=True))
    several.answer("b.png", "normal", "polyp")
    assert several.to_frame()["label"].tolist() == ["normal", "", "normal|polyp"]
