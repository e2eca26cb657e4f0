"""`medclf explain`, `predict --runtime` and `export --int8` on a bundle made by hand."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from medclf.cli import app
from medclf.errors import BundleError, DataError, MedclfError, OutputError
from medclf.images.heatmap import hottest_box, on_original
from medclf.images.preprocessing import Preprocessing
from medclf.inference import bundle_format
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.onnx import OnnxModel
from medclf.models.backbones import build_network
from medclf.models.spec import ModelSpec, Normalization
from medclf.run.explain import explain

pytestmark = pytest.mark.usefixtures("shallow_networks")
_EDGES = ["left", "top", "right", "bottom"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(1)  # with which each image has a hottest box
    network = build_network("efficientnet_lite0", 2, weights=None)
    network[1][-1].weight.data.mul_(10)
    half = Normalization((0.5,) * 3, (0.5,) * 3)
    spec = ModelSpec("efficientnet_lite0", ("normal", "polyp"), Preprocessing(96, "crop"), half)
    learn = SimpleNamespace(model=network, spec=spec)
    return save_bundle(learn, tmp_path_factory.mktemp("saved") / "polyps.bundle")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(8):
        small = Image.fromarray(random.integers(0, 256, (6, 9, 3), np.uint8))
        small.resize((150, 100)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_pictures_and_boxes_are_written_in_the_files_own_pixels(saved, files, tmp_path):
    said: list[str] = []
    found = explain(saved, [files], tmp_path / "out", share=0.6, say=said.append)
    boxes = pd.read_csv(tmp_path / "out" / "boxes.csv").fillna({"problem": ""})
    assert len(boxes) == 9 and len(said) == 10
    assert [row.path for row in found] == boxes["path"].tolist() and found[0].box == tuple(boxes.loc[0, _EDGES])
    assert boxes["problem"].str.contains("not an image").tolist() == [False] * 8 + [True]
    bundle = load_bundle(saved)
    for row in boxes[:8].itertuples():
        answer = bundle.predict(row.path)
        assert row.label == answer.label and row.prob == pytest.approx(answer.probs[answer.label], abs=1e-5)
        assert (row.width, row.height) == (150, 100)
        expected = hottest_box(on_original(bundle.saliency(row.path), (100, 150), "crop"), 0.6)
        assert (row.left, row.top, row.right, row.bottom) == expected
        assert 25 <= row.left < row.right <= 125  # the middle square alone was looked at
        with Image.open(tmp_path / "out" / row.picture) as picture:
            shown = np.asarray(picture)
        with Image.open(row.path) as original:
            assert shown.shape == (100, 150, 3)
            assert np.array_equal(shown[:, :20], np.asarray(original)[:, :20])
            assert not np.array_equal(shown, np.asarray(original))


def test_pictures_do_not_lie_among_the_images_and_are_none_of_the_next_call(saved, files, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0.png", "1.png"):
        shutil.copy(files / name, images)
    with pytest.raises(OutputError, match=r"images holds images itself, such as 0\.png"):
        explain(saved, images, images)
    assert sorted(file.name for file in images.iterdir()) == ["0.png", "1.png"]
    for _ in range(2):
        found = explain(saved, images, images / "looked", overwrite=True)
        assert [Path(row.path).name for row in found] == ["0.png", "1.png"]


def test_a_map_that_is_too_coarse_is_refused_and_occlusion_named(files, tmp_path):
    spec = ModelSpec("efficientnet_lite0", ("a", "b"), Preprocessing(32), Normalization((0.5,) * 3, (0.5,) * 3))
    network = build_network("efficientnet_lite0", 2, weights=None)
    saved = save_bundle(SimpleNamespace(model=network, spec=spec), tmp_path / "small.bundle")
    with pytest.raises(MedclfError, match="has 1 x 1 places: too coarse to show where"):
        explain(saved, [files / "0.png"], tmp_path / "out")
    (found,) = explain(saved, [files / "0.png"], tmp_path / "out", method="occlusion")
    assert found.picture and found.picture.is_file()


def test_mistakes_are_named_before_anything_is_written(saved, files, tmp_path):
    for options, kind, word in (
        ({"label": "cancer"}, DataError, "cancer"),
        ({"share": 0}, DataError, "share"),
    ):
        with pytest.raises(kind, match=word):
            explain(saved, [files], tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="none of 1 files"):
        explain(saved, [files / "broken.png"], tmp_path / "out")
    with pytest.raises(OutputError, match=r"boxes\.csv exists already"):
        explain(saved, [files], tmp_path / "out")
    with pytest.raises(DataError, match="method 'lime'"):
        explain(saved, [files / "0.png"], tmp_path / "out", method="lime", overwrite=True)


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, MedclfError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_onnx_predicts_and_shows_the_same_and_int8_says_its_cost(saved, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = sorted(files.glob("[0-9].png"))
    expected = call("predict", saved, *images, "--csv")
    beside = saved.with_suffix(".onnx")
    call("export", saved, "--out", beside)
    for model, options in ((saved, ("--runtime", "onnx")), (beside, ())):
        said = call("predict", model, *images, "--csv", *options)
        rows, wanted = (pd.read_csv(io.StringIO(text)) for text in (said, expected))
        assert rows["label"].tolist() == wanted["label"].tolist()
        assert np.allclose(rows.filter(like="prob_"), wanted.filter(like="prob_"), atol=1e-4)
    model, bundle = OnnxModel(beside, threads=1), load_bundle(saved)
    for image in images[:3]:
        for label in bundle.vocab:
            assert np.allclose(model.saliency(image, label), bundle.saliency(image, label), atol=2e-3)
    with pytest.raises(DataError, match="int8 needs images"):
        call("export", saved, "--out", "int8.onnx", "--int8")
    data = [part for image in images for part in ("--data", image)]
    said = call("export", saved, "--out", "int8.onnx", "--int8", *data)
    assert "of 4 images" in said and Path("int8.onnx").stat().st_size < 0.4 * beside.stat().st_size
    assert OnnxModel("int8.onnx").predict(images[0]).label in bundle.vocab


def test_a_file_beside_that_is_of_another_bundle_is_refused(saved, files, tmp_path):
    shutil.copytree(saved, tmp_path / "other.bundle")
    described = tmp_path / "other.bundle" / "bundle.json"
    content = json.loads(described.read_text()) | {"card": {"made by": "someone else"}}
    content["hash"] = bundle_format.content_hash(content)
    described.write_text(json.dumps(content))
    beside = saved.with_suffix(".onnx")
    if not beside.exists():
        call("export", saved, "--out", beside)
    shutil.copy(beside, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match="was not exported from"):
        call("predict", tmp_path / "other.bundle", files / "0.png", "--runtime", "onnx")
    with pytest.raises(MedclfError, match="runtime must be torch or onnx"):
        call("predict", saved, files / "0.png", "--runtime", "tpu")
