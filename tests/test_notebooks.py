"""The notebooks of examples/ run as they stand, on real or drawn images, and are kept without pictures."""

import re
import runpy
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from medclf.demo_dicom import draw_ct
from medclf.demo_images import draw_endoscopy

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(file.name for file in FOLDER.glob("*.ipynb"))


def draw_radiographs(folder):
    """Bright ovals (abdomen) and two dark ones (chest), in the folders of the hello-world set."""
    rng, (row, column) = np.random.default_rng(0), np.ogrid[:96, :96]
    for part, n in (("TRAIN", 8), ("VAL", 3), ("TEST", 1)):
        for label, places in (("abd", [48]), ("chest", [30, 66])):
            for i in range(n):
                pixels = rng.normal(120, 20, (96, 96))
                for place in places:
                    inside = ((row - 48) / 34) ** 2 + ((column - place) / (14 if len(places) == 2 else 34)) ** 2 < 1
                    pixels[inside] += 60 if label == "abd" else -60
                file = folder / part / ("" if part == "TEST" else label) / f"{label}{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def client(request, tmp_path_factory):
    """One kernel for all notebooks, since each would import torch again; their settings come from its environment."""
    room = tmp_path_factory.mktemp("notebooks")
    try:
        hello = request.getfixturevalue("shared_data") / "hello-world"
    except pytest.skip.Exception:
        hello = draw_radiographs(room / "radiographs")
    drawn = draw_endoscopy(room / "endoscopy", n_per_class=8, size=(72, 64))
    settings = {"HELLO_WORLD": hello, "KVASIR": drawn, "ENDOSCOPY": drawn, "DICOM": draw_ct(room / "ct")}
    settings |= {"BOXED": drawn, "BOXES": drawn / "boxes.csv", "ARCH": "efficientnet_lite0", "EPOCHS": 1, "SIZE": 48}
    settings |= {"CACHE": room / "cache", "PATIENT_KEY": room / "patients.key"}
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(f"MEDCLF_{name}", str(value))
        with client.setup_kernel():
            yield client


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_it_promises(name, client, tmp_path):
    client.nb = notebook = nbformat.read(FOLDER / name, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))
    notebook.cells.append(nbformat.v4.new_code_cell("%cd -q /"))  # the test's folder goes, the kernel stays
    client.execute(cleanup_kc=False)
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    shown = [one["data"] for one in outputs if "data" in one]
    assert not any(one["output_type"] == "error" for one in outputs)
    assert sum("image/png" in one for one in shown) >= 4
    assert any("srcdoc=" in one.get("text/html", "") for one in shown)  # the report
    assert not any("application/vnd.jupyter.widget-view+json" in one for one in shown)  # a page cannot show widgets
    texts = "\n".join(one.get("text/plain", "") for one in shown)
    assert "array(" not in texts and not re.search(r"<Axes|<medclf\S+ object", texts)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_outputs_and_says_how_to_install(name):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "pip install" in code[0].source


def test_the_drawn_radiographs_have_the_folders_of_the_set(tmp_path):
    made = draw_radiographs(tmp_path)
    assert {file.relative_to(made).parts[0] for file in made.rglob("*.png")} == {"TRAIN", "VAL", "TEST"}


def test_the_cells_that_the_docs_picture_are_there():
    found = runpy.run_path(str(FOLDER / "pictures.py"))
    sources = [cell.source for cell in nbformat.read(found["NOTEBOOK"], as_version=4).cells]
    for file, beginning in found["CELLS"].items():
        assert sum(source.startswith(beginning) for source in sources) == 1
        assert f"images/{file})" in (FOLDER.parents[1] / "docs" / "notebooks.md").read_text(encoding="utf-8")
