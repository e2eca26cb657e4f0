"""A full disk or a locked folder under every job that writes: one clear error, and the folder as it was."""

import contextlib
import errno
import os
import resource
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from medclf.auditing.audit import audit
from medclf.cli import main
from medclf.dataset.image_cache import build_stores
from medclf.dataset.scan import scan
from medclf.errors import OutputError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle import save_bundle
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.models.backbones import build_network
from medclf.models.spec import ModelSpec, Normalization
from medclf.reporting.report import render
from medclf.results.predictions import Predictions
from medclf.results.run_folder import save_table

pytestmark = pytest.mark.usefixtures("shallow_networks")
SIZE = 32
SPEC = ModelSpec("efficientnet_lite0", ("blue", "red"), Preprocessing(SIZE), Normalization((0.5,) * 3, (0.5,) * 3))


@contextlib.contextmanager
def full(folder):
    """No file can grow, as on a full disk: writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def locked(folder):
    """Nobody may write there, not even root, who takes another name meanwhile."""
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)


def opened(folder):
    """The folder, which others than root can reach and read."""
    for place in (folder, *folder.parents):
        if place.stat().st_mode & 0o055 != 0o055:
            place.chmod(place.stat().st_mode | 0o055)
    return folder


@pytest.fixture
def room(tmp_path):
    return opened(tmp_path)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = opened(tmp_path_factory.mktemp("images"))
    rng = np.random.default_rng(0)
    for label, channel in (("blue", 2), ("red", 0)):
        (folder / label).mkdir()
        for number in range(6):
            pixels = rng.integers(0, 99, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def predictions(images):
    table = scan(images, progress=False)
    probs = np.tile([0.3, 0.7], (len(table), 1))
    rows = table.drop(columns="label").assign(partition="valid")
    return Predictions(["blue", "red"], False, np.ones(len(table), int), probs, np.zeros(len(table)), rows)


def page(images, out, **options):
    rows = predictions(images).to_frame()
    facts = {"task": "single-label", "partition": "valid", "n": 12, "vocab": ["blue", "red"]}
    read = lambda row: np.asarray(Image.open(images / row["path"]))  # noqa: E731
    return partial(render, facts | {"confusion_matrix": [[0, 0], [0, 12]]}, rows, out / "r.html", read=read, **options)


def store(images, out):
    table = scan(images, progress=False)
    paths = [str(images / path) for path in table["path"]]
    return partial(build_stores, paths, list(table["sha256"]), [Preprocessing(16)], folder=out / "stores")


def bundle(images, out):
    learn = SimpleNamespace(model=build_network("efficientnet_lite0", 2, weights=None), spec=SPEC)
    return partial(save_bundle, learn, out / "bundle")


JOBS = {
    "the table": lambda images, out: partial(save_table, out / "table.csv", scan(images, progress=False)),
    "the predictions": lambda images, out: partial(predictions(images).save, out / "predictions.csv"),
    "the report": page,
    "the report's pictures": lambda images, out: page(images, out, assets=out / "pictures"),
    "the audit": lambda images, out: partial(audit(images, near=False, progress=False).save, out / "audit"),
    "the cache": store,
    "the bundle": bundle,
}
DISASTERS = {"full": (full, r"[Ff]ile too large"), "locked": (locked, "Permission denied")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("disaster", DISASTERS)
@pytest.mark.parametrize("job", JOBS)
def test_one_clear_error_and_nothing_half_written(images, room, job, disaster):
    out = room / "out"
    out.mkdir()
    do = JOBS[job](images, out)
    strikes, reason = DISASTERS[disaster]
    with strikes(out), pytest.raises(OutputError, match=reason) as caught:
        do()
    assert str(room) in caught.value.message and caught.value.remedy
    left = [path for path in out.rglob("*") if path.is_file()]
    assert left == [], "half-written"
    do()  # there is room again
    assert [path for path in out.rglob("*") if path.is_file()]


@pytest.mark.filterwarnings("ignore")
def test_a_cache_that_is_closed_to_writing_still_serves(images, room, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(room / "cache"))
    settings = {"size": SIZE, "bs": 4, "cache": True, "progress": False}
    MedDataLoaders.from_folder(images, **settings)
    stores = room / "cache" / "stores"
    for folder in stores.iterdir():
        folder.chmod(0o555)
    with locked(stores):
        dls = MedDataLoaders.from_folder(images, **settings)
        head = med_learner(dls, "efficientnet_lite0", weights=None).fit_head(progress=False)
    assert head.n_train == len(dls.train_ds)
    for folder in stores.iterdir():
        folder.chmod(0o755)


def test_the_command_line_says_what_nobody_foresaw(monkeypatch, capsys, images, tmp_path):
    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("medclf.dataset.scan.scan", fails)
    monkeypatch.setattr(sys, "argv", ["medclf", "scan", str(images)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"medclf: {tmp_path / 'x'}: No space left on device\n"
    monkeypatch.setattr(sys, "argv", ["medclf", "scan", str(images), "--debug"])
    with pytest.raises(OSError, match="No space"):
        main()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_export(images, tmp_path):
    from medclf.inference.onnx import export_onnx

    bundle(images, tmp_path)()
    with full(tmp_path), pytest.raises(OutputError, match="File too large"):
        export_onnx(tmp_path / "bundle", tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
