"""The examples of CONTRIBUTING.md run, and name files that are there."""

import re
from pathlib import Path

import pytest

from medclf.learn.augmentations import AUGMENTATIONS
from medclf.metrics.table import METRICS
from medclf.modalities import MODALITIES
from medclf.models.checkpoint_layouts import LAYOUTS
from medclf.models.registry import ARCHITECTURES
from medclf.reporting.sections import SECTIONS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLES = (AUGMENTATIONS, METRICS, MODALITIES, LAYOUTS, ARCHITECTURES, SECTIONS)


@pytest.fixture
def tables_as_they_were():
    before = [table.copy() for table in TABLES]
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows) if isinstance(table, dict) else table.extend(rows)


def test_each_example_adds_what_it_says(tables_as_they_were, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = [len(table) for table in TABLES]
    namespace = {"__name__": "__contributing__"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    for block in blocks:
        exec(compile(block, "CONTRIBUTING.md", "exec"), namespace)
    assert [len(table) for table in TABLES] == [n + 1 for n in before]


def test_the_files_it_names_are_there():
    named = set(re.findall(r"`((?:medclf|tests|docs)/[\w/.-]+)`", TEXT))
    assert len(named) > 12 and not [name for name in named if not (ROOT / name).exists()]
