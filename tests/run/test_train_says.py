"""What a training says of its images before and after: whatever it counts is told as what it is."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from medclf.config import TrainConfig
from medclf.run.train import _say_withheld, _scanned


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_files_with_a_problem_are_counted_as_such_and_none_is_said_of_the_rest(make_images: Any, broken: int) -> None:
    root = make_images(*[f"{label}/{k}.png" for label in "ab" for k in range(3)])
    for k in range(broken):
        (root / "a" / f"broken {k}.png").write_bytes(b"none")
    said: list[str] = []
    _scanned(TrainConfig(str(root), "RUN"), said.append)
    more = {0: "", 1: "; 1 more is left out", 2: "; 2 more are left out"}[broken]
    assert said == [f"6 images{more}"]


def test_withheld_pictures_are_told_of_the_images_that_were_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr("medclf.run.train.withheld_among", lambda root, paths: dict.fromkeys(range(2), "ultrasound"))
    shown: Any = SimpleNamespace(table=pd.DataFrame({"path": ["a", "b", "c"], "partition": "valid"}))
    said: list[str] = []
    _say_withheld(TrainConfig("data", "RUN"), Path(), shown, said.append)
    assert said[0].startswith("2 pictures of validation images are withheld (ultrasound)")
    assert "medclf report RUN --show-burned-in" in said[0]
