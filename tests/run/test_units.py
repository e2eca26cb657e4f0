"""`--unit` beside the other settings of a training: each goes with it, or is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medclf.config import TrainConfig
from medclf.errors import DataError
from medclf.run.predict_unit import predict_unit
from medclf.run.train import train

SETTINGS = {
    "arch": "efficientnet_lite0",
    "size": 32,
    "saliency": 0,
    "audit": False,
    "unit": "patient",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 patients of two images each, as bright as their grade of 0 to 2."""
    folder, rng, rows = tmp_path_factory.mktemp("patients"), np.random.default_rng(0), []
    for index in range(96):
        patient = index // 2
        grade = patient % 3
        pixels = rng.normal(50 + 70 * grade, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        findings = ["(none)", "light", "light|very"][grade]
        rows.append({"path": f"{index}.png", "patient": f"SECRET{patient}", "label": grade, "findings": findings})
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def run(data, tmp_path, **settings):
    out = train(
        data, out=tmp_path / "RUN", say=lambda _: None, patient_col="patient", valid_pct=0.3, **{**SETTINGS, **settings}
    )
    facts = json.loads((out / "results.json").read_text())
    assert facts["units"]["by"] == "patient" and facts["units"]["n_images"] == 2 * facts["n"]
    return out, facts


@pytest.mark.slow
def test_a_fine_tuned_network_answers_by_unit(data, tmp_path):
    out, facts = run(data, tmp_path, epochs=1, unit_answer="max")
    assert facts["units"]["answer"] == "max" and facts["training"]["fine_tune"]
    rows = pd.read_csv(out / "predictions.csv")
    first = rows.iloc[0]
    images = pd.read_csv(out / "images.csv")
    own = images[images["unit_id"] == first["unit_id"]]["path"]
    found = predict_unit(out, [data.parent / path for path in own])
    assert [found.probs[name] for name in ("0", "1", "2")] == pytest.approx(
        first[["prob_0", "prob_1", "prob_2"]].tolist(), abs=1e-4
    )


def test_attention_needs_a_frozen_encoder():
    with pytest.raises(DataError, match="needs the features of one frozen encoder"):
        TrainConfig("data", "RUN", unit="patient", unit_answer="attention", epochs=2)


@pytest.mark.slow
def test_folds_grades_and_hidden_names_go_with_units(data, tmp_path):
    out, facts = run(data, tmp_path, epochs=0, split="kfold", folds=2, ordinal="0,1,2", hide_names=True)
    assert facts["n"] == 48 and facts["quadratic_kappa"]["value"] > 0.5
    page = (out / "report.html").read_text()
    assert "SECRET" not in page and "rows.csv" not in page
    assert not any(f"{k}.png" in page for k in range(10, 96))


@pytest.mark.slow
def test_several_labels_go_with_units(data, tmp_path):
    _, facts = run(data, tmp_path, epochs=0, label_col="findings", label_delim="|", unit_answer="noisy-or")
    assert facts["vocab"] == ["light", "very"] and facts["per_class"]["very"]["auroc"]["value"] > 0.8
