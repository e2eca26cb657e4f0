"""Cells of an executed notebook as pictures for docs/notebooks.md: drawn images alone, never real ones.

python examples/notebooks/pictures.py
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import tempfile
from html import escape
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
NOTEBOOK = HERE / "bring_your_own_encoder.ipynb"
CELLS = {"notebook-ranking.png": "ranking = encoders(", "notebook-report.png": "report(interp,"}  # file -> beginning
STYLE = """
body { margin: 0; background: white; font: 14px system-ui, sans-serif; }
main { min-width: 960px; width: fit-content; padding: 12px; box-sizing: border-box; }
pre { font: 13px monospace; white-space: pre-wrap; margin: 0 0 8px; }
pre.code { background: #f5f5f5; border: 1px solid #ddd; padding: 8px; }
table { border-collapse: collapse; font-size: 12px; }
td, th { border: 0; padding: 4px 10px; text-align: right; white-space: nowrap; }
tbody tr:nth-child(odd) { background: #f5f5f5; }
"""


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run on images that it draws itself."""
    os.environ.update({"MEDCLF_ARCH": "efficientnet_lite0", "MEDCLF_EPOCHS": "3", "MEDCLF_SIZE": "96"})
    os.environ.pop("MEDCLF_ENDOSCOPY", None)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def page(cell: nbformat.NotebookNode) -> str:
    """A cell and what it showed, as HTML."""
    parts = [f'<pre class="code">{escape(cell.source)}</pre>']
    for output in cell.outputs:
        data = output.get("data", {})
        if "text/html" in data:
            parts.append(data["text/html"])
        elif "image/png" in data:
            parts.append(f'<img src="data:image/png;base64,{data["image/png"]}">')
        elif output.get("name") != "stderr":
            parts.append(f"<pre>{escape(output.get('text') or data.get('text/plain', ''))}</pre>")
    return f"<!doctype html><style>{STYLE}</style><main>{''.join(parts)}</main>"


def main() -> None:
    """Run the notebook, and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "images", help="folder")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        notebook = executed(Path(folder))
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1100, "height": 800})
        for name, beginning in CELLS.items():
            tab.set_content(page(next(cell for cell in notebook.cells if cell.source.startswith(beginning))))
            for frame in tab.locator("iframe").all():
                frame.content_frame.locator("table").first.wait_for()
            picture = Image.open(io.BytesIO(tab.locator("main").screenshot()))
            picture.convert("RGB").quantize(64).save(out / name, optimize=True)
            print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB, {picture.width} x {picture.height} pixels")
        browser.close()


if __name__ == "__main__":
    main()
