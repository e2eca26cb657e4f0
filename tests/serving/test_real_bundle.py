"""A saved bundle served by a process of its own, as `medclf serve` does it."""

import base64
import contextlib
import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.detector_bundle import load_detector, save_detector
from medclf.inference.onnx import export_onnx

from ..fixtures.small_detectors import small_detector
from ..inference.conftest import fake_learn

pytestmark = pytest.mark.slow
_PROGRAM = """
import sys
from medclf.serving.app import serve
serve(sys.argv[1], port=0)
print("stopped; heavy modules:", [name for name in ("fastai", "matplotlib", "pandas", "torch") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bundle(fake_learn(), tmp_path_factory.mktemp("served") / "polyps.bundle", card={"source": "drawn"})


@contextlib.contextmanager
def _served(path: Path) -> Iterator[subprocess.Popen[str]]:
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would ignore it
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, path], stdout=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, heard)
        try:
            yield process
        finally:
            process.kill()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith("medclf serves ")
    address = line.partition(" on ")[2].split()[0]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{address}readyz", timeout=60).raise_for_status()
            return address
        except httpx.ConnectError:
            time.sleep(0.1)
    raise AssertionError("the service is not ready")


def _photo(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((90, 70)).save(file, "JPEG")
    return file.getvalue()


def _answers_as(bundle: Any, address: str) -> None:
    for seed in range(4):
        expected = bundle.predict(_photo(seed))
        answer = httpx.post(
            f"{address}v1/predict", content=_photo(seed), headers={"Content-Type": "image/jpeg"}, timeout=60
        ).json()
        assert answer["label"] == expected.label
        assert answer["probs"] == pytest.approx(expected.probs, abs=1e-4)


def test_a_bundle_answers_as_in_python_without_fastai_and_stops_whole_at_ctrl_c(saved: Path) -> None:
    bundle = load_bundle(saved)
    with _served(saved) as process:
        address = _address(process)
        _answers_as(bundle, address)
        model = httpx.get(f"{address}v1/model").json()
        assert (model["name"], model["hash"], model["card"]["source"]) == ("polyps", bundle.hash, "drawn")
        decoders = psutil.Process(process.pid).children()
        assert decoders
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        psutil.wait_procs(decoders, timeout=10)
        assert not any(decoder.is_running() for decoder in decoders)
        assert process.stdout and process.stdout.read() == "stopped; heavy modules: ['torch']\n"


def test_an_exported_file_answers_alike_without_torch(tmp_path: Path) -> None:
    saved = save_bundle(fake_learn("timm/test_efficientnet", size=(96, 104)), tmp_path / "small.bundle")
    exported = export_onnx(saved, tmp_path / "polyps.onnx")
    with _served(exported) as process:
        address = _address(process)
        _answers_as(load_bundle(saved), address)
        answer = httpx.post(
            f"{address}v1/predict?saliency=1", content=_photo(0), headers={"Content-Type": "image/jpeg"}, timeout=60
        ).json()
        with Image.open(io.BytesIO(base64.b64decode(answer["saliency"].partition(",")[2]))) as heat:
            assert heat.mode == "RGBA" and heat.size == (104, 96) and np.asarray(heat)[..., 3].any()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout and process.stdout.read() == "stopped; heavy modules: []\n"


def test_an_exported_detector_answers_with_boxes_without_torch(tmp_path: Path) -> None:
    saved = save_detector(small_detector(), tmp_path / "small.bundle", threshold=0.1)
    with _served(export_onnx(saved, tmp_path / "polyps.onnx")) as process:
        address = _address(process)
        sent: Any = {"content": _photo(0), "headers": {"Content-Type": "image/jpeg"}, "timeout": 60}
        answer = httpx.post(f"{address}v1/predict", **sent).json()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout and process.stdout.read() == "stopped; heavy modules: []\n"
    wanted = load_detector(saved).predict(_photo(0)).shown
    assert wanted and [box["label"] for box in answer["boxes"]] == [box.label for box in wanted]
    for box, one in zip(answer["boxes"], wanted, strict=True):
        assert list(box.values())[1:] == pytest.approx(astuple(one)[1:], abs=1e-3)
