"""Every Python block of the docs and the README runs, page by page, in a folder of its own."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text[: match.start(1)].count("\n")
        yield "\n" * line + match.group(1)  # a traceback then names the page's own line


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if list(blocks(p))], ids=lambda p: p.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    namespace = {"__name__": "__docs__"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), namespace)
    assert os.environ["MEDCLF_CACHE"] == str(tmp_path / "cache")


def test_every_page_is_in_the_contents():
    contents = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([a-z-]+)$", contents, re.MULTILINE))
    assert {p.stem for p in (ROOT / "docs").glob("*.md")} - {"index"} == listed


def test_the_commands_are_as_help_says():
    import runpy

    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))
    said = "run python docs/write_commands.py"
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == written["page"](), said


def test_every_public_name_is_in_the_api_page():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\.\. automodule:: (\S+)\n   :members:((?:.*\n)(?:    .*\n)*)", page, re.MULTILINE))
    shown |= dict(re.findall(r"^\.\. autoclass:: (\S+)\.(\w+)$", page, re.MULTILINE))
    stub = (ROOT / "medclf" / "__init__.pyi").read_text(encoding="utf-8")
    public = re.findall(r"^from \.(\S+) import (\w+) as", stub, re.MULTILINE)
    assert len(public) > 50
    for module, name in public:
        names = re.findall(r"\w+", shown.get(f"medclf.{module}", "nothing"))
        assert name in names or not names, f"{name} of {module}"  # where none is listed, all are shown


def test_the_versions_agree():
    import medclf

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {medclf.__version__}\n" in citation
    assert f"## {medclf.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
