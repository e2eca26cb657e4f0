"""The examples run as they stand, on small or drawn data."""

import runpy
import sys
from pathlib import Path

import pytest

from medclf.demo_images import draw_endoscopy

EXAMPLES = Path(__file__).parents[1] / "examples"
pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example as the shell does, but in this process, which has torch already; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def test_hello_world(run, shared_data, tmp_path):
    data = shared_data / "hello-world"
    out = run("hello_world.py", data, "--arch", "efficientnet_lite0", "--epochs", 0, "--size", 96)
    assert "chest2.png: openI_CXR" in out and "abd2.png: openI_abd_xray" in out
    assert (tmp_path / "hello-world-run" / "report.html").is_file()


def test_kvasir(run, tmp_path):
    data = draw_endoscopy(tmp_path / "drawn", n_per_class=8, size=(72, 64))
    lite = ("--arch", "efficientnet_lite0", "--arch2", "efficientnet_lite0")
    small = ("--size", 48, "--size2", 64, "--epochs", 0, "--epochs2", 1, "--box-epochs", 1)
    boxes = ("--boxed", data, "--boxes", data / "boxes.csv")
    out = run("kvasir.py", data, *lite, *small, *boxes)
    assert out.count("pixels: accuracy") == 2
    made = {p.relative_to(tmp_path / "kvasir-run").as_posix() for p in (tmp_path / "kvasir-run").rglob("*.*")}
    assert {"augmentations.png", "confusion-matrix.png", "top-losses.png", "report.html"} <= made
    assert "several labels: dye, inflammation, polyp" in out and "position-box: present in" in out
    assert {"several/report.html", "boxes/report.html", "boxes/boxes.csv"} <= made


def test_dicom(run, shared_data):
    out = run("dicom.py", shared_data / "dicom" / "siim-cxr35")
    assert "No patient is in both training and validation set" in out and "balanced accuracy" in out
