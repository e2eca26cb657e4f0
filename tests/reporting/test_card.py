"""A card and a column to group by, from train's options to results.json, the page and the bundle."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from medclf.cli import app
from medclf.config import TrainConfig
from medclf.demo_images import draw_endoscopy
from medclf.errors import DataError
from medclf.inference.bundle import load_bundle
from medclf.reporting.card import QUESTIONS
from medclf.run.config import check_early
from medclf.run.evaluate import evaluate
from medclf.run.train import train


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = draw_endoscopy(tmp_path_factory.mktemp("card") / "drawn", n_per_class=8, size=(64, 64))
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    table = pd.DataFrame({"path": paths, "label": [path.partition("/")[0] for path in paths]})
    table["sex"] = ["f", "m"] * (len(paths) // 2)
    table.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(drawn):
    card = drawn.parent / "card.yaml"
    card.write_text("source: drawn by a program\nintended use: tests\n")
    return train(
        TrainConfig(
            data=str(drawn),
            labels=str(drawn / "labels.csv"),
            out=str(drawn.parent / "RUN"),
            arch="efficientnet_lite0",
            epochs=0,
            size=32,
            split="stratified",
            cache=False,
            card=str(card),
            subgroup=["sex"],
        ),
        lambda line: None,
    )


@pytest.mark.slow
def test_card_and_groups_reach_everything(run):
    facts = json.loads((run / "results.json").read_text())
    items = facts["checklist"]["items"]
    assert facts["card"] == {"source": "drawn by a program", "intended use": "tests"}
    assert (items[6]["answer"], items[6]["source"]) == ("drawn by a program", "card")
    assert facts["checklist"]["filled"] >= 25 and facts["checklist"]["missing"] >= 10
    groups = facts["subgroups"]["sex"]["groups"]
    assert sum(group["n"] for group in groups) == facts["n"] and {group["group"] for group in groups} == {"f", "m"}
    assert all("small group" in group["remark"] for group in groups)
    page = (run / "report.html").read_text()
    assert "MISSING" in page and "drawn by a program" in page and "Subgroups" in page
    bundle = load_bundle(run / "bundle")
    assert bundle.card["intended use"] == "tests" and "classified correctly" in bundle.card["evaluated"]


@pytest.mark.slow
def test_an_evaluation_has_groups_too(run, drawn):
    folder = evaluate(run, drawn, labels=drawn / "labels.csv", subgroup=["sex"])
    groups = json.loads((folder / "results.json").read_text())["subgroups"]["sex"]["groups"]
    assert [group["n"] for group in groups] == [16, 16]


def test_a_column_that_is_not_there_is_told_before_training(drawn, tmp_path):
    config = TrainConfig(
        data=str(drawn), out=str(tmp_path / "RUN"), arch="efficientnet_lite0", cache=False, subgroup=["scanner"]
    )
    with pytest.raises(DataError, match="no column 'scanner'"):
        train(config, lambda line: None)
    assert not (tmp_path / "RUN").exists()


def test_a_card_with_a_mistake_is_told_first(drawn, tmp_path):
    (tmp_path / "card.yaml").write_text("sorce: x")
    config = TrainConfig(data=str(drawn), out=str(tmp_path / "RUN"), card=str(tmp_path / "card.yaml"))
    with pytest.raises(DataError, match="did you mean source"):
        check_early(config)


def test_the_card_command(tmp_path):
    path = tmp_path / "card.yaml"
    assert CliRunner().invoke(app, ["card", str(path)]).exit_code == 0
    assert all(f"\n{key}:\n" in path.read_text() for key in QUESTIONS)
    path.write_text("source: filled in")
    again = CliRunner().invoke(app, ["card", str(path)])
    assert again.exit_code == 1 and "exists already" in str(again.exception)
    assert path.read_text() == "source: filled in"
